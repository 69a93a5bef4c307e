"""The lock of a launch folder: the first rank locks the folder of its states while it trains, wherever it runs. Imports no torch.

A runner's own lock ends with the runner, but ranks outlive a killed runner; ranks started by Slurm, or with torchrun by hand, have no runner.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from planner.errors import StateError
from planner.lock import NAME, describe, elsewhere, gone, holder_of, locked
from planner.train.full.plan import STATES_FOLDER, STOP_FILE

PATIENCE = 30.0
"""Seconds that a restart waits for the first rank of the previous start to end."""


def start_name(environment: Mapping[str, str], *, slurm: bool) -> str:
    """Name what started the ranks; a requeued Slurm job keeps its name, and no other job has it."""
    if slurm:
        job = ".".join(environment.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return f"slurm, job {job}" + (f" of {environment['SLURM_CLUSTER_NAME']}" if "SLURM_CLUSTER_NAME" in environment else "")
    return "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "local"


@contextmanager
def run_lock(folder: Path, name: str, *, restarts: bool) -> Iterator[None]:
    """Hold the lock of a launch folder while its first rank trains.

    Args:
        folder: the launch folder.
        name: what started the ranks.
        restarts: whether the starter of that name restarts ranks, and only after ending the previous ones: a lock of that name is then stale, even
            if its holder was killed on another machine.

    Raises:
        StateError: ranks of another start train there; the message names the first of them.
    """
    states = folder / STATES_FOLDER
    until = time.monotonic() + PATIENCE
    while restarts and (before := holder_of(states)) is not None and before.get("engine") == name:
        if gone(before):
            break
        if elsewhere(before) or time.monotonic() > until:
            (states / NAME).unlink(missing_ok=True)
            break
        time.sleep(0.1)
    check_free(folder)
    with locked(states, name):
        yield


def check_free(folder: Path) -> None:
    """Refuse a launch folder in which ranks train, or may be training on another machine.

    Raises:
        StateError: they do; the message names the first of them.
    """
    holder = holder_of(folder / STATES_FOLDER)
    if holder is None or gone(holder):
        return
    remedy = f"wait for it, or create the file {folder / STOP_FILE} to make it save a state and end"
    if elsewhere(holder):
        remedy += f"; if that machine, container or job is gone, delete {folder / STATES_FOLDER / NAME}"
    raise StateError(f"{folder} is being trained by {describe(holder)}", remedy=remedy)
