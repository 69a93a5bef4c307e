"""Which size's runs were trained otherwise than all others, as with a learning rate far from its best.

They pull a law their way, and it then leaves much of all runs, as where it has the wrong form. But without them, and only them, it leaves little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.fit.data import FitData
from planner.fit.identify import MIN_SIZES, ROWS_PER_PARAMETER, levels
from planner.fit.resample import fit_weighted
from planner.fit.select import Score
from planner.fit.solver import DELTAS

LEAST_RUNS = 3
"""Of a size, and `MIN_SIZES` others."""
MOST_SIZES = 12
"""That a grid has: of a table without one no size can be trained otherwise, and each takes a fit."""
RESIDUAL_SHARE = 0.5
"""Share of what the law leaves of all runs, at most, that it leaves without the size that is off."""
OFF_NOISE, OFF_LEAST = 3.0, 2.0
"""Deviations of the others, and per cent of the loss, beyond both of which its runs lie off the law."""


@dataclass(frozen=True)
class SizeOutlier:
    """A size off the law of all others."""

    params: float
    """Under the convention of the table [parameters]."""
    runs: int
    one_trunk: bool
    """Whether they all branch off one trunk, whose luck they share."""
    off_percent: float
    """Median deviation of its losses from what the others say."""
    rest_percent: float
    """Deviation of the others from the law without it [root mean square]."""


def find_size_outlier(score: Score, data: FitData) -> SizeOutlier | None:
    """Tell which size is off the law of all others, where one is and without it all is well; one fit for each size.

    Args:
        score: the law.
        data: the runs, without likely mistakes.
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
    # A law that has few runs more than parameters leaves little of any.
    left = np.sqrt((without * off**2).sum(1) / np.maximum(rows - parameters, 1))
    left[(rows < ROWS_PER_PARAMETER * parameters) | np.isnan(left)] = np.inf
    number = int(left.argmin())
    of_all = float(np.sqrt(((data.log_loss - score.estimate.log_loss(points)) ** 2).sum() / max(data.count - parameters, 1)))
    own = off[number, size_of == number]
    percent, rest = 100 * float(np.expm1(np.median(own))), 100 * float(left[number])
    if len(own) < LEAST_RUNS or not left[number] <= RESIDUAL_SHARE * of_all or not abs(percent) > max(OFF_NOISE * rest, OFF_LEAST):
        return None
    one_trunk = len(own) > len(np.unique(data.cluster[size_of == number])) == 1
    return SizeOutlier(float(np.median(data.params[size_of == number])), len(own), one_trunk, percent, rest)
