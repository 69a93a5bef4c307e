"""Divide one budget over many rows, each a table of value against cost, at equal marginal gain per unit of cost.

At a multiplier λ each row takes the node of least value + λ·cost, which always lies on its lower convex hull; the λ that spends the budget is found by
bisection, for a batch of problems and all rows at once. Only rows on a hull edge of slope λ then lie between two nodes; they share the rest
in proportion, so equal rows are treated equally.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array

BISECTIONS = 34
LEAST_SLOPE = 1e-24
"""Lower end of the bisection, relative to the steepest slope of a table."""


@dataclass(frozen=True)
class Filled:
    """Divided budgets."""

    amount: Array
    """Cost assigned to each row, shape (batch, rows)."""
    value: Array
    """Value of each row at that cost, linear between nodes; infinite if impossible."""
    low: Any
    high: Any
    """Numbers of the neighbouring nodes."""

    @property
    def total(self) -> Array:
        """Sum of the values, shape (batch,)."""
        result: Array = self.value.sum(-1)
        return result


def fill(cost: Array, value: Array, budget: Array, *, gap: bool = False) -> Filled:
    """Find the division of least total value.

    Args:
        cost: ascending along the last axis, shape (batch, rows, nodes).
        value: infinite if a node is not allowed, same shape.
        budget: upper limit of the sum of amounts, shape (batch,).
        gap: whether amounts between the first two nodes are impossible, such as a stage too short to train.
    """
    found = _fill(cost, value, budget, gap)
    stuck = ~np.isfinite(found.value) & (found.low != found.high)
    some = np.flatnonzero(stuck.any(-1))
    if not len(some):
        return found
    # A few rows may end at an impossible amount. Move them down to a possible one, and give the others the rest; or up, at the others' cost.
    number = np.arange(cost.shape[-1])
    low, high, out = (item[some][..., None] for item in (found.low, found.high, stuck))
    best = found
    for barred in (number > low, number < high):
        option = _fill(cost[some], np.where(out & barred, np.inf, value[some]), budget[some], gap)
        again = ~np.isfinite(option.value) & (option.low != option.high)
        at_low = (np.take_along_axis(item[some], option.low[..., None], -1)[..., 0] for item in (cost, value))
        amount, worth = (np.where(again, lower, item) for lower, item in zip(at_low, (option.amount, option.value), strict=True))
        better = worth.sum(-1) < best.total[some]
        parts = [item.copy() for item in (best.amount, best.value, best.low, best.high)]
        for part, item in zip(parts, (amount, worth, option.low, option.high), strict=True):
            part[some[better]] = item[better]
        best = Filled(*parts)
    return best


def _fill(cost: Array, value: Array, budget: Array, gap: bool) -> Filled:
    allowed: Any = np.isfinite(value)
    possible = allowed.any(-1).all(-1)
    value = np.where(possible[:, None, None], value, 0.0)
    allowed |= ~possible[:, None, None]

    def chosen(slope: Array) -> tuple[Any, Array]:
        node = np.argmin(value + slope[:, None, None] * cost, axis=-1)
        return node, np.take_along_axis(cost, node[..., None], -1)[..., 0]

    finite = np.where(allowed, value, 0.0)
    span = np.where(allowed, value, -np.inf).max(-1) - np.where(allowed, value, np.inf).min(-1)
    steps = np.diff(cost, axis=-1)
    # Nodes that differ only by rounding have no slope.
    least = np.where(steps > 1e-9 * cost[..., -1:], steps, np.inf).min((-1, -2), initial=np.inf)
    steep = 2 * span.max(-1) / np.where(np.isfinite(least), least, 1.0) + 1e-200
    low, low_cost = chosen(steep)
    high, high_cost = most, most_cost = chosen(np.zeros(len(cost)))
    possible &= low_cost.sum(-1) <= budget * (1 + 1e-9)
    bounds = [np.log(steep * LEAST_SLOPE), np.log(steep)]
    for _ in range(BISECTIONS):
        middle = 0.5 * (bounds[0] + bounds[1])
        node, spent = chosen(np.exp(middle))
        over = spent.sum(-1) > budget
        bounds[0], bounds[1] = np.where(over, middle, bounds[0]), np.where(over, bounds[1], middle)
        high, high_cost = np.where(over[:, None], node, high), np.where(over[:, None], spent, high_cost)
        low, low_cost = np.where(over[:, None], low, node), np.where(over[:, None], low_cost, spent)
    free = most_cost.sum(-1) <= budget
    high, high_cost = np.where(free[:, None], most, high), np.where(free[:, None], most_cost, high_cost)
    low, low_cost = np.where(free[:, None], high, low), np.where(free[:, None], high_cost, low_cost)
    rest = high_cost.sum(-1) - low_cost.sum(-1)
    share = np.where(rest > 0, (budget - low_cost.sum(-1)) / np.where(rest > 0, rest, 1.0), 0.0)
    amount = low_cost + np.clip(share, 0.0, 1.0)[:, None] * (high_cost - low_cost)
    between = (amount > low_cost) & (amount < high_cost)
    worth = np.take_along_axis(finite, low[..., None], -1)[..., 0]
    worth = np.where(amount >= high_cost, np.take_along_axis(finite, high[..., None], -1)[..., 0], worth)
    if between.any():
        where = np.nonzero(between)
        worth[where] = _between(cost[where], np.where(allowed, value, np.inf)[where], amount[where], gap)
    return Filled(amount, np.where(possible[:, None], worth, np.inf), low, high)


def _between(cost: Array, value: Array, amount: Array, gap: bool) -> Array:
    """Interpolate tables of shape (rows, nodes) at one amount each, between adjacent nodes, even where the hull skips some."""
    node = np.clip((cost <= amount[:, None]).sum(-1) - 1, 0, cost.shape[-1] - 2)[:, None]
    (x0, y0), (x1, y1) = ([np.take_along_axis(item, node + one, -1)[:, 0] for item in (cost, value)] for one in (0, 1))
    share = (amount - x0) / np.where(x1 > x0, x1 - x0, 1.0)
    with np.errstate(invalid="ignore"):
        result = np.where(np.isfinite(y0) & np.isfinite(y1), y0 + share * (y1 - y0), np.inf)
    return np.where(node[:, 0] == 0, np.inf, result) if gap else result
