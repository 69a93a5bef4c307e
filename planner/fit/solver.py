"""The solver: many problems of one law at once (starts × resamples), numpy only.

Each problem minimises Σ w·Huber_δ(ln L − ln L̂), summed, never averaged (arXiv 2404.10102), δ lowered in steps so that fewer
starts end in a poor minimum. The step is a damped Newton step without the law's second derivatives: curvature of the rows
inside δ, plus λ times the reweighted least-squares matrix, which alone would be a majorising step. Bounds are kept by a logistic map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.laws import Law, Points
from planner.laws.dual import Array

DELTA = 1e-3
"""Huber's δ on log loss."""
DELTAS = (3e-2, 6e-3, DELTA)
EDGE = 2e-3
"""Share of a parameter's range at either end that counts as at its bound."""
ILL_CONDITIONED = 1e12
TOLERANCE = 1e-10
"""Relative gain under which a step counts as none."""
LONGEST_STEP = 4.0

STATUS_ADVICE = {
    "converged": "the fit stands",
    "max_iterations": "the solver stopped early: fit again with more starts, or a simpler law",
    "at_bound": "a parameter runs to the edge of its range: the runs do not pin it down; choose a simpler law or widen the sweep",
    "ill_conditioned": "several parameters trade off against each other: trust forecasts near the runs, not the parameters",
}


@dataclass(frozen=True)
class Solution:
    """Outcome of a batch of problems."""

    theta: Array
    """Parameters, shape (problems, parameters)."""
    objective: Array
    """Σ w·Huber, shape (problems,)."""
    finished: Array
    """Whether each problem stopped by itself, shape (problems,)."""


class Scale:
    """Maps parameters to unbounded coordinates and back."""

    def __init__(self, law: Law) -> None:
        self._log = np.array([parameter.logarithmic for parameter in law.parameters])
        low = np.array([parameter.low for parameter in law.parameters])
        high = np.array([parameter.high for parameter in law.parameters])
        self._low, self._high = self._forward(low), self._forward(high)
        self._starts = self._forward(np.array([parameter.start for parameter in law.parameters]).T)

    def _forward(self, theta: Array) -> Array:
        return np.where(self._log, np.log(np.where(self._log, theta, 1.0)), theta)

    def share(self, theta: Array) -> Array:
        """Return where parameters stand between their bounds, 0 to 1."""
        result: Array = (self._forward(theta) - self._low) / (self._high - self._low)
        return result

    def to_free(self, theta: Array) -> Array:
        """Map parameters to unbounded coordinates."""
        share = np.clip(self.share(theta), 1e-6, 1 - 1e-6)
        result: Array = np.log(share / (1 - share))
        return result

    def to_theta(self, free: Array) -> tuple[Array, Array]:
        """Map coordinates to parameters and the parameters' derivatives by them."""
        share = 1 / (1 + np.exp(-np.clip(free, -40, 40)))
        inner = self._low + (self._high - self._low) * share
        theta = np.where(self._log, np.exp(np.where(self._log, inner, 0.0)), inner)
        slope = (self._high - self._low) * share * (1 - share) * np.where(self._log, theta, 1.0)
        return theta, slope

    def draw(self, random: np.random.Generator, count: int) -> Array:
        """Draw starts from the law's start ranges, shape (count, parameters)."""
        low, high = self._starts
        inner = low + (high - low) * random.random((count, len(low)))
        theta: Array = np.where(self._log, np.exp(np.where(self._log, inner, 0.0)), inner)
        return theta


def huber(residual: Array, delta: float) -> Array:
    """Return Huber's function of residuals."""
    size = np.abs(residual)
    result: Array = np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
    return result


