"""Profile likelihood: how far one parameter can move while the others make up for it.

The objective with a parameter held at a value and the others refitted, less its minimum, is compared with the quantile of χ² scaled for a
Huber objective: 2·Δ·E[ψ']/E[ψ²] ~ χ²₁ (Huber & Ronchetti, Robust Statistics, section 6.7), rows taken as independent. The share of rows inside δ,
E[ψ'], is smoothed over half the spread of the residuals, since few rows lie inside δ itself. A prior is weighed against as many rows as make it add
z² to that, z standard deviations from its mean; the fit, in which rows of one trunk do not count as independent, weighs it against a quarter. Where one
parameter can double or halve at next to no cost it lies on a ridge, and its value means nothing, though forecasts may be sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from planner.arrays import Array
from planner.fit.diagnosis import ILL_CONDITIONED, diagnose
from planner.fit.prior import INDEPENDENT
from planner.fit.solver import DELTA, DELTAS, TOLERANCE, Solution, huber, solve
from planner.laws import Law, Points

CHI2_90 = 2.7055434540954146
"""0.9 quantile of χ² with one degree of freedom."""
REACH = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.55, 0.8, 1.2, 1.8, 2.6, 4.0, 6.5])
"""Steps of the profile on either side, in the logarithm of the parameter (without a log scale: in tenths of its range)."""
NEAR = np.array([0.25, 0.5, 0.75, 0.9, 1.05, 1.25, 1.6, 2.0])
"""Where a side is profiled again: shares of the way from the best value to where the excess seems to cross 1."""
APART = 0.3
"""A side is profiled again if √excess differs by more than this between the values on either side of the crossing."""
AGAIN = 4
"""Most repeats; a parameter known far more closely than the least step of `REACH` takes more than one."""
STEPS = 60
HELD_TOLERANCE = 1e-8
"""Relative gain of a step below which a problem with a parameter held is done."""
LIKE = (0.25, 4.0)
"""Bounds for how many independent rows each row counts for against a prior, for few rows or odd residuals, which do not tell the shape of the noise."""
RIDGE = float(np.log(2.0))
FLAT = 0.5
"""Excess of the objective, in units of the 90 % threshold, up to which a point on a ridge is as good a start for resamples as the best one."""
PLACES = 13
"""Values of each parameter on a flat ridge that are tried, from one bound to the other."""


@dataclass(frozen=True)
class Profile:
    """One parameter's profile."""

    name: str
    value: Array
    """Values that the parameter was held at, ascending, shape (values,)."""
    excess: Array
    """Objective less its minimum, in units of the 90 % threshold, shape (values,)."""
    low: float
    """End of the 90 % interval, or the bound where the excess never reaches 1."""
    high: float
    open_low: bool
    """Whether the rows give no lower end inside the parameter's bounds."""
    open_high: bool


