"""Break-even between compute and text: the factor in compute with which a smaller amount of text reaches the loss of a larger one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from planner.allocate.curves import BreakEven
from planner.arrays import Array
from planner.fit.level import ENDS


def break_evens(amounts: Sequence[float], budgets: Sequence[float], expected: Sequence[Sequence[float]], own: Sequence[Array]) -> list[BreakEven]:
    """Compare each pair of amounts at each budget but the last, beyond which nothing is known.

    Args:
        amounts: distinct specialist tokens, ascending.
        budgets: [FLOPs], ascending.
        expected: for each amount, ln L of the best plan at each budget.
        own: for each amount, ln L of each resample's own best plan, shape (budgets, resamples).
    """
    rows = []
    log_flops = np.log(budgets)
    for less, more in combinations(range(len(amounts)), 2):
        middle = factors(log_flops, np.array(expected[less]), np.array(expected[more]))
        each = np.array([factors(log_flops, own[less][:, number], own[more][:, number]) for number in range(own[less].shape[1])])
        # Without interpolation between resamples, since some are infinite.
        low, high = np.quantile(each, ENDS, axis=0, method="inverted_cdf")
        for at, flops in enumerate(budgets[:-1]):
            never = float(np.isinf(each[:, at]).mean())
            rows.append(BreakEven(amounts[less], amounts[more], flops, _known(middle[at]), _known(low[at]), _known(high[at]), never, budgets[-1] / flops))
    return rows


def factors(log_flops: Array, less: Array, more: Array) -> Array:
    """Return by what factor in compute one curve reaches the loss of another, at each budget; infinite if it does not in this range.

    Args:
        log_flops: ln C, shape (budgets,), ascending.
        less: ln L with less text, shape (budgets,); between budgets it is interpolated linearly in ln C.
        more: ln L with more text, shape (budgets,).
    """
    # Neither more compute nor more text can worsen a best plan; apparent rises come from the grid of the search.
    falling = np.minimum.accumulate(less)
    reached = np.interp(-more, -falling, log_flops, right=np.inf)
    result: Array = np.exp(np.maximum(reached - log_flops, 0.0))
    return result


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
