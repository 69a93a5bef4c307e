"""Lays small runs down and starts their ranks: here, forked, or by torchrun."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from planner.allocate.allocation import Allocation, Plan
from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.launch import runners
from planner.launch.forecast_curve import forecast_curve
from planner.launch.full import lay_down, settle
from planner.launch.launch import Launch, prepare
from planner.lock import _start
from planner.pretrained import Pretrained
from planner.recipe import Recipe
from planner.train.full.main import Ending, train
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import Settings
from tests.conftest import TINY_RECIPE
from tests.train.full.entry import rank

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
    lay_down(ready, run, forecast_curve(ready, run, None))
    return ready


def run_here(folder: Path, *, stop_at: int | None = None) -> bool:
    """Run the one rank in this process, to the end or until a step is done."""
    before = torch.get_num_threads()
    try:
        return train(folder, lambda: stop_at is not None and at(folder) >= stop_at - 1) is Ending.DONE  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["planner.train.preload", "torch.distributed.fsdp", "peft", "tests.train.full.entry"])


class Forked:
    """Ranks that are forked off a process that has imported what they need, as torchrun would start them: that takes tenths of a second, not ten."""

    def __init__(self, folder: Path, faults: dict[str, Any], ranks: int, environment: dict[str, str] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
        each = [{**told, "RANK": str(n), "LOCAL_RANK": str(n)} if ranks > 1 else {} for n in range(ranks)]  # one rank is told none of that
        self.ranks = [FORKS.Process(target=rank, args=(folder, faults, {**(environment or {}), **own})) for own in each]
        with pytest.MonkeyPatch.context() as patch:  # for the process that is forked, which the first of all starts
            patch.setenv("PYTHONPATH", str(ROOT))
            for process in self.ranks:
                process.start()

    def poll(self) -> int | None:
        """Return how they ended, with those that wait for one that has failed; None while they train."""
        codes = [process.exitcode for process in self.ranks]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            self.kill()
        return failed or (None if None in codes else 0)

    def wait(self, timeout: float) -> int:
        """Wait for their end."""
        ends = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < ends, "the ranks do not end"
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        """Kill them all, as the kernel does when memory runs out."""
        for process in self.ranks:
            process.kill()
        for process in self.ranks:
            process.join()


class Launched(Forked):
    """The ranks that `plan launch` starts on this machine; takes the place of `subprocess.Popen` there."""

    def __init__(self, command: list[str], *, env: dict[str, str], **_: object) -> None:
        ranks = int(command[command.index("--nproc-per-node") + 1]) if "--nproc-per-node" in command else 1
        super().__init__(Path(command[-1]).absolute(), {}, ranks, env)

    returncode = property(Forked.poll)


@contextmanager
def forks() -> Iterator[None]:
    """Let `plan launch` fork its ranks: for what it does with them, not how they begin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "subprocess", SimpleNamespace(Popen=Launched))
        yield


def start(folder: Path, faults: dict[str, Any] | None = None) -> Forked:
    """Start two ranks."""
    return Forked(folder, faults or {}, 2)


class Torchrun:
    """The same by torchrun itself."""

    def __init__(self, folder: Path, faults: dict[str, Any] | None = None) -> None:
        program = [str(Path(__file__).with_name("entry.py")), str(folder), json.dumps(faults or {})]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True, cwd=folder)
        self.poll, self.wait, self.send_signal = self.process.poll, self.process.wait, self.process.send_signal

    def kill(self) -> None:
        """Kill torchrun and all of its ranks."""
        process = self.process
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # torchrun gives each a process group of its own
        os.killpg(process.pid, signal.SIGKILL)
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        process.wait()
        while any(_start(int(pid)) is not None for pid in ranks):
            time.sleep(0.05)


def finish(folder: Path, process: Forked | Torchrun) -> None:
    """Wait for ranks that must end well."""
    assert process.wait(timeout=300) == 0, (folder / "log.txt").read_text()[-3000:]


def at(folder: Path) -> int:
    """Return the last step in the metrics."""
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "step"]
    return steps[-1] if steps else 0


def wait_for(folder: Path, process: Forked | Torchrun, step: int) -> None:
    """Wait until ranks have done a step."""
    ends = time.monotonic() + 300
    while at(folder) < step:
        assert process.poll() is None and time.monotonic() < ends, (folder / "log.txt").read_text()[-3000:]
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
