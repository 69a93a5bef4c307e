"""Lay a full-size run down in its folder: its stages, how it is carried out, and the forecast along it. Imports no torch."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.allocate.base import VOCAB, Base
from planner.allocate.replay_cost import cost, cost_on_top, dearer
from planner.artifacts import read_json, sha256_file
from planner.errors import InputError, PlannerWarning
from planner.fit.fitted import FittedLaw
from planner.flops import FORWARD_SHARE
from planner.ladder import shape_for
from planner.launch.launch import Launch, begin, steps_between_states
from planner.runs import read_run
from planner.train.full.expect import Course, Expected, evaluation_steps
from planner.train.full.plan import FAILURE_FILE, STOP_FILE, FullRun, Settings, latest_step, rows_of_rank
from planner.train.job import record_path

MICRO_TOKENS = 16384
"""Tokens of a GPU's micro-batch, at most, where none is asked for."""
EVALUATION_SHARE = 0.05
"""Share of the run's compute that evaluations on the way may take."""
MOST_EVALUATIONS = 40


def stages(launch: Launch, *, device: str, threads: int) -> tuple[Any, ...]:
    """Return one job a stage of the run, each of the whole stage."""
    last = {segment.stage: segment for segment in launch.run.tree.segments}  # the later segment of a stage wins: the tip has the cooldown
    return tuple(launch.run.job(replace(segment, first_step=0, parent_id=None), device=device, threads=threads) for segment in last.values())


def settle(launch: Launch, ranks: int, settings: Settings) -> FullRun:
    """Fill in what was left open: micro-batch, evaluations on the way.

    Args:
        launch: the run.
        ranks: processes that train it.
        settings: as asked for.

    Raises:
        InputError: the batch or the copies of the model do not fit the ranks.
    """
    recipe = launch.run.spec.recipe
    first, end = rows_of_rank(recipe.batch_sequences, 0, ranks)
    if settings.micro_batch is not None and settings.micro_batch > end - first:
        raise InputError(
            f"a micro-batch of {settings.micro_batch} sequences is more than the {end - first} that each of {ranks} ranks has in a step",
            remedy=f"give --micro-batch {end - first} or less",
        )
    if ranks % (settings.shard_ranks or ranks):
        raise InputError(
            f"{ranks} ranks cannot be cut into copies of {settings.shard_ranks} ranks each", remedy="give --shard-ranks a number that divides the ranks"
        )
    if settings.micro_batch is None and settings.device == "cuda":
        settings = replace(settings, micro_batch=max(1, min(end - first, MICRO_TOKENS // recipe.seq_len)))
    run = FullRun(stages(launch, device=settings.device, threads=settings.threads), settings)
    # Every rank evaluates all of it.
    affordable = EVALUATION_SHARE * run.steps * recipe.tokens_per_step / (FORWARD_SHARE * launch.run.spec.eval_tokens * ranks)
    count = min(MOST_EVALUATIONS, int(affordable))
    return replace(run, settings=replace(settings, evaluate_at=evaluation_steps(run.steps, run.cooldown_from, count)))


def default_save_every(launch: Launch) -> int:
    """Return the steps between two states where none are asked for."""
    tip = launch.run.tree.tips[0]
    steps = tip.last_step + (tip.steps_pt if tip.stage == "special" else 0)
    return steps_between_states(steps)


def find_law(launch: Launch, law: Path | None) -> FittedLaw | None:
    """Return the law that the plan was made with, where it is at hand.

    Args:
        launch: the run; its allocation names the law.
        law: where it is now, if it has moved.

    Raises:
        InputError: the law given is another one.
    """
    named = launch.allocation.source.get("law_path")
    path = law or (launch.allocation_path.parent / named if named else None)
    if path is None or (law is None and not path.exists()):
        return None
    made_with = read_json(launch.allocation_path).get("inputs", {}).get("law")
    if made_with is not None and sha256_file(path) != made_with:
        if law is not None:
            raise InputError(f"{law} is not the law that the plan was made with", remedy="give that one, or leave --law away")
        warnings.warn(f"{path} has changed since the plan was made: the forecast along the run is left out", PlannerWarning, stacklevel=2)
        return None
    return FittedLaw.load(path)


def course(launch: Launch, run: FullRun, law: FittedLaw | None) -> Course:
    """Forecast the specialist loss of cooling down after each evaluation on the way, and of the run's own endpoint as the plan has it."""
    plan, recipe = launch.allocation.plan, run.recipe
    total = float(run.steps * recipe.tokens_per_step)
    end = Expected(run.steps, total, plan.loss, plan.loss_low, plan.loss_high)
    at = [step for step in run.settings.evaluate_at if step < run.steps]
    if law is None or not at:
        return Course((end,), "the plan")
    tokens = np.array(at, dtype=float) * recipe.tokens_per_step
    special = run.last.segment.stage == "special"
    trunk = float((run.last.segment.steps_pt if special else run.last.segment.last_step) * recipe.tokens_per_step)
    stage = np.maximum(0.0, tokens - trunk)
    replay = np.where(stage > 0, launch.allocation.replay_fraction, 0.0)
    params: dict[str, Any] = {
        "non_embedding": np.full(len(at), plan.params_non_embedding), "total": np.full(len(at), _params_total(launch, law)),
    }  # fmt: skip
    unique = np.full(len(at), plan.unique_spec if plan.unique_spec > 0 else np.nan)
    before, spec = launch.sunk + np.minimum(tokens, trunk), (1 - replay) * stage
    found = law.forecast(params, before + replay * stage, spec, unique, mean=True)
    if plan.replay_fraction:  # a plan of a version that counted nothing for it has none here
        bare = law.forecast(params, before, spec, unique, mean=True)
        found = dearer(found, cost_on_top(replay, np.log(found.loss), np.log(bare.loss)) if launch.sunk else cost(replay))
    points = [Expected(*row) for row in zip(at, tokens.tolist(), found.loss.tolist(), found.low.tolist(), found.high.tolist(), strict=True)]
    return Course((*points, end), "the law that the plan was made with")


def _params_total(launch: Launch, law: FittedLaw) -> float:
    """Return the parameters that the plan was forecast with: a base's count with the law's vocabulary (`Base.params_total`), other plans' as they are."""
    plan = launch.allocation.plan
    if plan.params_total is None:
        return math.nan
    if not launch.sunk:
        return plan.params_total
    # A base that was given by its size alone was planned with the ladder's shape.
    shape = plan.model_shape if plan.shape is not None else shape_for(plan.params_non_embedding, family="llama", vocab=VOCAB)
    return float(Base("", launch.sunk, shape, True).params_total(law.source.get("vocab_size")))


def lay_down(launch: Launch, run: FullRun, along: Course) -> None:
    """Write all that the ranks read into the launch folder.

    Raises:
        StateError: the folder holds a run of another allocation.
    """
    begin(launch)
    for name in (STOP_FILE, FAILURE_FILE):
        (launch.folder / name).unlink(missing_ok=True)
    run.save(launch.folder)
    along.save(launch.folder)


def saved_step(folder: Path) -> int:
    """Return the step of the latest state, 0 where there is none."""
    return max(0, latest_step(folder))


def outcome(launch: Launch) -> dict[str, Any] | None:
    """Return the row of the run's record, if it has ended."""
    path = record_path(launch.folder, launch.name)
    return dict(read_run(path)["row"]) if path.exists() else None
