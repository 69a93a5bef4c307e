"""The solver: many problems of one law at once (starts × resamples), numpy only.

Each problem minimises Σ w·Huber_δ(ln L − ln L̂), summed, never averaged (arXiv 2404.10102), δ lowered in steps so that fewer
starts end in a poor minimum. A step is a damped Newton step with the law's exact second derivatives: (H + λM)·d = −g, where M is
the reweighted least-squares matrix, whose own step always descends and which takes over as λ grows. Bounds are kept by a logistic map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.fit.scale import Scale
from planner.laws import Law, Points
from planner.laws.dual import Array

DELTA = 1e-3
"""Huber's δ on log loss."""
DELTAS = (3e-2, 6e-3, DELTA)
EARLY_STEPS = 10
"""Steps at most with each δ before the last."""
TOLERANCE = 1e-11
"""Relative gain under which a step counts as none."""
EARLY_TOLERANCE = 1e-3
LONGEST_STEP = 3.0
"""In the logistic coordinates."""
FIRST_DAMPING = 0.1
MOST_DAMPING = 1e6
KEPT = 0.3
"""Share of the gain that the quadratic model promises from which a Newton step is taken as it is."""
DAMPINGS = (0.1, 6.0, 60.0, 1000.0)
LENGTHS = (0.5, 0.2, 0.05)
"""What else is tried: multiples of the damping, shares of the step."""
BATCH = 100000
"""Problems × runs × parameters worked on at once: what stays in a core's cache."""


@dataclass(frozen=True)
class Solution:
    """Outcome of a batch of problems."""

    theta: Array
    """Parameters, shape (problems, parameters)."""
    objective: Array
    """Σ w·Huber, shape (problems,)."""
    finished: Array
    """Whether each problem stopped by itself, shape (problems,)."""


def huber(residual: Array, delta: float) -> Array:
    """Return Huber's function of residuals."""
    clipped = np.minimum(np.abs(residual), delta)
    result: Array = clipped * (np.abs(residual) - 0.5 * clipped)
    return result


