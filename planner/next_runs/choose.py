"""Choosing cells under a budget: greedily by gain per FLOP added to the tree, then exchanges; and baseline designs.

The greedy choice repeatedly takes the affordable cell with the largest gain / cost^power; a power of 1 prefers many cheap cells, 0.5 and 0 fewer
expensive ones whose trunk others can share. The result is improved: cells, whole stems and whole trunks are taken out in turn and their cost is spent
again; changes that lower the criterion stay. In a tree the costs depend on each other, so no bound on the distance from the best set is known; the
tests compare with all sets of a small list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.design.cells import Cell
from planner.fit.select import Progress
from planner.next_runs.candidates import Candidates
from planner.next_runs.cost import TreeCost
from planner.next_runs.information import Information, mean_criterion

POWERS = (1.0, 0.5, 0.0)
PASSES = 4
"""Most rounds of exchanges."""
LEAST_GAIN = 1e-4
"""Decrease of the criterion (the logarithm of a variance) that an exchange needs to stay."""
GRID_VALUES = (3, 4, 5)
"""Values per axis of the naive grids that are tried."""


@dataclass(frozen=True)
class Choice:
    """A set of cells."""

    chosen: Any
    """Boolean mask, shape (n,)."""
    criterion: float
    """Mean logarithm of the variance in the criterion."""


def choose(every: Sequence[Information], cost: TreeCost, flops: float, progress: Progress | None = None) -> Choice:
    """Choose the cells that lower the criterion most for a budget.

    Args:
        every: information of the n cells under each law.
        cost: their cost.
        flops: the budget [FLOPs].
        progress: called with the steps.
    """
    tell = progress or (lambda what, share: None)
    best: Choice | None = None
    for number, power in enumerate(POWERS):
        tell(f"choosing greedily by gain / cost^{power:g}", 0.5 * number / len(POWERS))
        chosen = fill(every, cost, flops, np.zeros(len(cost.need), dtype=bool), power)
        found = Choice(chosen, mean_criterion(every, chosen))
        if best is None or found.criterion < best.criterion:
            best = found
    assert best is not None
    for number in range(PASSES):
        tell("exchanging cells", 0.5 + 0.5 * number / PASSES)
        better = _exchange(every, cost, flops, best)
        if better.criterion > best.criterion - LEAST_GAIN:
            return better
        best = better
    return best


def fill(every: Sequence[Information], cost: TreeCost, flops: float, chosen: Any, power: float, barred: Any = None) -> Any:
    """Add cells until the budget is spent; return the mask.

    Args:
        every: information of the cells under each law.
        cost: their cost.
        flops: the budget [FLOPs].
        chosen: the mask to begin with.
        power: of the cost, in the ratio that is maximised.
        barred: mask of cells that may not be added.
    """
    chosen = chosen.copy()
    covariances = [one.covariance(chosen) for one in every]
    spent = cost.total(chosen)
    draws = sum(one.draws for one in every)
    while True:
        marginal = cost.marginal(chosen)
        possible = ~chosen & (spent + marginal <= flops * (1 + 1e-9))
        if barred is not None:
            possible &= ~barred
        if not possible.any():
            return chosen
        gain = np.sum([one.gains(covariance).sum(0) for one, covariance in zip(every, covariances, strict=True)], axis=0) / draws
        worth = np.where(possible, gain / np.maximum(marginal, 1.0) ** power, -np.inf)
        number = int(worth.argmax())
        chosen[number] = True
        spent += marginal[number]
        covariances = [one.with_one(covariance, number) for one, covariance in zip(every, covariances, strict=True)]


def _exchange(every: Sequence[Information], cost: TreeCost, flops: float, start: Choice) -> Choice:
    """Take out every cell, stem and trunk in turn, and spend its cost again."""
    best = start
    trunks = [cost.trunk == number for number in np.unique(cost.trunk[start.chosen])]
    stems = [cost.stem == number for number in np.unique(cost.stem[start.chosen])]
    singles = [np.arange(len(cost.need)) == number for number in np.flatnonzero(start.chosen)]
    for part in [*trunks, *stems, *singles]:
        out = part & best.chosen
        if not out.any():
            continue
        for power in POWERS[:2]:
            tried = fill(every, cost, flops, best.chosen & ~out, power, barred=out)
            criterion = mean_criterion(every, tried)
            if criterion < best.criterion - LEAST_GAIN:
                best = Choice(tried, criterion)
                break
    return best


def naive_grid(given: Candidates, flops: float, every: Sequence[Information]) -> Choice:
    """Cross evenly spaced values of every axis, as one would by hand, and take the runs from the cheapest up within the budget.

    Three, four and five values per axis are tried, and the best by the criterion is returned, for a fair comparison.
    """
    tried = []
    for values in GRID_VALUES:
        inside = np.ones(len(given), dtype=bool)
        for name in ("size", "tokens_pt", "tokens_spec", "unique_spec"):
            inside &= _spaced([_value(cell, name) for cell in given.cells], min(values, 3) if name == "unique_spec" else values)
        mask = cheapest_first(given.cost, flops, inside)
        tried.append(Choice(mask, mean_criterion(every, mask)))
    return min(tried, key=lambda choice: choice.criterion)


def cheapest_first(cost: TreeCost, flops: float, allowed: Any = None) -> Any:
    """Take cells from the cheapest up while their tree stays within the budget; return the mask."""
    order = np.argsort(cost.alone, kind="stable")
    return in_order(cost, flops, order if allowed is None else order[allowed[order]])


def in_order(cost: TreeCost, flops: float, order: Any) -> Any:
    """Take cells in a given order, skipping those that exceed the budget; return the mask."""
    chosen = np.zeros(len(cost.need), dtype=bool)
    spent = 0.0
    for number in order:
        marginal = float(cost.marginal(chosen)[number])
        if spent + marginal <= flops * (1 + 1e-9):
            chosen[number] = True
            spent += marginal
    return chosen


def _value(cell: Cell, name: str) -> float | None:
    value = getattr(cell, name)
    # More distinct tokens than are seen do not change the run.
    return None if value is None or (name == "unique_spec" and value >= cell.tokens_spec) else float(value)


def _spaced(values: Sequence[float | None], count: int) -> Array:
    """Mark the values that are among `count` evenly spaced ones of all; None is always marked."""
    levels = sorted({value for value in values if value is not None})
    places = np.linspace(0, len(levels) - 1, min(count, len(levels))).round().astype(int)
    kept = {levels[place] for place in places}
    return np.array([value is None or value in kept for value in values])