def objective(law: Law, theta: Array, points: Points, log_loss: Array, weights: Array, delta: float = DELTA) -> Array:
    """Return Σ w·Huber for each problem, infinite where the forecast is not a number."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = (weights * huber(log_loss - law.log_loss(theta, points), delta)).sum(1)
    return np.where(np.isfinite(total), total, np.inf)


def solve(
    law: Law, points: Points, log_loss: Array, starts: Array, weights: Array, *, deltas: tuple[float, ...] = DELTAS, iterations: int = 300
) -> Solution:
    """Solve a batch of problems.

    Args:
        law: the law.
        points: where the runs are, n of them.
        log_loss: ln L of the runs, shape (n,).
        starts: parameters to start from, shape (problems, parameters).
        weights: weight of each run in each problem, shape (problems, n) or (1, n).
        deltas: Huber's δ, largest first; the last one is the objective that is meant.
        iterations: steps at most with the last δ; earlier ones get a tenth.
    """
    scale = Scale(law)
    free = scale.to_free(starts)
    weights = np.broadcast_to(weights, (len(starts), len(log_loss)))
    finished = np.zeros(len(starts), dtype=bool)
    for delta in deltas:
        last = delta == deltas[-1]
        most, looseness = (iterations, 1.0) if last else (iterations // 10, 1e4)
        free, value, finished = _descend(law, scale, points, log_loss, free, weights, delta, most, looseness)
    return Solution(scale.to_theta(free)[0], value, finished)


def _descend(
    law: Law, scale: Scale, points: Points, log_loss: Array, free: Array, weights: Array, delta: float, iterations: int, looseness: float
) -> tuple[Array, Array, Array]:
    free = free.copy()
    count = free.shape[1]
    values = np.full(len(free), np.inf)
    finished = np.zeros(len(free), dtype=bool)
    active = np.arange(len(free))
    damping = np.ones(len(free))
    still = np.zeros(len(free), dtype=int)
    state = _measure(law, scale, points, log_loss, free, weights, delta)
    for _ in range(iterations):
        value, gradient, curvature, majorant = state
        values[active] = value
        diagonal = np.einsum("kii->ki", majorant)
        ridge = 1e-8 * diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-300
        matrix = curvature + damping[active][:, None, None] * majorant
        matrix[:, range(count), range(count)] += ridge * np.maximum(damping[active], 1e-2)[:, None] * 10
        step = -np.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
        step = np.clip(np.where(np.isfinite(step), step, 0.0), -LONGEST_STEP, LONGEST_STEP)
        tried = _measure(law, scale, points, log_loss, free[active] + step, weights[active], delta)
        better = tried[0] < value
        gain = np.where(better, (value - tried[0]) / np.maximum(value, 1e-300), 0.0)
        free[active[better]] += step[better]
        damping[active] = np.where(better, np.maximum(damping[active] * 0.3, 1e-6), np.minimum(damping[active] * 6, 1e9))
        state = _merge(better, tried, state)
        idle = (better & (gain < TOLERANCE * looseness)) | (~better & (damping[active] > 1e7))
        still[active] = np.where(idle, still[active] + 1, np.where(better, 0, still[active]))
        values[active] = state[0]
        done = still[active] >= 2
        if done.any():
            finished[active[done]] = True
            keep = ~done
            active = active[keep]
            state = (state[0][keep], state[1][keep], state[2][keep], state[3][keep])
            if not len(active):
                break
    return free, values, finished


_State = tuple[Array, Array, Array, Array]


def _measure(law: Law, scale: Scale, points: Points, log_loss: Array, free: Array, weights: Array, delta: float) -> _State:
    """Return objective, gradient, curvature of the rows inside δ, and the reweighted least-squares matrix."""
    theta, by_free = scale.to_theta(free)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        forecast, slopes = law.log_loss_and_slopes(theta, points)
        residual = log_loss - forecast
        value = (weights * huber(residual, delta)).sum(1)
        slopes = slopes * by_free[:, :, None]
    bad = ~np.isfinite(value) | ~np.isfinite(slopes).all((1, 2))
    if bad.any():
        value = np.where(bad, np.inf, value)
        slopes[bad] = 0.0
        residual = np.where(bad[:, None], 0.0, residual)
    size = np.abs(residual)
    inside = size <= delta
    pull = np.where(inside, residual, delta * np.sign(residual)) * weights
    gradient = -(slopes @ pull[:, :, None])[:, :, 0]
    across = slopes.transpose(0, 2, 1)
    curvature = (slopes * (weights * inside)[:, None, :]) @ across
    majorant = (slopes * (weights * np.where(inside, 1.0, delta / np.maximum(size, 1e-300)))[:, None, :]) @ across
    return value, gradient, curvature, majorant


def _merge(better: Any, new: _State, old: _State) -> _State:
    return (
        np.where(better, new[0], old[0]),
        np.where(better[:, None], new[1], old[1]),
        np.where(better[:, None, None], new[2], old[2]),
        np.where(better[:, None, None], new[3], old[3]),
    )


def condition_number(law: Law, points: Points, theta: Array, weights: Array) -> float:
    """Return the condition number of the normal equations, columns scaled to unit length, at one parameter vector."""
    scale = Scale(law)
    _, by_free = scale.to_theta(scale.to_free(theta[None]))
    slopes = law.log_loss_and_slopes(theta[None], points)[1][0] * by_free[0][:, None] * np.sqrt(weights)
    length = np.sqrt((slopes**2).sum(1))
    if not (length > 0).all():
        return float("inf")
    unit = slopes / length[:, None]
    return float(np.linalg.cond(unit @ unit.T))