@dataclass(frozen=True)
class _Rows:
    """The rows that a law was fitted to, and what a profile compares with."""

    law: Law
    points: Points
    log_loss: Array
    theta: Array
    """The fit's parameters."""
    threshold: float
    """Excess of the objective at the ends of a 90 % interval."""
    weight: float
    """Of a row, against a prior; 1 for a law without priors. It multiplies the objectives too, and is divided out of them."""

    @classmethod
    def of(cls, law: Law, points: Points, log_loss: Array, theta: Array) -> _Rows:
        residual = log_loss - law.log_loss(theta[None], points)[0]
        # A fit that is nearly one of least absolute residuals passes through as many rows as it has parameters: those say nothing of the others' noise.
        size = np.sort(np.abs(residual))[min(len(theta), len(residual) // 2) :]
        near = max(0.5 * float(np.median(size)) / 0.6745, DELTA)
        density = (size <= near).mean() / near
        inside = min(1.0, DELTA * density)
        threshold = float(0.5 * CHI2_90 * (np.minimum(size, DELTA) ** 2).mean() / max(inside, 1.0 / points.count))
        like = 0.5 * CHI2_90 * float(huber(residual, DELTA).mean()) / max(threshold, 1e-300)
        return cls(law, points, log_loss, theta, threshold, float(np.clip(like, *LIKE)) / INDEPENDENT if law.has_prior else 1.0)

    @cached_property
    def best(self) -> Solution:
        """The fit with no parameter held."""
        return self._solve(self.theta[None], DELTAS[-1:], TOLERANCE)

    def _solve(self, start: Array, deltas: tuple[float, ...], tolerance: float, held: Array | None = None) -> Solution:
        weights = np.full((1, self.points.count), self.weight)
        found = solve(self.law, self.points, self.log_loss, start, weights, deltas=deltas, iterations=STEPS, tolerance=tolerance, fixed=held)
        return replace(found, objective=found.objective / self.weight)

    def solve(self, start: Array, held: Array) -> Solution:
        """Fit with some parameters held at their start, one problem a row."""
        return self._solve(start, DELTAS[1:], HELD_TOLERANCE, held)

    def held(self, chosen: Sequence[int], grids: Sequence[Array], near: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Hold each chosen parameter at each of its values; return the objectives, less the one with none held, and the parameters."""
        start, held = _starts(near, chosen, grids)
        first = self.solve(start, held)
        value, solved = first.objective, first.theta
        # Once more from what the neighbours on either side found: a held value may have stopped in a side valley.
        for shift in (1, -1):
            again = self._solve(np.where(held, start, np.roll(solved, shift, axis=0)), DELTAS[-1:], HELD_TOLERANCE, held)
            solved = np.where((again.objective < value)[:, None], again.theta, solved)
            value = np.minimum(value, again.objective)
        ends = np.cumsum([len(grid) for grid in grids])[:-1]
        return np.split(value - self.best.objective, ends), np.split(solved, ends)


def profile(law: Law, points: Points, log_loss: Array, theta: Array, names: Sequence[str] = ()) -> list[Profile]:
    """Profile parameters, all in one batch.

    Args:
        law: the law.
        points: the runs, n of them.
        log_loss: ln L, shape (n,).
        theta: the best parameters, shape (parameters,).
        names: which parameters; all by default.
    """
    chosen = [number for number, parameter in enumerate(law.parameters) if not names or parameter.name in names]
    rows = _Rows.of(law, points, log_loss, theta)
    theta = rows.best.theta[0]
    grids, excess, solved = [theta[[number]] for number in chosen], [np.zeros(1) for _ in chosen], [theta[None] for _ in chosen]
    new = [_grid(law, number, theta[number], np.concatenate([-REACH[::-1], REACH])) for number in chosen]
    for _ in range(1 + AGAIN):
        near = [solution[np.abs(grid[:, None] - more).argmin(0)] for solution, grid, more in zip(solved, grids, new, strict=True)]
        for place, (value, solution) in enumerate(zip(*rows.held(chosen, new, near), strict=True)):
            grids[place], first = np.unique(np.append(grids[place], new[place]), return_index=True)
            excess[place] = np.append(excess[place], value / rows.threshold)[first]
            solved[place] = np.append(solved[place], solution, axis=0)[first]
        new = [_nearer(grid, over - over.min()) for grid, over in zip(grids, excess, strict=True)]
        if not any(map(len, new)):
            break
    found = []
    for number, grid, over in zip(chosen, grids, excess, strict=True):
        parameter, over = law.parameters[number], over - over.min()
        low, high = (_crossing(*side) for side in _sides(grid, over))
        ends = parameter.low if low is None else low, parameter.high if high is None else high
        found.append(Profile(parameter.name, grid, over, *ends, low is None, high is None))
    return found


def ridge(law: Law, points: Points, log_loss: Array, theta: Array) -> tuple[str, ...]:
    """Name the parameters that can double or halve within the 90 % threshold, the others making up for it."""
    chosen = [number for number, parameter in enumerate(law.parameters) if parameter.logarithmic]
    if not chosen:
        return ()
    grids = [_grid(law, number, theta[number], np.array([-RIDGE, RIDGE])) for number in chosen]
    rows = _Rows.of(law, points, log_loss, theta)
    value = rows.solve(*_starts([theta] * len(chosen), chosen, grids)).objective
    values = np.split(value - min(rows.best.objective[0], value.min()), len(chosen))
    return tuple(law.parameters[number].name for number, value in zip(chosen, values, strict=True) if value.min() < rows.threshold)


def along(law: Law, points: Points, log_loss: Array, theta: Array, names: Sequence[str]) -> Array:
    """Find solutions all along a flat ridge: resamples that all start from one of them would end near it and miss the rest of the ridge.

    Args:
        law: the law.
        points: the runs, n of them.
        log_loss: ln L, shape (n,).
        theta: the best parameters, shape (parameters,).
        names: parameters on the ridge.

    Returns:
        Parameters, shape (places, parameters), the best first; the best alone where the runs determine the parameters.
    """
    if diagnose(law, points, theta, True).condition <= ILL_CONDITIONED or not names:
        return theta[None]
    chosen = [number for number, parameter in enumerate(law.parameters) if parameter.name in names]
    grids = [_grid(law, n, 1.0, np.log(np.geomspace(law.parameters[n].low, law.parameters[n].high, PLACES))) for n in chosen]
    rows = _Rows.of(law, points, log_loss, theta)
    found = rows.solve(*_starts([theta] * len(chosen), chosen, grids))
    flat = found.objective - rows.best.objective < FLAT * rows.threshold
    return np.vstack([theta, found.theta[flat]])


def _grid(law: Law, number: int, value: float, reach: Array) -> Array:
    parameter = law.parameters[number]
    grid = value * np.exp(reach) if parameter.logarithmic else value + 0.1 * reach * (parameter.high - parameter.low)
    # Just inside the bounds, where the map to free coordinates is finite.
    margin = 1e-6 * (parameter.high - parameter.low)
    result: Array = np.clip(grid, parameter.low * (1 + 1e-6) if parameter.logarithmic else parameter.low + margin, parameter.high - margin)
    return result


def _starts(near: Sequence[Array], chosen: Sequence[int], grids: Sequence[Array]) -> tuple[Array, Array]:
    """Put each chosen parameter at each of its values, the others where they are in `near`, of shape (parameters,) or (values, parameters).

    Returns:
        Parameters, and which of them is held, each of shape (all values, parameters).
    """
    starts, fixed = [], []
    for number, grid, others in zip(chosen, grids, near, strict=True):
        start = np.array(np.broadcast_to(others, (len(grid), others.shape[-1])))
        start[:, number] = grid
        starts.append(start)
        fixed.append(np.tile(np.arange(start.shape[1]) == number, (len(grid), 1)))
    return np.vstack(starts), np.vstack(fixed)


def _sides(grid: Array, excess: Array) -> list[tuple[Array, Array]]:
    """Split a profile at its best value into the sides below and above, each ordered away from it."""
    at = int(np.argmin(excess))
    return [(grid[at::-1], excess[at::-1]), (grid[at:], excess[at:])]


def _crossing(grid: Array, excess: Array) -> float | None:
    """Find where the excess first crosses 1, interpolating its root, which is linear where the objective is a parabola; None where it never does."""
    over = np.flatnonzero(excess > 1)
    if not len(over):
        return None
    at, root = int(over[0]), np.sqrt(excess)
    share = (1 - root[at - 1]) / (root[at] - root[at - 1])
    return float(grid[at - 1] + share * (grid[at] - grid[at - 1]))


def _nearer(grid: Array, excess: Array) -> Array:
    """Choose values about where the excess crosses 1, on the sides where the known ones lie too far apart to locate it."""
    found = [np.empty(0)]
    for values, over in _sides(grid, excess):
        end, at = _crossing(values, over), int(np.argmax(over > 1))
        if end is not None and np.sqrt(over[at]) - np.sqrt(over[at - 1]) > APART:
            found.append(values[0] + NEAR * (end - values[0]))
    return np.clip(np.concatenate(found), grid[0], grid[-1])
