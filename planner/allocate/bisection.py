"""Bisection in the logarithm, for thresholds in sizes and budgets that span orders of magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable


def bisect_log(low: float, high: float, holds: Callable[[float], bool], steps: int) -> tuple[float, float]:
    """Narrow down where a condition begins to hold, halving the interval in its logarithm.

    Args:
        low: positive, where the condition does not hold.
        high: where it holds.
        holds: the condition.
        steps: how many times to halve.

    Returns:
        The largest value tried at which it does not hold, and the least at which it does.
    """
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high