def objective(law: Law, theta: Array, points: Points, log_loss: Array, weights: Array, delta: float = DELTA) -> Array:
    """Return Σ w·Huber for each problem, infinite where the forecast is not a number."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = (weights * huber(log_loss - law.log_loss(theta, points), delta)).sum(1)
    return np.where(np.isfinite(total), total, np.inf)


def solve(
    law: Law, points: Points, log_loss: Array, starts: Array, weights: Array, *, deltas: tuple[float, ...] = DELTAS,
    iterations: int = 200, tolerance: float = TOLERANCE, fixed: Array | None = None,
) -> Solution:  # fmt: skip
    """Solve a batch of problems.

    Args:
        law: the law.
        points: where the runs are, n of them.
        log_loss: ln L of the runs, shape (n,).
        starts: parameters to start from, shape (problems, parameters).
        weights: weight of each run in each problem, shape (problems, n) or (1, n).
        deltas: Huber's δ, largest first; the last one is the objective that is meant.
        iterations: steps at most with the last δ.
        tolerance: relative gain of a step under which a problem is done.
        fixed: which parameters of which problem keep their start, shape (problems, parameters).
    """
    scale = Scale(law)
    free = scale.to_free(starts)
    moves = np.ones((1, free.shape[1])) if fixed is None else 1.0 - fixed
    value = np.full(len(free), np.inf)
    finished = np.zeros(len(free), dtype=bool)
    size = max(1, BATCH // (points.count * starts.shape[1]))
    for first in range(0, len(free), size):
        part = slice(first, first + size)
        batch = _Batch(law, scale, points, log_loss, _rows(weights, part), _rows(moves, part))
        for delta in deltas:
            last = delta == deltas[-1]
            free[part], value[part], finished[part] = batch.descend(
                free[part], delta, iterations if last else EARLY_STEPS, tolerance if last else EARLY_TOLERANCE
            )
    return Solution(scale.to_theta(free), value, finished)


@dataclass
class _State:
    """A point and what the objective does around it, for the problems that still move."""

    value: Array
    gradient: Array
    curvature: Array
    majorant: Array

    def take(self, chosen: Any) -> _State:
        return _State(self.value[chosen], self.gradient[chosen], self.curvature[chosen], self.majorant[chosen])

    def put(self, where: Any, other: _State) -> None:
        for name in ("value", "gradient", "curvature", "majorant"):
            getattr(self, name)[where] = getattr(other, name)


@dataclass(frozen=True)
class _Batch:
    law: Law
    scale: Scale
    points: Points
    log_loss: Array
    weights: Array
    """Shape (problems, runs) or (1, runs)."""
    moves: Array
    """1, or 0 where a parameter is fixed; shape (problems, parameters) or (1, parameters)."""

    def descend(self, free: Array, delta: float, iterations: int, tolerance: float) -> tuple[Array, Array, Array]:
        """Lower the objective until no step gains; return points, values, and which problems stopped by themselves."""
        free, values = free.copy(), np.full(len(free), np.inf)
        finished = np.zeros(len(free), dtype=bool)
        active = np.arange(len(free))
        here, weights, moves = free.copy(), self.weights, self.moves
        damping, idle = np.full(len(free), FIRST_DAMPING), np.zeros(len(free), dtype=int)
        state = self._measure(here, weights, moves, delta)
        for _ in range(iterations):
            step, tried, damping = self._search(here, weights, delta, state, damping)
            gain = (state.value - tried) / np.maximum(state.value, 1e-300)
            better = gain > 0
            idle = np.where(gain < tolerance, idle + 1, 0)
            done = (idle >= 2) | (~better & (damping > MOST_DAMPING))
            here[better] += step[better]
            state.value = np.where(better, tried, state.value)
            if done.any():
                ended = active[done]
                free[ended], values[ended], finished[ended] = here[done], state.value[done], True
                kept = ~done
                active = active[kept]
                if not len(active):
                    return free, values, finished
                here, damping, idle, state, better = here[kept], damping[kept], idle[kept], state.take(kept), better[kept]
                weights, moves = _rows(weights, kept), _rows(moves, kept)
            if better.all():
                state = self._measure(here, weights, moves, delta)
            elif better.any():
                state.put(better, self._measure(here[better], _rows(weights, better), _rows(moves, better), delta))
        free[active], values[active] = here, state.value
        return free, values, finished

    def _search(self, here: Array, weights: Array, delta: float, state: _State, damping: Array) -> tuple[Array, Array, Array]:
        """Choose a step: the damped Newton step where it keeps its promise, else the best of several dampings and lengths.

        Values alone cost a tenth of what derivatives cost, so trying many steps from one place beats moving badly.
        """
        step = _step(state, damping)
        tried = self._values(here + step, weights, delta)
        promise = -(step * state.gradient).sum(1) - 0.5 * np.einsum("ki,kij,kj->k", step, state.curvature, step)
        kept = state.value - tried >= KEPT * promise
        kept &= promise > 0
        chosen = np.where(kept, damping * 0.1, damping)
        chosen[chosen < 1e-6] = 0.0
        poor = np.flatnonzero(~kept)
        if len(poor):
            base = np.maximum(damping[poor], 1e-4)
            dampings = np.concatenate([base * factor for factor in DAMPINGS])
            several = [_step(state.take(np.tile(poor, len(DAMPINGS))), dampings), *(step[poor] * length for length in LENGTHS)]
            steps = np.concatenate(several).reshape(-1, len(poor), here.shape[1])
            after = np.concatenate([dampings, np.tile(base * 2, len(LENGTHS))]).reshape(-1, len(poor))
            few = _rows(weights, np.tile(poor, len(steps)))
            values = self._values((here[poor] + steps).reshape(-1, here.shape[1]), few, delta).reshape(len(steps), -1)
            best, every = values.argmin(0), np.arange(len(poor))
            won = values[best, every] < tried[poor]
            number = poor[won]
            step[number], tried[number], chosen[number] = (items[best, every][won] for items in (steps, values, after))
            stuck = poor[tried[poor] >= state.value[poor]]
            chosen[stuck] = np.maximum(damping[stuck], 1e-4) * DAMPINGS[-1] * 8
        return step, tried, chosen

    def _values(self, free: Array, weights: Array, delta: float) -> Array:
        return objective(self.law, self.scale.to_theta(free), self.points, self.log_loss, weights, delta)

    def _measure(self, free: Array, weights: Array, moves: Array, delta: float) -> _State:
        """Return objective, gradient, Hessian, and the reweighted least-squares matrix."""
        theta, first, second = self.scale.bend(free)
        first, second = first * moves, second * moves
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            forecast, slopes, trace = self.law.log_loss_slopes_and_trace(theta, self.points)
            residual = self.log_loss - forecast
            size = np.abs(residual)
            clipped = np.minimum(size, delta)
            value = (weights * (clipped * (size - 0.5 * clipped))).sum(1)
            pull = np.copysign(clipped, residual) * weights
            gradient = -(slopes @ pull[:, :, None])[:, :, 0]
            across = slopes.transpose(0, 2, 1)
            curvature = (slopes * (weights * (size <= delta))[:, None, :]) @ across + self.law.log_curvature(trace, slopes, -pull)
            majorant = (slopes * (weights * (clipped / np.maximum(size, 1e-300)))[:, None, :]) @ across
            outer = first[:, :, None] * first[:, None, :]
            curvature *= outer
            np.einsum("kii->ki", curvature)[...] += gradient * second
            majorant *= outer
            gradient *= first
        bad = ~np.isfinite(value + curvature.sum((1, 2)) + majorant.sum((1, 2)))
        if bad.any():
            value = np.where(bad, np.inf, value)
            for item in (gradient, curvature, majorant):
                item[bad] = 0.0
        return _State(value, gradient, curvature, majorant)


def _rows(items: Array, chosen: Any) -> Array:
    """Take the rows of some problems; what is the same for all of them stays as it is."""
    return items if len(items) == 1 else items[chosen]


def _step(state: _State, damping: Array) -> Array:
    """Solve for the damped Newton step; where it does not descend, take the majorising one."""
    diagonal = np.einsum("kii->ki", state.majorant)
    ridge = 1e-6 * diagonal + 1e-12 * diagonal.max(1, keepdims=True) + 1e-300
    matrix = state.curvature + damping[:, None, None] * state.majorant
    np.einsum("kii->ki", matrix)[...] += (damping[:, None] + 1e-7) * ridge
    step = -np.linalg.solve(matrix, state.gradient[:, :, None])[:, :, 0]
    uphill = np.flatnonzero(~((step * state.gradient).sum(1) < 0))
    if len(uphill):
        safe = state.majorant[uphill]
        np.einsum("kii->ki", safe)[...] += ridge[uphill]
        step[uphill] = -np.linalg.solve(safe, state.gradient[uphill, :, None])[:, :, 0] / (1 + damping[uphill, None])
    longest = np.abs(step).max(1, keepdims=True)
    result: Array = np.where(np.isfinite(step), step, 0.0) * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    return result
