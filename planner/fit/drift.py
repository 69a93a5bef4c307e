"""Drift: how fast the error of a forecast grows outside the runs, where no law is known to hold.

Laws that fit the runs about as well disagree outside them, and their disagreement shows how far to trust any of them there: it is small where one
law alone fits the runs, larger where a dozen do. It is measured one step beyond the most expensive runs and grows with the log-distance.
All laws may be wrong together, as where a skill is learnt abruptly. Then held-out slices lie far off their forecasts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.fit.data import FitData
from planner.fit.extrapolation_probe import ExtrapolationProbe
from planner.fit.select import Score
from planner.fit.support import NEAR

AS_GOOD = 1.5
"""Multiple of the least residual, and of the least held-out error, up to which a law fits the runs about as well."""
CHANCE = 3.0
"""Standard deviations of run noise per log unit that the worst slice errs by where the law is right: chance and the parameters' uncertainty."""
MOST_DIFFERENCE = 5.0
"""Cap on a difference in ln L between two laws: above it a forecast says nothing."""


def drift(chosen: Sequence[Score], others: Sequence[Score], data: FitData, noise: float) -> float:
    """Return the standard deviation of ln L of a forecast per log unit outside the runs.

    It is the median difference from the forecast over all laws that fit about as well, the forecasting ones included, so that a stray law counts for
    little; or, if that is larger, the rate at which the worst slice erred, less what chance explains. `benchmarks/calibration.py` measures how often
    intervals with it hold the truth, where the law's form is right and where none is; on tables of few runs, which many laws fit, they are too wide.

    Args:
        chosen: the laws that forecast.
        others: all laws that were fitted, the chosen ones included.
        data: the runs, without outliers.
        noise: standard deviation of ln L of a run around the law.
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
            # A law that gives no number so far out is ignored there; where the forecast itself is no number, the cap holds.
            off = np.abs(forecasts - np.nan_to_num(middle, posinf=0.0, neginf=0.0))
            off[:, ~np.isfinite(middle)] = MOST_DIFFERENCE
            rates = np.nanmedian(np.minimum(off, MOST_DIFFERENCE), axis=0)[outside] / there.distance[outside]
            squares.append(float((rates**2).mean()))
    return float(max(np.sqrt(np.mean(squares or [0.0])), np.sqrt(max(0.0, slices**2 - (CHANCE * noise) ** 2))))


def _as_good(chosen: Sequence[Score], others: Sequence[Score]) -> list[Score]:
    """Keep the laws whose residual, and held-out error where they were tried on the slices, is about as small as the least."""
    rms, held = (AS_GOOD * min(getattr(score, name) for score in others) for name in ("rms_percent", "mean"))
    return [score for score in others if score not in chosen and score.rms_percent <= rms and (not score.held or score.mean <= held)]
