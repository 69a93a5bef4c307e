"""Outliers: runs that all of the best-fitting laws leave far off, such as a slip of a digit or another run's loss.

One law is not enough: if another law passes through the run, the first law is wrong, not the run. And a law free to exclude its own worst runs would
look as good as one that needs to exclude none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.solver import DELTA, huber

WILD, LEAST_WILD = 10.0, 0.01
"""Robust standard deviations of the other runs, and difference in ln L: a run beyond both lies far off a law."""
MOST_OUTLIERS = 0.1
"""Share of the runs above which it is the law that is wrong."""
JUDGES, NEAR_LEAST = 6, 1.25
"""Most laws that decide, and the multiple of the least objective, corrected for the number of parameters, up to which a law is one of them."""


def find_outliers(residuals: Array, parameters: Any) -> Any:
    """Tell which runs are outliers, shape (runs,).

    Args:
        residuals: of ln L under each law, shape (laws, runs).
        parameters: how many each law has, shape (laws,).
    """
    runs = residuals.shape[1]
    cost = huber(np.nan_to_num(residuals, nan=np.inf), DELTA).sum(1) * np.exp(np.asarray(parameters) / runs)
    order = np.argsort(cost)[:JUDGES]
    judges = [number for number in order if number == order[0] or cost[number] <= NEAR_LEAST * cost[order[0]]]
    return np.all([far_off(residuals[number], parameters[number]) for number in judges], axis=0)


def far_off(residual: Array, parameters: int) -> Any:
    """Tell which runs lie far off a law; none where more than `MOST_OUTLIERS` do.

    Args:
        residual: of ln L, shape (runs,).
        parameters: number of the law's parameters: it can pass through as many runs, so the closest ones say nothing of the scatter.
    """
    size = np.abs(residual)
    rest = np.sort(size)[min(parameters, len(size) - 1) :]
    far = ~(size <= max(WILD * 1.4826 * float(np.median(rest)), LEAST_WILD))
    return far if far.mean() <= MOST_OUTLIERS else np.zeros(len(size), dtype=bool)
