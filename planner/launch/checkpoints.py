"""Export the endpoints of a sweep as checkpoints, and adapters separately, if the sweep was run with its last states kept."""

from __future__ import annotations

import warnings
from pathlib import Path

from planner.errors import PlannerWarning, StateError
from planner.lock import locked
from planner.runs import read_run
from planner.sweep import Sweep
from planner.train.job import record_path


def export_endpoints(sweep: Sweep) -> tuple[list[Path], dict[str, StateError]]:
    """Write a checkpoint for each finished endpoint of a sweep that has none yet; states no longer needed are deleted.

    Returns:
        The folders of all checkpoints, new and old; and by endpoint, the error where a state cannot be read.

    Raises:
        StateError: another process runs the sweep.
    """
    with locked(sweep.folder, "checkpoints"):
        return _export(sweep)


def _export(sweep: Sweep) -> tuple[list[Path], dict[str, StateError]]:
    from planner.train.export import export_checkpoint

    found: list[Path] = []
    failed: dict[str, StateError] = {}
    lacking, used = 0, set()
    for tip in sweep.tree.tips:
        out, job = sweep.folder / "checkpoints" / tip.segment_id, sweep.job(tip)
        record = record_path(sweep.folder, tip.segment_id)
        if not out.exists() and record.exists() and read_run(record)["row"]["status"] == "ok":
            if not job.state_path.exists():
                lacking += 1
                continue
            out.parent.mkdir(exist_ok=True)
            try:
                export_checkpoint(job, sweep.corpus, out, out.parent.with_name("adapters") / tip.segment_id)
            except StateError as error:
                remedy = f"delete {record} and {job.state_path}; the same command then trains it again"
                failed[tip.segment_id] = StateError(error.message, remedy=remedy)
                continue
            job.state_path.unlink()
            used.add(job.frozen_state)
        if out.exists():
            found.append(out)
    waiting = {sweep.job(tip).frozen_state for tip in sweep.tree.tips if sweep.job(tip).state_path.exists()}
    for state in used - waiting:
        if state is not None and state.is_relative_to(sweep.folder):
            state.unlink(missing_ok=True)
    if lacking:
        warnings.warn(f"{lacking} endpoints get no checkpoint: they were trained without --checkpoints and left no state", PlannerWarning, stacklevel=3)
    return found, failed
