"""The solver: many problems of one law at once (starts × resamples), numpy only.

Each problem minimises Σ w·Huber_δ(ln L − ln L̂), summed, never averaged (arXiv 2404.10102), times the factor of `prior` for a law with priors;
δ is lowered in steps so that fewer starts end in a poor minimum. A step solves (H + λM)·d = −g. H has the curvature of the rows inside δ, and with
`exact` the law's second derivatives too; M is the reweighted least-squares matrix, whose own step always descends and which takes over as λ grows.
Second derivatives save no early steps, since nearly all rows are outside δ and pull by their sign alone, and cost more than all the rest: they serve
for the last steps of a solution that is kept. A logistic map keeps the bounds. It curves valleys that lead to a bound, along which steps in its
coordinates make little progress; so the last steps are also tried straight in the parameters (or their logarithms), stopping short of the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.allocator import keep_memory
from planner.fit.prior import Prior
from planner.fit.scale import Scale, logistic
from planner.laws import Law, Points
from planner.laws.compiled import CompiledLaw

DELTA = 1e-3
"""Huber's δ on log loss."""
DELTAS = (3e-2, 6e-3, DELTA)
EARLY_STEPS = 10
"""Steps at most with each δ before the last."""
TOLERANCE = 1e-11
"""Relative gain under which a step counts as none."""
EARLY_TOLERANCE = 1e-3
LONGEST_STEP = 3.0
"""Of any coordinate, on the logistic map."""
FIRST_DAMPING = 0.1
MOST_DAMPING = 1e6
KEPT = 0.3
"""A Newton step is taken as it is if it gains at least this share of what the quadratic model predicts."""
FREE = 0.1
"""Damping up to which a step taken as it is shows how much is left to gain: where that is next to nothing, the problem is done."""
DAMPINGS = (0.1, 6.0, 60.0, 1000.0)
LENGTHS = (0.5, 0.2, 0.05)
"""Tried otherwise: multiples of the damping, and shares of the step."""
LEANING = (0.01, 0.1)
"""From far starts, Marquardt's steps (1963, doi 10.1137/0111030) are tried too, with these shares of its diagonal added to the majorant: all other steps
run along a curved valley and up its side. Later they cost more than they gain."""
SURE = 2
"""Exact steps after which straight ones are tried beside them: most problems are done by then."""
TOWARDS = 0.9
"""Share of the way to a bound that a straight step goes at most."""
BATCH = 200000
"""Problems × runs × parameters worked on at once: what stays in a core's cache."""
EXACT_BATCH = 6000
"""Problems × runs whose second derivatives are computed at once: they keep some 250 arrays of this size."""


@dataclass(frozen=True)
class Solution:
    """Outcome of a batch of problems."""

    theta: Array
    """Parameters, shape (problems, parameters)."""
    objective: Array
    """Σ w·Huber, shape (problems,)."""
    finished: Any
    """Whether each problem stopped by itself, shape (problems,)."""


def huber(residual: Array, delta: Any) -> Array:
    """Return Huber's function of residuals."""
    size = np.abs(residual)
    clipped = np.minimum(size, delta)
    result: Array = clipped * (size - 0.5 * clipped)
    return result


