"""A law compiled for some runs: its formula and its derivatives recorded as operations on arrays; see `tape`.

A formula is recorded once for all runs, which it must treat alike. A formula that looks at values, or does with arrays what cannot be recorded, is
evaluated directly; so is one whose recording gives other numbers, on some runs, than the formula itself.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.arrays import Array
from planner.laws.dual import Dual, curvature, derivatives
from planner.laws.tape import Recorded, Tape, elementwise, parted, run, used

if TYPE_CHECKING:
    from planner.laws.base import Law, Points


class _Runs:
    """Stands in for the runs while a formula is recorded, and notes which of their arrays it uses."""

    def __init__(self, tape: Tape, points: Points) -> None:
        self._tape, self._points = tape, points
        self.asked: dict[str, int] = {}
        self._known: dict[str, Recorded] = {}

    def __getattr__(self, name: str) -> Recorded:
        if name not in self._known:
            self._known[name] = self._tape.given(getattr(self._points, name))
            self.asked[name] = self._known[name].place
        return self._known[name]


class Program:
    """The recorded operations of one law, for any runs: those of the loss, of its slopes, and of its curvature where `exact`."""

    def __init__(self, law: Law, theta: Array, points: Points, exact: bool) -> None:
        shape, tape, numbers = (len(theta), points.count), Tape(), range(len(law.parameters))
        # Places: the parameters, an array for the slopes by each, the weights, and then all results.
        columns = [tape.given(column) for column in theta.T[:, :, None]]
        out, weights = [tape.given(np.empty(shape)).place for _ in numbers], tape.given(np.ones(shape))
        runs: Any = _Runs(tape, points)
        names = [parameter.name for parameter in law.parameters]
        loss: Any
        forecast: Any
        bent: Any
        with np.errstate(all="ignore"):
            loss = np.log(law.loss(dict(zip(names, columns, strict=True)), runs))
            duals = [Dual.parameter(column, number) for number, column in enumerate(columns)]
            trace = law.loss(dict(zip(names, duals, strict=True)), runs)
            by = derivatives(trace, 1.0 / trace.value)
            forecast, slopes = np.log(trace.value), [by.get(number, 0.0) for number in numbers]
            count = len(tape.written)
            bent = curvature(trace, weights / trace.value, len(names)) if exact else None
        early, late = parted(tape.written, [*(column.place for column in columns), weights.place])
        before = {item[2] for item in tape.written[:count]}
        first, then = [item for item in late if item[2] in before], [item for item in late if item[2] not in before]
        places = [slope.place if isinstance(slope, Recorded) else None for slope in slopes]
        # A slope of full shape is written straight into its array by the operation that makes it; any other is copied there.
        full = {item[2] for item in first if elementwise(item[0]) and np.shape(tape.values[item[2]]) == shape}
        into = {place: out[number] for number, place in enumerate(places) if place in full and places.count(place) == 1}
        kept = used(then, [bent.place]) if bent is not None else set()
        asked = {forecast.place, *(place for place in places if place is not None)} | {item[2] for item in first if item[2] in kept}
        self.columns, self.out, self.weights = len(names), out, weights.place
        self.loss, self.forecast, self.bent = loss.place, forecast.place, bent.place if bent is not None else -1
        self.copied = [(number, place, slopes[number]) for number, place in enumerate(places) if place not in into]
        self.to_loss = tape.plan(first, {loss.place}, {}, shape)
        self.to_slopes = tape.plan(first, asked, into, shape)
        self.to_bent = tape.plan(then, {self.bent}, {}, shape)
        self._early, self._asked = tape.plan(early, {item[2] for item in early}, {}, ()), runs.asked
        made = {*range(len(names) + len(out) + 1), *(item[2] for item in tape.written)}
        self._blank = [None if place in made else value for place, value in enumerate(tape.values)]

    def on(self, points: Points) -> list[Any]:
        """Return the places, filled with all that depends on the runs alone."""
        places = self._blank.copy()
        for name, place in self._asked.items():
            places[place] = getattr(points, name)
        with np.errstate(all="ignore"):
            run(self._early, places)
        return places


class CompiledLaw:
    """A law compiled for some runs. Extreme values may overflow: the caller sets how numpy treats that."""

    def __init__(self, law: Law, points: Points) -> None:
        self._law, self._points = law, points
        self._ready: dict[int, tuple[Program, list[Any]] | None] = {}

    def log_loss(self, theta: Array) -> Array:
        """Forecast ln L; see `Law.log_loss`."""
        if (found := self._places(theta, 0)) is None:
            return self._law.log_loss(theta, self._points)
        program, places = found
        run(program.to_loss, places)
        return self._full(places[program.loss], len(theta))

    def slopes(self, theta: Array, out: Array, exact: bool = False) -> tuple[Array, Any]:
        """Forecast ln L and write its derivatives into `out`; return the forecast, and the trace that `curvature` takes."""
        if (found := self._places(theta, min(len(theta), 2) if exact else 0)) is None:
            forecast, _, trace = self._law.log_loss_slopes_and_trace(theta, self._points, out)
            return forecast, trace
        program, places = found
        places[program.columns : 2 * program.columns] = out.transpose(1, 0, 2)
        run(program.to_slopes, places)
        for number, place, value in program.copied:
            out[:, number] = value if place is None else places[place]
        return self._full(places[program.forecast], len(theta)), (program, places)

    def curvature(self, trace: Any, slopes: Array, weights: Array) -> Array:
        """Sum the weighted second derivatives of ln L over the runs; see `Law.log_curvature`."""
        if isinstance(trace, Dual):
            return self._law.log_curvature(trace, slopes, weights)
        program, places = trace
        places[program.weights] = weights
        run(program.to_bent, places)
        result: Array = places[program.bent] - (slopes * weights[:, None, :]) @ slopes.transpose(0, 2, 1)
        return result

    def _places(self, theta: Array, kind: int) -> tuple[Program, list[Any]] | None:
        """Return a program and its places. Kind 0 has no curvature, 1 that of one problem, whose sums are made in another order, 2 that of several."""
        if kind not in self._ready:
            self._ready[kind] = self._begun(theta, kind)
        if (found := self._ready[kind]) is None:
            return None
        program, places = found[0], found[1].copy()
        places[: program.columns] = theta.T[:, :, None]
        return program, places

    def _begun(self, theta: Array, kind: int) -> tuple[Program, list[Any]] | None:
        programs, key, some = self._law.programs, (kind, self._points.count == 1), theta if kind == 1 else theta[[0, -1]]
        if key not in programs:
            programs[key] = None
            with suppress(Exception):  # the formula raises its own errors when it is evaluated directly
                programs[key] = Program(self._law, some, self._points, kind > 0)
        if (program := programs[key]) is None:
            return None
        with suppress(Exception), np.errstate(all="ignore"):  # the recording may hold the shape of other runs
            places = program.on(self._points)
            if self._agrees(program, places.copy(), some):
                return program, places
        return None

    def _agrees(self, program: Program, places: list[Any], theta: Array) -> bool:
        """Tell whether a program gives what its formula gives on these runs; a formula may depend on the type or the shape of its inputs."""
        shape = len(theta), self._points.count
        out = np.empty((program.columns, *shape))
        places[: 2 * program.columns] = *theta.T[:, :, None], *out
        run(program.to_loss, places)
        loss = places[program.loss]
        run(program.to_slopes, places)
        pairs = (loss, self._law.log_loss(theta, self._points)), (places[program.forecast], np.log(self._law.traced(theta, self._points).value))
        return all(np.array_equal(np.broadcast_to(mine, shape), np.broadcast_to(plain, shape), equal_nan=True) for mine, plain in pairs)

    def _full(self, values: Array, count: int) -> Array:
        shape = (count, self._points.count)
        return values if values.shape == shape else np.broadcast_to(values, shape)
