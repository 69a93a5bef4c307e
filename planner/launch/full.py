"""Prepare a full-size run in its folder: its stages, and how it is carried out. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.flops import FORWARD_SHARE
from planner.launch.launch import Launch, begin, steps_between_states
from planner.recipe import Recipe
from planner.runs import read_run
from planner.sweep import Sweep
from planner.train.full.forecast_curve import ForecastCurve, evaluation_steps
from planner.train.full.plan import FAILURE_FILE, STOP_FILE, FullRun, Settings, rows_of_rank
from planner.train.job import Job, record_path

MICRO_TOKENS = 16384
"""Tokens of a GPU's micro-batch by default, at most; fewer if its memory is too small (`planner.train.full.gpu_memory`)."""
EVALUATION_SHARE = 0.05
"""Share of the run's compute that evaluations before its end may take."""
MOST_EVALUATIONS = 40


def stages(run: Sweep, *, device: str, threads: int) -> tuple[Job, ...]:
    """Return one job a stage of the run, each of the whole stage."""
    last = {segment.stage: segment for segment in run.tree.segments}  # the later segment of a stage wins: the tip has the cooldown
    return tuple(run.job(replace(segment, first_step=0, parent_id=None), device=device, threads=threads) for segment in last.values())


def settle(run: Sweep, ranks: int, settings: Settings, trunk: str | None = None) -> FullRun:
    """Fill in what was left open: micro-batch, evaluations before the end.

    Args:
        run: the run.
        ranks: processes that train it.
        settings: as asked for.
        trunk: name of its trunk's launch folder, beside its own.

    Raises:
        InputError: the batch or the copies of the model do not fit the ranks.
    """
    recipe = run.spec.recipe
    settings = _settled(recipe, ranks, settings)
    full = FullRun(stages(run, device=settings.device, threads=settings.threads), settings, trunk)
    # Every rank evaluates all of it.
    own = full.steps - full.begins_at
    affordable = EVALUATION_SHARE * own * recipe.tokens_per_step / (FORWARD_SHARE * run.spec.eval_tokens * ranks)
    found = evaluation_steps(own, full.cooldown_from - full.begins_at, min(MOST_EVALUATIONS, int(affordable)))
    return replace(full, settings=replace(settings, evaluate_at=tuple(full.begins_at + step for step in found)))


def settle_trunk(run: Sweep, forks: Sequence[int], ranks: int, settings: Settings) -> FullRun:
    """Lay out the general stage that several runs branch off: that of one of them, up to the last fork, without a cooldown.

    Raises:
        InputError: see `settle`.
    """
    first, settings = run.tree.segments[0], _settled(run.spec.recipe, ranks, settings)
    last = max(forks)
    whole = replace(first, segment_id=f"trunk-{last}", first_step=0, last_step=last, parent_id=None, cell=None, cooldown_from=None, cooldown_to=None)
    job = replace(run.job(first, device=settings.device, threads=settings.threads), segment=whole, parent_state=None)
    return FullRun((job,), settings, forks=tuple(forks))


def _settled(recipe: Recipe, ranks: int, settings: Settings) -> Settings:
    first, end = rows_of_rank(recipe.batch_sequences, 0, ranks)
    if settings.micro_batch is not None and settings.micro_batch > end - first:
        raise InputError(
            f"a micro-batch of {settings.micro_batch} sequences is more than the {end - first} that each of {ranks} ranks has per step",
            remedy=f"give --micro-batch {end - first} or less",
        )
    if ranks % (settings.shard_ranks or ranks):
        raise InputError(
            f"{ranks} ranks cannot be split into copies of {settings.shard_ranks} ranks each", remedy="give --shard-ranks a number that divides the ranks"
        )
    if settings.micro_batch is None and settings.device == "cuda":
        return replace(settings, micro_batch=max(1, min(end - first, MICRO_TOKENS // recipe.seq_len)), fit_micro_batch=True)
    return settings


def default_save_every(run: Sweep) -> int:
    """Return the default number of steps between two states."""
    return steps_between_states(sum(run.tree.tips[0].steps_by_stage))


def lay_down(launch: Launch, run: FullRun, along: ForecastCurve) -> None:
    """Write all that the ranks read into the launch folder.

    Raises:
        StateError: the folder holds a run of another allocation.
    """
    begin(launch)
    lay_run(launch.folder, run, along)


def lay_run(folder: Path, run: FullRun, along: ForecastCurve | None) -> None:
    """Write what the ranks of a run read into its folder, and delete leftovers of an earlier start."""
    folder.mkdir(exist_ok=True)
    for name in (STOP_FILE, FAILURE_FILE):
        (folder / name).unlink(missing_ok=True)
    run.save(folder)
    if along is not None:
        along.save(folder)


def outcome(launch: Launch) -> dict[str, Any] | None:
    """Return the row of the run's record, if it has ended."""
    path = record_path(launch.folder, launch.name)
    return dict(read_run(path)["row"]) if path.exists() else None