def objective(law: Law, theta: Array, points: Points, log_loss: Array, weights: Array, delta: Any = DELTA) -> Array:
    """Return Σ w·Huber for each problem, times the priors' factor where the law has any, infinite where the forecast is not a number."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _total(law.on(points), theta, log_loss, weights, delta, Prior.of(law, weights.sum(1), None))


def _total(written: CompiledLaw, theta: Array, log_loss: Array, weights: Array | None, delta: Any, prior: Prior | None) -> Array:
    cost = huber(log_loss - written.log_loss(theta), delta)
    total: Array = np.add.reduce(cost if weights is None else weights * cost, 1)
    if prior is not None:
        total *= prior.factor(theta)
    total[~np.isfinite(total)] = np.inf
    return total


def solve(
    law: Law, points: Points, log_loss: Array, starts: Array, weights: Array, *, deltas: tuple[float, ...] = DELTAS,
    iterations: int = 200, tolerance: float = TOLERANCE, fixed: Array | None = None, exact: bool = False, afar: bool = False,
    means: Array | None = None,
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
        exact: whether steps use the law's second derivatives.
        afar: whether starts may be far from any valley's floor.
        means: of the priors in each problem, shape (problems, parameters); the law's own by default.
    """
    keep_memory()
    scale = Scale(law)
    free = scale.to_free(starts)
    moves = None if fixed is None else 1.0 - fixed
    size = max(1, min(len(free), BATCH // (points.count * free.shape[1])))
    work = np.empty((2, size, free.shape[1], points.count))
    even = None if len(weights) == 1 and (weights == 1).all() else weights
    prior = Prior.of(law, weights.sum(1), means)
    batch = _Batch(law.on(points), scale, log_loss, even, moves, prior, deltas, iterations, tolerance, exact, afar, work)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a step that overflows is rejected
        value, finished = batch.solve(free)
    return Solution(scale.to_theta(free), value, finished)


@dataclass
class _State:
    """The problems being worked on: where each stands, and what the objective does around it."""

    number: Any
    """Which problem each is, shape (active,)."""
    here: Array
    """Coordinates, shape (active, parameters)."""
    stage: Any
    """Which δ it is at."""
    steps: Any
    """Steps with this δ."""
    damping: Array
    idle: Any
    """Steps in a row that gained next to nothing."""
    value: Array
    gradient: Array
    curvature: Array
    majorant: Array

    def take(self, chosen: Any) -> _State:
        return _State(*(items[chosen] for items in vars(self).values()))

    def look(self, batch: _Batch, these: Any) -> None:
        """Evaluate objective and derivatives anew for some of the problems."""
        if len(these) == len(self.number):
            self.value, self.gradient, self.curvature, self.majorant = batch.measure(self.number, self.stage, self.here)
            return
        found = batch.measure(self.number[these], self.stage[these], self.here[these])
        self.value[these], self.gradient[these], self.curvature[these], self.majorant[these] = found

    def add(self, other: _State) -> _State:
        return _State(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class _Batch:
    written: CompiledLaw
    scale: Scale
    log_loss: Array
    weights: Array | None
    """Shape (problems, runs) or (1, runs); None where all are one."""
    moves: Array | None
    """1, or 0 where a parameter is fixed, shape (problems, parameters); None where none is."""
    prior: Prior | None
    deltas: tuple[float, ...]
    iterations: int
    tolerance: float
    exact: bool
    afar: bool
    work: Array
    """Buffer for the slopes and their products, shape (2, most active, parameters, runs): arrays of this size are expensive to allocate."""

    def solve(self, free: Array) -> tuple[Array, Array]:
        """Lower every objective, in place, until no step gains; return the values, and which problems stopped by themselves.

        A finished problem makes room for the next one, so that a few slow ones do not leave the batch half empty.
        """
        count, last = len(free), len(self.deltas) - 1
        values, finished = np.full(count, np.inf), np.zeros(count, dtype=bool)
        size = self.work.shape[1]
        most = np.array([EARLY_STEPS] * last + [self.iterations])
        tolerance = np.array([EARLY_TOLERANCE] * last + [self.tolerance])
        patience = np.where(tolerance < EARLY_TOLERANCE, 2, 1)
        state, following = self._begin(np.arange(size), free), size
        while len(state.number):
            step, tried, state.damping, sure = self._search(state)
            # From a place where the objective is infinite any finite value is a gain.
            gain = (state.value - tried) / np.maximum(state.value, 1e-300)
            lost = state.value == np.inf
            if lost.any():
                gain[lost] = np.isfinite(tried[lost])
            better = gain > 0
            state.steps += 1
            state.idle = np.where(gain < tolerance[state.stage], state.idle + 1 + sure, 0)
            still = (state.idle >= patience[state.stage]) | (~better & (state.damping > MOST_DAMPING))
            state.here[better] += step[better]
            state.value = np.where(better, tried, state.value)
            over = still | (state.steps >= most[state.stage])
            ended = over & (state.stage == last)
            # Problems that go on to the next δ start there afresh.
            onward = (over & ~ended).nonzero()[0]
            state.stage[onward] += 1
            state.steps[onward], state.idle[onward], state.damping[onward] = 0, 0, FIRST_DAMPING
            moved = better
            moved[onward] = True
            if ended.any():
                number = state.number[ended]
                free[number], values[number], finished[number] = state.here[ended], state.value[ended], still[ended]
                state, moved = state.take(~ended), moved[~ended]
            if len(these := moved.nonzero()[0]):
                state.look(self, these)
            if following < count and (room := size - len(state.number)) > 0:
                state = state.add(self._begin(np.arange(following, min(count, following + room)), free))
                following += room
        return values, finished

    def _begin(self, number: Any, free: Array) -> _State:
        few = len(number)
        zero, here = np.zeros(few, dtype=int), free[number]
        return _State(number, here, zero, zero.copy(), np.full(few, FIRST_DAMPING), zero.copy(), *self.measure(number, zero, here))

    def _search(self, state: _State) -> tuple[Array, Array, Array, Any]:
        """Choose a step for each problem; return the steps, the objectives they lead to, and the next dampings.

        The damped Newton step is taken where it gains about what it predicts, else the best of several dampings and lengths: values alone cost a third
        of what derivatives cost, so trying many steps from one place beats one poor step.
        """
        damping = state.damping
        step = _step(state.curvature, state.majorant, state.gradient, damping)
        tried = self._values(state, None, state.here + step)
        promise = -np.add.reduce(step * state.gradient, 1) - 0.5 * np.einsum("ki,kij,kj->k", step, state.curvature, step)
        kept = (promise > 0) & (tried <= state.value - KEPT * promise)
        sure = kept & (damping <= FREE)
        chosen = np.where(kept, damping * 0.1, damping)
        chosen[chosen < 1e-6] = 0.0
        poor = (~kept).nonzero()[0]
        if len(poor):
            base = np.maximum(damping[poor], 1e-4)
            dampings = np.concatenate([base * factor for factor in DAMPINGS])
            each = np.concatenate([poor] * len(DAMPINGS))
            several = [_step(state.curvature[each], state.majorant[each], state.gradient[each], dampings), *(step[poor] * length for length in LENGTHS)]
            if self.afar:
                several += [_leaning(state, poor, share) for share in LEANING]
            steps = np.concatenate(several)
            again = np.concatenate([poor] * (len(steps) // len(poor)))
            values = self._values(state, again, state.here[again] + steps).reshape(-1, len(poor))
            steps = steps.reshape(len(values), len(poor), -1)
            after = np.concatenate([dampings] + [base * 2] * (len(values) - len(DAMPINGS))).reshape(len(values), len(poor))
            best, every = values.argmin(0), np.arange(len(poor))
            won = values[best, every] < tried[poor]
            number = poor[won]
            step[number], tried[number], chosen[number] = (items[best, every][won] for items in (steps, values, after))
            stuck = poor[tried[poor] >= state.value[poor]]
            chosen[stuck] = np.maximum(damping[stuck], 1e-4) * DAMPINGS[-1] * 8
        late = (state.steps >= SURE).nonzero()[0] if self.exact else ()
        if len(late):
            straight = _straight(state.here[late], state.gradient[late], state.curvature[late], state.majorant[late])
            values = self._values(state, late, state.here[late] + straight)
            won = values < tried[late]
            number = late[won]
            step[number], tried[number], chosen[number] = straight[won], values[won], np.minimum(chosen[number], damping[number])
        return step, tried, chosen, sure

    def _delta(self, stage: Any) -> Any:
        return self.deltas[0] if len(self.deltas) == 1 else np.array(self.deltas)[stage][:, None]

    def _weights(self, number: Any) -> Array | None:
        """Return the weights of some problems; None where all are one."""
        return self.weights if self.weights is None or len(self.weights) == 1 else self.weights[number]

    def _values(self, state: _State, which: Any, free: Array) -> Array:
        number, stage = (state.number, state.stage) if which is None else (state.number[which], state.stage[which])
        prior = None if self.prior is None else self.prior.take(number)
        return _total(self.written, self.scale.to_theta(free), self.log_loss, self._weights(number), self._delta(stage), prior)

    def measure(self, number: Any, stage: Any, here: Array) -> tuple[Array, Array, Array, Array]:
        """Compute objective, gradient, Hessian and the reweighted least-squares matrix of some problems."""
        most = 8 * max(1, EXACT_BATCH // len(self.log_loss) // 8)
        if self.exact and len(number) > most + 1:
            ends = [*range(most, len(number) - 1, most), len(number)]  # never one problem alone, whose sums would be made in another order
            parts = [self.measure(number[begin:end], stage[begin:end], here[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
            values, gradients, curvatures, majorants = zip(*parts, strict=True)
            return np.concatenate(values), np.concatenate(gradients), np.concatenate(curvatures), np.concatenate(majorants)
        theta, first, second = self.scale.bend(here)
        if self.moves is not None:
            first, second = first * self.moves[number], second * self.moves[number]
        weights, delta = self._weights(number), self._delta(stage)
        slopes, weighted = self.work[:, : len(theta)]
        forecast, trace = self.written.slopes(theta, slopes, self.exact)
        residual = self.log_loss - forecast
        size = np.abs(residual)
        clipped = np.minimum(size, delta)
        cost, pull, inside = clipped * (size - 0.5 * clipped), np.copysign(clipped, residual), (size <= delta).astype(float)
        pulled = np.maximum(clipped, 1e-300) / np.maximum(size, 1e-300)
        if weights is not None:
            for items in (cost, pull, inside, pulled):
                items *= weights
        value = np.add.reduce(cost, 1)
        gradient = -(slopes @ pull[:, :, None])[:, :, 0]
        across = slopes.transpose(0, 2, 1)
        curvature = np.multiply(slopes, inside[:, None, :], out=weighted) @ across
        if self.exact:
            curvature += self.written.curvature(trace, slopes, -pull)
        majorant = np.multiply(slopes, pulled[:, None, :], out=weighted) @ across
        if self.prior is not None:
            self.prior.take(number).apply(theta, value, gradient, curvature, majorant)
        outer = first[:, :, None] * first[:, None, :]
        curvature *= outer
        if self.exact:
            _diagonal(curvature)[...] += gradient * second
        majorant *= outer
        gradient *= first
        if not np.isfinite(np.add.reduce(value) + np.add.reduce(curvature, None) + np.add.reduce(majorant, None)):
            wild = ~np.isfinite(value + np.einsum("kij->k", curvature) + np.einsum("kii->k", majorant))
            value[wild] = np.inf
            for item in (gradient, curvature, majorant):
                item[wild] = 0.0
        return value, gradient, curvature, majorant


def _step(curvature: Array, majorant: Array, gradient: Array, damping: Array) -> Array:
    """Solve for the damped Newton step; where it does not descend, take the majorising one."""
    diagonal = _diagonal(majorant)
    ridge = 1e-6 * diagonal + 1e-12 * np.maximum.reduce(diagonal, 1, keepdims=True) + 1e-300
    matrix = curvature + damping[:, None, None] * majorant
    along = _diagonal(matrix)
    along += (damping[:, None] + 1e-7) * ridge
    step = -_solved(matrix, gradient)
    uphill = (~(np.add.reduce(step * gradient, 1) < 0)).nonzero()[0]
    if len(uphill):
        safe = majorant[uphill]
        _diagonal(safe)[...] += ridge[uphill]
        step[uphill] = -_solved(safe, gradient[uphill]) / (1 + damping[uphill, None])
    return _capped(step)


def _diagonal(matrix: Array) -> Array:
    """Return a writable view of each problem's diagonal; `einsum` takes ten times as long."""
    found = matrix.diagonal(axis1=1, axis2=2)
    found.flags.writeable = True
    return found


def _capped(step: Array) -> Array:
    if np.maximum.reduce(np.abs(step), None) <= LONGEST_STEP:  # all of them, and all are numbers
        return step
    longest = np.maximum.reduce(np.abs(step), 1, keepdims=True)
    result: Array = np.where(np.isfinite(step), step, 0.0) * np.minimum(1.0, LONGEST_STEP / np.maximum(longest, 1e-300))
    return result


def _solved(matrix: Array, right: Array) -> Array:
    """Solve each problem's equations, shapes (problems, parameters, parameters) and (problems, parameters)."""
    try:
        found: Any = np.linalg.solve(matrix, right[:, :, None])
    except np.linalg.LinAlgError:  # one exactly singular matrix would cost all other problems their step
        found = np.linalg.pinv(np.nan_to_num(matrix), hermitian=True) @ right[:, :, None]
    result: Array = found[:, :, 0]
    return result


def _leaning(state: _State, which: Any, share: float) -> Array:
    """Solve for Marquardt's step of some problems, by the majorant with a share of its diagonal added."""
    matrix = state.majorant[which]
    diagonal = _diagonal(matrix)
    diagonal *= 1 + share
    diagonal += 1e-12 * np.maximum.reduce(diagonal, 1, keepdims=True) + 1e-300
    return _capped(-_solved(matrix, state.gradient[which]))


def _straight(here: Array, gradient: Array, curvature: Array, majorant: Array) -> Array:
    """Solve for the Newton step in the coordinates inside the logistic map, and cut it short of the bounds."""
    share = logistic(here)
    _diagonal(curvature)[...] -= gradient * (1 - 2 * share)  # the map's own curvature
    slope = share * (1 - share)
    move = slope * _step(curvature, majorant, gradient, np.zeros(len(share)))
    room = np.where(move > 0, 1 - share, share)
    part = np.minimum(1.0, TOWARDS / np.maximum((np.abs(move) / np.maximum(room, 1e-300)).max(1, keepdims=True), 1e-300))
    there = np.clip(share + part * move, 1e-15, 1 - 1e-15)
    result: Array = np.log(there / (1 - there)) - here
    return result
