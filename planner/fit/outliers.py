"""Which runs are likely mistakes, such as a slip of a digit or a loss of another run: those that the laws that fit best all leave far off.

One law's own word is not enough. What lies far off a law that is wrong there is no mistake where another goes through it, and a law that leaves out its
own worst runs would look as good as one that needs to leave none out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.solver import DELTA, huber

WILD, LEAST_WILD = 10.0, 0.01
"""Deviations of the other runs, and ln L, beyond both of which a run is wild by a law."""
MOST_OUTLIERS = 0.1
"""Share of the runs above which it is the law that is wrong."""
JUDGES, NEAR_LEAST = 6, 1.25
"""Laws that are asked, at most, and the multiple of the least objective, parameters counted, up to which."""


def find_outliers(residuals: Array, parameters: Any) -> Any:
    """Tell which runs are likely mistakes, shape (runs,).

    Args:
        residuals: of ln L by each of some laws, shape (laws, runs).
        parameters: how many each law has, shape (laws,).
    """
    runs = residuals.shape[1]
    cost = huber(np.nan_to_num(residuals, nan=np.inf), DELTA).sum(1) * np.exp(np.asarray(parameters) / runs)
    order = np.argsort(cost)[:JUDGES]
    judges = [number for number in order if number == order[0] or cost[number] <= NEAR_LEAST * cost[order[0]]]
    return np.all([far_off(residuals[number], parameters[number]) for number in judges], axis=0)


def far_off(residual: Array, parameters: int) -> Any:
    """Tell which runs lie far off a law, where most lie close to it; none where they are many.

    Args:
        residual: of ln L, shape (runs,).
        parameters: of the law, which can go through as many runs as that, so that the closest say nothing of how far runs lie off.
    """
    size = np.abs(residual)
    rest = np.sort(size)[min(parameters, len(size) - 1) :]
    far = ~(size <= max(WILD * 1.4826 * float(np.median(rest)), LEAST_WILD))
    return far if far.mean() <= MOST_OUTLIERS else np.zeros(len(size), dtype=bool)
