"""Shared by the searches of all structures: ever finer grids around the best plan so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.allocate.domains.problem import DomainsProblem
from planner.arrays import Array

COARSE_SIZES = 24
WIDE, SPARSE = 14, 5
"""Amounts of specialist text between the shortest stage and the most: in a coarse grid, and in finer ones for domains far from their previous amount."""


@dataclass(frozen=True)
class Resolution:
    """Resolution of a grid."""

    stride: float
    """Step between sizes, in ln N, if there are that many."""
    reach: int
    """Strides to either side."""
    step: float
    """Step between amounts, in log units."""
    around: int
    """Amounts to either side."""


COARSE = Resolution(0, 0, 0.0, 0)
"""The whole range."""
CLOSER = (Resolution(0.04, 12, 0.24, 2), Resolution(0.012, 40, 0.06, 2), Resolution(0.006, 3, 0.06, 4), Resolution(0.006, 2, 0.012, 4))
"""The first two are wide in sizes: shapes differ slightly in cost for their size, so the loss has many shallow local minima."""

MANY_DOMAINS = 20
"""With more domains, searches are less wide and do not use all resamples."""
CLOSER_OF_MANY = (CLOSER[0], Resolution(0.012, 12, 0.06, 2), *CLOSER[2:])
NEARBY = (Resolution(0.06, 3, 0.16, 1), Resolution(0.02, 3, 0.05, 2))
"""Around the best plan of a request that differs little."""


def sizes_near(problem: DomainsProblem, middle: int, resolution: Resolution) -> Any:
    """Return numbers of sizes around one, or over the whole ladder."""
    if resolution.stride:
        return np.unique(sizes_around(problem, np.array([middle]), resolution))
    least, most = np.log(problem.params[0]), np.log(problem.params[-1])
    return np.unique(problem.nearest(np.linspace(least, most, COARSE_SIZES)))


def sizes_around(problem: DomainsProblem, middle: Any, resolution: Resolution) -> Any:
    """Return numbers of sizes around each of several, shape (several, sizes): all within reach, or evenly spaced ones if too many; some may come twice.

    Spacing is by number and not by size, which could skip the cheaper of two shapes of nearly equal size.
    """
    logs = np.log(problem.params)
    reach = resolution.stride * resolution.reach * (1 + 1e-9)
    first, last = np.searchsorted(logs, logs[middle] - reach, "left"), np.searchsorted(logs, logs[middle] + reach, "right") - 1
    count = min(2 * resolution.reach + 1, int((last - first).max()) + 1)
    rows = np.round(first[:, None] + (last - first)[:, None] * np.linspace(0, 1, count)).astype(int)
    # Evenly spaced numbers may miss the middle.
    return np.concatenate([rows, np.asarray(middle)[:, None]], axis=1)


def nodes(problem: DomainsProblem, room: Array, guess: Array | None, resolution: Resolution, enough: Array | None = None) -> Array:
    """List amounts of specialist tokens for every domain, ascending from none, shape (batch, domains, nodes).

    Args:
        problem: the domains.
        room: tokens for all domains together, shape (batch,), or (batch, domains) if their cost differs between domains.
        guess: share of them that each domain had in the best plan so far, shape (domains,); None for a coarse grid.
        resolution: of the grid.
        enough: amounts with which domains reach the minimum of tokens for their size, shape (batch, domains); None to leave them out.
    """
    room = room if room.ndim == 2 else room[:, None]
    most = np.minimum(problem.most_spec, room)[..., None]
    # If the laws come from tables without a recipe, a stage may be arbitrarily short.
    least = np.minimum(problem.least_stage or 1e-4 * most, most)
    wide = least * (most / np.maximum(least, 1e-300)) ** np.linspace(0, 1, WIDE if guess is None else SPARSE)
    parts = [np.zeros_like(most), wide, np.minimum(problem.unique[:, None], most)]
    if enough is not None:
        parts.append(np.clip(enough[..., None], least, most))
    if guess is not None:
        factors = np.exp(resolution.step * np.arange(-resolution.around, resolution.around + 1))
        parts.append(np.clip(room[..., None] * guess[:, None] * factors, least, most))
    return np.sort(np.concatenate(parts, axis=-1), axis=-1)


def whole_steps(problem: DomainsProblem, tokens: Array, room: Array | float, cost: Array | float = 1.0, most: Array | float = np.inf) -> Array:
    """Round tokens to whole optimiser steps; down if they would exceed the most, or cost more than the room at `cost` per token."""
    rounded = np.round(tokens / problem.step) * problem.step
    over = ((cost * rounded).sum() if np.ndim(room) == 0 else cost * rounded) > room
    return np.where(over | (rounded > most * (1 + 1e-9)), problem.whole(tokens), rounded)
