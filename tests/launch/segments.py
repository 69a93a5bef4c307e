"""A launched run trained in the sweep's own way, segment by segment: what the ranks are held against."""

from __future__ import annotations

from typing import Any

from planner.engines.local import LocalEngine
from planner.launch.launch import Launch, begin
from planner.runs import read_run
from planner.sweep import Engine, run_sweep
from planner.train.job import record_path


def carry_out(launch: Launch, engine: Engine | None = None) -> dict[str, Any]:
    """Train the run, or go on with it, and save its checkpoint; return the row of its record."""
    begin(launch)
    path = record_path(launch.folder, launch.name)
    if not path.exists() or not launch.checkpoint.exists():
        assert run_sweep(launch.run, engine or LocalEngine(1), keep_state=True) == {}
    row: dict[str, Any] = read_run(path)["row"]
    if row["status"] == "ok" and not launch.checkpoint.exists():
        _save_checkpoint(launch)
    return row


def _save_checkpoint(launch: Launch) -> None:
    from planner.train.export import export_checkpoint

    job = launch.run.job(launch.run.tree.tips[0])
    export_checkpoint(job, launch.run.corpus, launch.checkpoint, launch.folder / "adapter")
    for state in (job.state_path, job.frozen_state):
        if state is not None:
            state.unlink()
