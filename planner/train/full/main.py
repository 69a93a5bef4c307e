"""One rank of a full-size run: reads what `plan launch` wrote and trains; the first rank writes record and checkpoint.

torchrun --standalone --nproc-per-node 2 -m planner.train.full launches/first
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from planner.artifacts import read_json, write_artifact, write_text
from planner.errors import PlannerError, StateError
from planner.lock import gone
from planner.pretrained import Pretrained
from planner.train.allocator import tune_allocator
from planner.train.checkpoint import LoopState, save_tensors
from planner.train.export import export_checkpoint
from planner.train.full.gpu_memory import micro_batch_that_fits
from planner.train.full.loop import Training
from planner.train.full.mesh import Ranks, join, leave
from planner.train.full.plan import FAILURE_FILE, FILE, HALTED, RUNNER, STOP_FILE, STOPPED, FullRun, latest_step
from planner.train.full.run_lock import run_lock, start_name
from planner.train.full.shard import gathered
from planner.train.job import Job, state_path
from planner.train.record import write_record
from planner.train.segment import Diverged, evaluate

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Each asks the run to save a state and end. Slurm sends the last one before its time limit."""
LOOK_EVERY = 1.0
"""Seconds between two looks for the stop file, which may lie on a slow file system."""
FAILED = 2
"""Exit code after an error that the user can correct."""


class Ending(Enum):
    """How a rank has ended."""

    DONE = "done"
    """The run has its record."""
    STOPPED = "stopped"
    """A signal stopped it, with a state saved: under Slurm it resumes by itself."""
    STOPPED_BY_FILE = "stopped by file"
    """The stop file stopped it, with a state saved: it resumes when somebody starts it."""
    HALTED = "halted"
    """The stop file stopped a trunk: jobs that wait for it must not begin."""


