"""Which law to trust: every candidate forecasts the slices that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.errors import DataError
from planner.fit.data import FitData
from planner.fit.estimate import Estimate, estimate
from planner.fit.holdout import Slice, mean_absolute_percent, slices
from planner.fit.support import Support
from planner.laws import LAWS, Law
from planner.laws.dual import Array

NEAR_EQUAL = 1.1
"""Laws whose mean held-out error is within this factor of the least are not told apart by the data."""
MOST_MEMBERS = 3
ROWS_PER_PARAMETER = 2.0
SLICE_STARTS = 6


@dataclass(frozen=True)
class Score:
    """How one law did."""

    estimate: Estimate
    """Fitted to all rows."""
    rms_percent: float
    """Residual deviation on all rows [% of the loss], per degree of freedom."""
    held: dict[str, float]
    """Mean absolute error by slice [% of the loss]."""
    drift: float
    """Deviation of ln L for each log unit beyond the support of the rows that were fitted."""

    @property
    def mean(self) -> float:
        """Mean over the slices; the residual where there are none."""
        return float(np.mean(list(self.held.values()))) if self.held else self.rms_percent


def candidates(data: FitData) -> list[Law]:
    """List the laws that a table can carry.

    Raises:
        DataError: no law has few enough parameters.
    """
    stages = 2 if data.two_stage else 1
    found = [law for law in LAWS.values() if law.stages == stages and data.count >= ROWS_PER_PARAMETER * len(law.parameters)]
    if not found:
        least = min(len(law.parameters) for law in LAWS.values() if law.stages == stages)
        raise DataError(
            f"{data.count} usable runs cannot carry a law with {least} parameters", remedy=f"train at least {round(ROWS_PER_PARAMETER * least)}"
        )
    return found


def score_laws(data: FitData, laws: Sequence[Law], seed: int = 0, progress: Callable[[str, float], None] | None = None) -> list[Score]:
    """Fit every law to all rows and to the rows outside each slice; the best by held-out error first."""
    pieces = slices(data)
    scores = []
    for number, law in enumerate(laws):
        if progress is not None:
            progress(law.name, number / len(laws))
        scores.append(_score(data, law, pieces, seed))
    return sorted(scores, key=lambda score: score.mean)


def choose(scores: Sequence[Score]) -> list[Score]:
    """Return the laws that the data do not tell apart, the simplest first; they forecast together, with equal weights."""
    near = [score for score in scores if score.mean <= NEAR_EQUAL * scores[0].mean][:MOST_MEMBERS]
    return sorted(near, key=lambda score: (len(score.estimate.law.parameters), score.mean))


def _score(data: FitData, law: Law, pieces: Sequence[Slice], seed: int) -> Score:
    random = np.random.default_rng(seed)
    points = data.points()
    whole = estimate(law, points, data.log_loss, random)
    residual = data.log_loss - law.log_loss(whole.theta[None], points)[0]
    freedom = max(1, data.count - len(law.parameters))
    held: dict[str, float] = {}
    errors: list[Array] = []
    distances: list[Array] = []
    for piece in pieces:
        rest, out = data.rows(~piece.held), data.rows(piece.held)
        if rest.count < ROWS_PER_PARAMETER * len(law.parameters):
            continue
        part = estimate(law, rest.points(), rest.log_loss, random, starts=SLICE_STARTS, warm=whole.solutions)
        forecast = law.log_loss(part.theta[None], out.points())[0]
        held[piece.name] = mean_absolute_percent(forecast, out.log_loss)
        errors.append(forecast - out.log_loss)
        distances.append(Support.of(rest).distance(out.params, out.tokens_pt, out.tokens_spec, out.unique_spec))
    variance = float((residual**2).sum() / freedom)
    return Score(whole, 100 * float(np.sqrt(variance)), held, _drift(errors, distances, variance))


def _drift(errors: Sequence[Array], distances: Sequence[Array], variance: float) -> float:
    """Estimate how fast the forecast goes astray outside the support, from rows that lay outside it when they were forecast."""
    if not errors:
        return float(np.sqrt(variance))
    error, distance = np.concatenate(errors), np.concatenate(distances)
    outside = distance > np.log(1.2)
    if not outside.any():
        return float(np.sqrt(variance))
    beyond = np.maximum(error[outside] ** 2 - variance, 0.0) / distance[outside] ** 2
    return float(np.sqrt(beyond.mean()))
