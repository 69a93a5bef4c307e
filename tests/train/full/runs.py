"""Lays small runs down and starts their ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from planner.allocate.allocation import Allocation, Plan
from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.launch.course import course
from planner.launch.full import lay_down, settle
from planner.launch.launch import Launch, prepare
from planner.lock import _start
from planner.pretrained import Pretrained
from planner.recipe import Recipe
from planner.train.full.main import Ending, train
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import Settings
from tests.conftest import TINY_RECIPE

ROOT = Path(__file__).parents[3]
GENERAL, SPECIAL = 40, 32
STEPS = GENERAL + SPECIAL
RECIPE = replace(TINY_RECIPE, batch_sequences=4, warmup_steps=10)
SETTINGS = Settings(save_every=10, keep=3)


def allocation(corpus: Corpus, recipe: Recipe = RECIPE) -> Allocation:
    """Plan 40 general and 32 specialist steps for a model of 10k parameters."""
    shape = shape_for(1e4, family=recipe.family, vocab=corpus.vocab_size)
    pt, spec, size = GENERAL * float(recipe.tokens_per_step), SPECIAL * float(recipe.tokens_per_step), float(shape.params_non_embedding)
    unique = float(corpus.subset("mail", 3000).size)
    flops = (pt + spec) * flops_per_token(shape, recipe.seq_len)
    plan = Plan(
        size, float(shape.params_total), pt, spec, unique, spec / unique, spec / (pt + spec), flops, 6 * size * (pt + spec), 5.0, 4.0, 5.6, shape.to_dict()
    )  # fmt: skip
    source = {
        "recipe": recipe.to_dict(), "vocab_size": corpus.vocab_size, "corpus": corpus.fingerprint, "corpus_path": str(corpus.folder), "domain": "mail",
        "eval_tokens": 640,
    }  # fmt: skip
    span = (0.4, 0.5)
    return Allocation({}, plan, plan, span, (size, size), span, (size, size), 0.1, 0.2, (), {"flops": 1.0}, (), {"share": [], "loss": []}, source)


def adapted(corpus: Corpus, base: Path, recipe: Recipe = RECIPE, method: str = "lora-both") -> Allocation:
    """Plan the same steps with one set of adapters on an open checkpoint."""
    answer, shape = allocation(corpus, recipe), Pretrained.open(base).shape
    plan = replace(answer.plan, params_non_embedding=float(shape.params_non_embedding), params_total=float(shape.params_total), shape=shape.to_dict())
    return replace(answer, plan=plan, source={**answer.source, "method": method, "based": True})


def lay(
    folder: Path, corpus: Corpus, ranks: int = 1, settings: Settings = SETTINGS, recipe: Recipe = RECIPE, base: Path | None = None,
    method: str | None = None,
) -> Launch:  # fmt: skip
    """Lay a run down, or change how it goes on: in full by default, and on a base under one set of adapters."""
    path = folder.parent / f"{folder.name}.json"
    if not path.exists():
        fresh = allocation(corpus, recipe)
        answer = adapted(corpus, base, recipe, method or "lora-both") if base else replace(fresh, source={**fresh.source, "method": method or "full"})
        answer.save(path, {})
    ready = prepare(path, folder, base=base)
    run = settle(ready.run, ranks, settings)
    lay_down(ready, run, course(ready, run, None))
    return ready


def run_here(folder: Path, *, stop_at: int | None = None) -> bool:
    """Run the one rank in this process, to the end or until a step is done."""
    before = torch.get_num_threads()
    try:
        return train(folder, lambda: stop_at is not None and at(folder) >= stop_at - 1) is Ending.DONE  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


def start(folder: Path, faults: dict[str, Any] | None = None, ranks: int = 2) -> subprocess.Popen[bytes]:
    """Start ranks with torchrun, in a process group of their own."""
    program = [str(Path(__file__).with_name("entry.py")), str(folder), json.dumps(faults or {})]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder)


def finish(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for ranks that must end well."""
    assert process.wait(timeout=300) == 0, (folder / "log.txt").read_text()[-3000:]


def at(folder: Path) -> int:
    """Return the last step in the metrics."""
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]
    return steps[-1] if steps else 0


def wait_for(folder: Path, process: subprocess.Popen[bytes], step: int) -> None:
    """Wait until ranks have done a step."""
    ends = time.monotonic() + 300
    while at(folder) < step:
        assert process.poll() is None and time.monotonic() < ends, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill torchrun and all of its ranks, as the kernel does when memory runs out."""
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # torchrun gives each a process group of its own
    os.killpg(process.pid, signal.SIGKILL)
    for rank in ranks:
        with suppress(ProcessLookupError):
            os.kill(int(rank), signal.SIGKILL)
    process.wait()
    while any(_start(int(rank)) is not None for rank in ranks):
        time.sleep(0.05)


def steps_of(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the steps in the metrics, each of which must stand there once."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]
    found = {line["step"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def losses(folder: Path) -> list[float]:
    """Return the training losses of a whole run."""
    found = steps_of(folder)
    assert list(found) == list(range(1, STEPS + 1))
    return [found[step]["loss"] for step in found]


def row(folder: Path) -> dict[str, Any]:
    """Return the row of the run's record."""
    return dict(read_json(next((folder / "records").iterdir()))["row"])