def _runner() -> dict[str, Any] | None:
    """Read from the environment which process of `plan launch` started torchrun; None if it is unset or malformed."""
    try:
        found = json.loads(os.environ.get(RUNNER, "null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


class Stopper:
    """Tells whether this rank is to stop: by a signal, by the stop file, or because the process that started it, or `plan launch` above that, is gone."""

    def __init__(self, path: Path) -> None:
        self._path, self._asked, self._looked, self._missed = path, False, 0.0, 0
        self._parent = os.getppid()
        self._runner = _runner()

    def listen(self) -> None:
        """Take signals from now on; only a process's main thread can."""
        for number in SIGNALS:
            signal.signal(number, self._hear)

    def __call__(self) -> bool:
        """Tell whether to stop."""
        if not self._asked and time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            # A rank whose starter was killed must not train on beside the rank of the next start. The command above torchrun must be
            # missed twice in a row, since a single failed look would end a run of days.
            self._missed = self._missed + 1 if self._runner is not None and gone(self._runner) else 0
            self._asked = self._path.exists() or os.getppid() != self._parent or self._missed > 1
        return self._asked

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; return its exit code."""
    parser = argparse.ArgumentParser(prog="planner.train.full", description="One rank of a run that plan launch prepared.")
    parser.add_argument("folder", type=Path, help="launch folder")
    parser.add_argument("--slurm", action="store_true", help="take rank and number of ranks from srun instead of torchrun")
    told = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    stop = Stopper(told.folder / STOP_FILE)
    stop.listen()
    try:
        ended = run_rank(told.folder, stop, slurm=told.slurm)
        code = STOPPED if ended is Ending.STOPPED else HALTED if ended is Ending.HALTED else 0
        if not (told.slurm and code):
            return 0
        # When the first rank exits with this code, srun sends SIGTERM to the others. A rank killed by it while exiting would hide the code from
        # the batch script. Python drops its own handlers before the process ends, but SIG_IGN stays.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return code
    except PlannerError as error:
        logging.error("error: %s", error)
        return FAILED
    except Exception:  # the other ranks wait for this one in vain; the log must say why
        logging.error("%s", traceback.format_exc())
        return 1


def run_rank(folder: Path, stop: Stopper, *, slurm: bool = False, start: str | None = None) -> Ending:
    """Run `train`, and write any error to a file for the process that started the ranks.

    Raises:
        PlannerError: see `train`; or the GPU's memory ran out.
    """
    try:
        try:
            return train(folder, stop, slurm=slurm, start=start)
        except torch.OutOfMemoryError as error:
            said = str(error).strip().partition(". ")[0]
            remedy = "give a smaller --micro-batch, --checkpoint-activations, or more --ranks; the same command continues from the latest state"
            raise StateError(f"the GPU's memory ran out: {said}", remedy=remedy) from error
    except PlannerError as error:
        if (folder / FILE).exists():  # neither create a mistyped folder nor write into one that is no launch
            write_text(folder / FAILURE_FILE, f"{error.message}\n{error.remedy}\n")
        raise


def train(folder: Path, stop: Stopper, *, slurm: bool = False, start: str | None = None) -> Ending:
    """Train the run in a launch folder on this rank, to its record and checkpoint, or until it is asked to stop.

    Args:
        folder: the launch folder.
        stop: asked after every step whether to stop.
        slurm: whether srun started this rank.
        start: name of a starter that restarts lost ranks; by default it is read from the environment.

    Raises:
        PlannerError: see `Training`, `join` and `check_base`; or ranks of another start train there.
    """
    run = FullRun.load(folder)
    tune_allocator()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose: one process saves its state alone
    torch.set_num_threads(run.settings.threads)
    ranks = join(run.settings, os.environ, slurm=slurm)
    with ExitStack() as held_until_end:
        refusal = None
        if ranks.first:
            try:
                name = start or start_name(os.environ, slurm=slurm)
                held_until_end.enter_context(run_lock(folder, name, restarts=slurm or start is not None))
                check_base(run.last)
            except PlannerError as error:
                refusal = error
        refusal = ranks.told(refusal)  # the others must not wait for a first rank that has left
        if refusal is not None:
            raise refusal
        lost = ranks.told(_lost(run, folder) if ranks.first else None)
        if lost is not None:
            leave()
            if ranks.first:
                write_record(run.last, None, {}, status="diverged", reason=lost)
            return Ending.DONE
        return _train(_fitted(run, ranks), folder, ranks, stop)


def _fitted(run: FullRun, ranks: Ranks) -> FullRun:
    """Return the run with a micro-batch that fits the first rank's GPU: the same on all ranks, so that their collectives match."""
    if not run.settings.fit_micro_batch or ranks.device.type != "cuda":
        return run
    count = ranks.told(micro_batch_that_fits(run, ranks.world, torch.cuda.mem_get_info()[1]) if ranks.first else None)
    if ranks.first and count != run.settings.micro_batch:
        logging.info("micro-batch of %d sequences instead of %s: the GPU has no memory for more", count, run.settings.micro_batch)
    return replace(run, settings=replace(run.settings, micro_batch=count))


def _lost(run: FullRun, folder: Path) -> str | None:
    """Return why the trunk of a run diverged, if it did: the run cannot be trained then. A run that has begun no longer needs its trunk."""
    noted = None if run.trunk is None or latest_step(folder) >= 0 else FullRun.load(folder.parent / run.trunk).last.diverged_path
    return str(read_json(noted)["reason"]) if noted is not None and noted.exists() else None


def check_base(job: Job) -> None:
    """Refuse an open checkpoint other than the one that the run was begun on: its files may have been replaced.

    Raises:
        InputError: it is gone.
        StateError: it is another one.
    """
    if job.base is None:
        return
    found, begun_on = Pretrained.open(job.base).fingerprint, job.labels["base"]
    if found != begun_on:
        what = f"base {job.base} has fingerprint {found}, but the run was begun on {begun_on}"
        raise StateError(what, remedy="restore it, or start over with another --out")


def _train(run: FullRun, folder: Path, ranks: Ranks, stop: Stopper) -> Ending:
    training = Training(run, folder, ranks, stop=stop)
    job = run.last
    try:
        if not training.go():
            training.close()
            by_file = taken(folder / STOP_FILE, ranks)
            leave()  # exiting with process groups open may abort, and would hide the exit code from Slurm's script
            return Ending.STOPPED if not by_file else Ending.HALTED if run.forks else Ending.STOPPED_BY_FILE
        losses = {} if run.forks else evaluate(job, training.corpus, training.model, ranks.device, run.settings.micro_batch)
    except Diverged as error:
        training.close()
        leave()
        if ranks.first and run.forks:
            write_artifact(job.diverged_path, "diverged", 1, {"reason": str(error)})
        elif ranks.first:
            write_record(job, training.seconds, {}, status="diverged", reason=str(error))
        return Ending.DONE
    training.close()
    if run.forks:  # branches go on from its states
        leave()
        return Ending.DONE
    weights = gathered(training.model, ranks)
    corpus, seconds, steps = training.corpus, training.seconds, training.step
    del training
    leave()  # only one rank works from here on, and the others must not wait for it in a collective
    if ranks.first:
        state = state_path(folder, job.segment.segment_id)
        save_tensors(state, weights, LoopState(optimiser_steps=steps, seconds=seconds))
        export_checkpoint(replace(job, state_path=state), corpus, folder / "checkpoint", folder / "adapter")
        state.unlink()
        write_record(job, seconds, losses, status="ok", reason=None)
        if job.frozen_state is not None:  # until the record is written, a restart may need it
            job.frozen_state.unlink(missing_ok=True)
    return Ending.DONE


def taken(stop: Path, ranks: Ranks) -> bool:
    """Tell whether any rank sees the stop file, and delete it: it has been obeyed, and the next start must not stop at once."""
    seen = ranks.total(float(stop.exists()))[0] > 0  # on a network file system one rank may see it before another
    if seen and ranks.first:
        stop.unlink(missing_ok=True)
    return seen
