"""A size whose runs were trained differently from all others, as with a poor learning rate.

They pull a law their way and raise its residual on all runs, as a wrong form does. But without them, and only without them, the residual is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.fit.data import FitData
from planner.fit.identify import MIN_SIZES, levels, rows_for
from planner.fit.resample import fit_weighted
from planner.fit.select import Score
from planner.fit.solver import DELTAS

LEAST_RUNS = 3
"""Fewest runs of the size; the table must have `MIN_SIZES` others."""
MOST_SIZES = 12
"""Most sizes of a table with a grid: without a grid no single size can be trained differently, and each size costs a fit."""
RESIDUAL_SHARE = 0.5
"""Largest residual without the size, as a share of the residual on all runs."""
OFF_NOISE, OFF_LEAST = 3.0, 2.0
"""Standard deviations of the other runs, and per cent of the loss: the runs of the size must lie off the law by more than both."""


@dataclass(frozen=True)
class SizeOutlier:
    """A size that lies off the law of all others."""

    params: float
    """Under the convention of the table [parameters]."""
    runs: int
    one_trunk: bool
    """Whether they all branch off one trunk, whose noise they share."""
    off_percent: float
    """Median distance of its losses from the law of the others [% of the loss]."""
    rest_percent: float
    """Root mean square distance of the others from that law [% of the loss]."""


def find_size_outlier(score: Score, data: FitData) -> SizeOutlier | None:
    """Find a size that lies off the law of all others, if the law fits well without it; one fit for each size.

    Args:
        score: the law.
        data: the runs, without outliers.
    """
    data = data.under(score.params_kind)
    sizes = levels(data.params)
    size_of = np.searchsorted(sizes, data.params, side="right") - 1
    if not MIN_SIZES < len(sizes) <= MOST_SIZES:
        return None
    law, points = score.estimate.law, data.points(score.reference)
    without = np.array([size_of != number for number in range(len(sizes))], dtype=float)
    theta, _ = fit_weighted(law, points, data.log_loss, without, score.estimate.solutions[:2], deltas=DELTAS)
    off = data.log_loss - law.log_loss(theta, points)
    rows, parameters = without.sum(1), len(law.parameters)
    # With hardly more runs than parameters, any law leaves a small residual.
    left = np.sqrt((without * off**2).sum(1) / np.maximum(rows - parameters, 1))
    left[(rows < rows_for(law)) | np.isnan(left)] = np.inf
    number = int(left.argmin())
    of_all = float(np.sqrt(((data.log_loss - score.estimate.log_loss(points)) ** 2).sum() / max(data.count - parameters, 1)))
    own = off[number, size_of == number]
    percent, rest = 100 * float(np.expm1(np.median(own))), 100 * float(left[number])
    if len(own) < LEAST_RUNS or not left[number] <= RESIDUAL_SHARE * of_all or not abs(percent) > max(OFF_NOISE * rest, OFF_LEAST):
        return None
    one_trunk = len(own) > len(np.unique(data.cluster[size_of == number])) == 1
    return SizeOutlier(float(np.median(data.params[size_of == number])), len(own), one_trunk, percent, rest)
