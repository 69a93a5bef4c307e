"""How fast forecasts go astray beyond the runs, where no law is known to hold.

Laws that describe the runs about as well disagree beyond them, and by how much says how far any of them is to be trusted there: little where
one law alone describes the runs, more where a dozen do. It is measured a step beyond the dearest runs and grows with the distance in logarithms.
All of them may be wrong together, as where a skill is learnt at once. Then the runs that each slice holds out lie far off what is forecast of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.fit.data import FitData
from planner.fit.extrapolation_probe import ExtrapolationProbe
from planner.fit.select import Score
from planner.fit.support import NEAR

AS_GOOD = 1.5
"""Multiple of the least residual, and of the least held-out error, up to which a law describes the runs about as well."""
CHANCE = 3.0
"""Deviations of a run, for each log unit, that the worst of the slices goes astray by where the law is right: chance and the parameters' doubt."""
MOST_DIFFERENCE = 5.0
"""A difference in ln L over which a law says anything."""


def drift(chosen: Sequence[Score], others: Sequence[Score], data: FitData, noise: float) -> float:
    """Return the deviation of ln L of forecasts for each log unit outside the runs.

    It is the median of what laws as good differ by from the forecast, those that make it among them, so that a stray one counts for little; or what
    chance does not explain of the slice that went astray fastest, if that is more. How often intervals with that hold the truth, where the law's form is
    right and where none is, `benchmarks/calibration.py` says; on tables of few runs, which many laws describe, they are wider than need be.

    Args:
        chosen: the laws that forecast.
        others: all that were fitted, those among them.
        data: the runs, without likely mistakes.
        noise: deviation of ln L of a run around the law.
    """
    slices = float(np.mean([score.drift for score in chosen]))
    alike = [*chosen, *_as_good(chosen, others)]
    squares: list[float] = []
    for repeated in (False, True):
        there = ExtrapolationProbe.of(data, repeated=repeated)
        outside = np.isfinite(there.distance) & (there.distance > np.log(NEAR))
        if outside.any():
            forecasts = np.array([there.log_loss(score.estimate, score.params_kind, score.reference) for score in alike])
            middle = forecasts[: len(chosen)].mean(0)
            # A law that gives no number so far out has no say there; where the forecast itself is none, anything may come.
            off = np.abs(forecasts - np.nan_to_num(middle, posinf=0.0, neginf=0.0))
            off[:, ~np.isfinite(middle)] = MOST_DIFFERENCE
            rates = np.nanmedian(np.minimum(off, MOST_DIFFERENCE), axis=0)[outside] / there.distance[outside]
            squares.append(float((rates**2).mean()))
    return float(max(np.sqrt(np.mean(squares or [0.0])), np.sqrt(max(0.0, slices**2 - (CHANCE * noise) ** 2))))


def _as_good(chosen: Sequence[Score], others: Sequence[Score]) -> list[Score]:
    """Keep the laws that describe the runs about as well as the best, and forecast slices so where they were tried on them."""
    rms, held = (AS_GOOD * min(getattr(score, name) for score in others) for name in ("rms_percent", "mean"))
    return [score for score in others if score not in chosen and score.rms_percent <= rms and (not score.held or score.mean <= held)]
