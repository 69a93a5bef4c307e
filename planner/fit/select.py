"""Which law to trust: every candidate forecasts the slices that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.errors import DataError
from planner.fit.data import FitData
from planner.fit.estimate import Estimate, estimate
from planner.fit.holdout import mean_absolute_percent, slices
from planner.fit.support import Support
from planner.laws import LAWS, Law, Reference
from planner.laws.dual import Array

NEAR_EQUAL = 1.1
"""Laws whose mean held-out error is within this factor of the least are not told apart by the data."""
MOST_MEMBERS = 3
ROWS_PER_PARAMETER = 2.0
SLICE_STARTS = 6
HOPELESS = 1.8
"""Laws whose residual is over this multiple of the least are not tried on the slices."""


@dataclass(frozen=True)
class Score:
    """How one law did under one convention of N."""

    params_kind: str

    reference: Reference
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
        """Mean over the slices; infinite for a law that was not tried on them."""
        return float(np.mean(list(self.held.values()))) if self.held else float("inf")


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


def score_laws(
    tables: Sequence[FitData], laws: Sequence[Law], seed: int = 0, progress: Callable[[str, float], None] | None = None
) -> list[Score]:
    """Fit every law to all rows, and the promising ones to the rows outside each slice; the best by held-out error first.

    Args:
        tables: the same runs under each convention of N that is to be tried.
        laws: the candidates.
        seed: seed of the starts.
        progress: told of the steps.
    """
    pairs = [(data, law) for data in tables for law in laws]
    first = []
    for number, (data, law) in enumerate(pairs):
        if progress is not None:
            progress(law.name, 0.4 * number / len(pairs))
        first.append(_residual(data, estimate(law, data.points(data.reference), data.log_loss, np.random.default_rng(seed))))
    least = min(score.rms_percent for score in first)
    scores = []
    for number, ((data, _), score) in enumerate(zip(pairs, first, strict=True)):
        if progress is not None:
            progress(score.estimate.law.name, 0.4 + 0.6 * number / len(pairs))
        scores.append(_hold_out(data, score, seed) if score.rms_percent <= HOPELESS * least else score)
    return sorted(scores, key=lambda score: (score.mean, score.rms_percent))


def choose(scores: Sequence[Score]) -> list[Score]:
    """Return the laws that the data do not tell apart, the simplest first; they forecast together, with equal weights.

    Laws under either convention of N may stand side by side: which one holds beyond the runs is not known, and their
    difference belongs in the interval.
    """
    alike = [score for score in scores if score.mean <= NEAR_EQUAL * scores[0].mean]
    near = alike[:MOST_MEMBERS] if scores[0].held else scores[:1]
    return sorted(near, key=lambda score: (len(score.estimate.law.parameters), score.mean))


def _residual(data: FitData, whole: Estimate) -> Score:
    law = whole.law
    residual = data.log_loss - law.log_loss(whole.theta[None], data.points(data.reference))[0]
    deviation = float(np.sqrt((residual**2).sum() / max(1, data.count - len(law.parameters))))
    return Score(data.params_kind, data.reference, whole, 100 * deviation, {}, deviation)


def _hold_out(data: FitData, score: Score, seed: int) -> Score:
    """Let a law forecast every slice that it has not seen."""
    law, random = score.estimate.law, np.random.default_rng([seed, 2])
    held: dict[str, float] = {}
    errors: list[Array] = []
    distances: list[Array] = []
    for piece in slices(data):
        rest, out = data.rows(~piece.held), data.rows(piece.held)
        if rest.count < ROWS_PER_PARAMETER * len(law.parameters):
            continue
        part = estimate(law, rest.points(data.reference), rest.log_loss, random, starts=SLICE_STARTS, warm=score.estimate.solutions)
        forecast = law.log_loss(part.theta[None], out.points(data.reference))[0]
        held[piece.name] = mean_absolute_percent(forecast, out.log_loss)
        errors.append(forecast - out.log_loss)
        distances.append(Support.of(rest).distance(out.params_by["non_embedding"], out.tokens_pt, out.tokens_spec, out.unique_spec))
    return replace(score, held=held, drift=_drift(errors, distances, (score.rms_percent / 100) ** 2))


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
