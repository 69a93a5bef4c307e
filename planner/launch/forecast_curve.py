"""The forecast along a run: its final loss if it cooled down at once. Imports no torch."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.allocate.base import VOCAB, Base
from planner.allocate.domains.answer import DomainPlan
from planner.allocate.replay_cost import cost, cost_on_top, dearer
from planner.artifacts import read_json, sha256_file
from planner.errors import InputError, PlannerWarning
from planner.fit.fitted import FittedLaw
from planner.ladder import shape_for
from planner.launch.launch import Launch
from planner.train.full.forecast_curve import Expected, ForecastCurve
from planner.train.full.plan import FullRun


@dataclass(frozen=True)
class Forecasted:
    """A plan's forecast of its run, and the quantities that went into it."""

    loss: float
    """Specialist loss of the endpoint [nats/token], with its 90 % interval."""
    low: float
    high: float
    params_non_embedding: float
    params_total: float
    """As the law counts it."""
    unique_spec: float
    replay_fraction: float = 0.0
    """Share of general text in the specialist stage."""
    replay_costs: bool = False
    """Whether the plan's forecast includes the cost of replay."""
    sunk: float = 0.0
    """General tokens already in its open checkpoint."""


def find_law(launch: Launch, law: Path | None) -> FittedLaw | None:
    """Return the law that the plan was made with, if it can be found.

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
    if law is None:
        return FittedLaw.load(path) if unchanged(path, made_with) else None
    found = FittedLaw.load(law)
    if made_with is not None and sha256_file(law) != made_with:
        raise InputError(f"{law} is not the law that the plan was made with", remedy="give that one, or omit --law")
    return found


def unchanged(path: Path, made_with: str | None) -> bool:
    """Tell whether a law still has this hash, and warn if not."""
    if made_with is None or sha256_file(path) == made_with:
        return True
    warnings.warn(f"{path} has changed since the plan was made: the forecast along the run is left out", PlannerWarning, stacklevel=3)
    return False


def forecast_curve(launch: Launch, run: FullRun, law: FittedLaw | None) -> ForecastCurve:
    """Forecast the specialist loss after a cooldown from each evaluation on the way, and of the run's own endpoint as in the plan."""
    plan = launch.allocation.plan
    told = Forecasted(
        plan.loss, plan.loss_low, plan.loss_high, plan.params_non_embedding, math.nan if law is None else _params_total(launch, law), plan.unique_spec,
        # Plans of versions that did not cost replay have no replay share.
        launch.allocation.replay_fraction, bool(plan.replay_fraction), launch.sunk,
    )  # fmt: skip
    return along(told, run, law)


def forecast_curve_of_domain(plan: DomainPlan, run: FullRun, law: FittedLaw | None) -> ForecastCurve:
    """Forecast the same of one domain's run."""
    total = math.nan if plan.params_total is None else plan.params_total
    share = plan.replay_fraction
    return along(Forecasted(plan.loss, plan.loss_low, plan.loss_high, plan.params_non_embedding, total, plan.unique_spec, share, share > 0), run, law)


def along(told: Forecasted, run: FullRun, law: FittedLaw | None) -> ForecastCurve:
    """Forecast the loss along a run by the law that its plan was made with; without the law, only of its end."""
    recipe = run.recipe
    end = Expected(run.steps, float(run.steps * recipe.tokens_per_step), told.loss, told.low, told.high)
    at = [step for step in run.settings.evaluate_at if step < run.steps]
    if law is None or not at or run.last.segment.early_fraction:  # the worth of early text was measured on finished runs only
        return ForecastCurve((end,), "the plan")
    tokens = np.array(at, dtype=float) * recipe.tokens_per_step
    trunk = float(run.last.segment.steps_by_stage[0] * recipe.tokens_per_step)
    stage = np.maximum(0.0, tokens - trunk)
    replay = np.where(stage > 0, told.replay_fraction, 0.0)
    params: dict[str, Any] = {"non_embedding": np.full(len(at), told.params_non_embedding), "total": np.full(len(at), told.params_total)}
    unique = np.full(len(at), told.unique_spec if told.unique_spec > 0 else np.nan)
    before, spec = told.sunk + np.minimum(tokens, trunk), (1 - replay) * stage
    found = law.forecast(params, before + replay * stage, spec, unique, mean=True)
    if told.replay_costs:
        bare = law.forecast(params, before, spec, unique, mean=True)
        found = dearer(found, cost_on_top(replay, np.log(found.loss), np.log(bare.loss)) if told.sunk else cost(replay))
    points = [Expected(*row) for row in zip(at, tokens.tolist(), found.loss.tolist(), found.low.tolist(), found.high.tolist(), strict=True)]
    return ForecastCurve((*points, end), "the law that the plan was made with")


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
