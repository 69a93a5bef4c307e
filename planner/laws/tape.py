"""The array operations of a formula, recorded once and replayed for other parameters and other runs.

Walking through a formula and its derivatives in Python takes longer than the arithmetic where problems are few, as in most of a fit. So the
numpy operations that it makes are recorded in order, each with the places of its operands. Repeated operations are done once, and a result
reuses the memory of one that is no longer needed. The operations are those of the formula, so that results are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Written = tuple[Any, tuple[int, ...], int]
"""An operation, the places of its operands, and that of its result."""
Plan = list[tuple[Callable[..., Any], Callable[[list[Any]], tuple[Any, ...]], int]]
"""Operations in order, each with what takes its operands from the list of places, and the place of its result."""


class Recorded(NDArrayOperatorsMixin):
    """Stands in for an array while operations are recorded: its place among all, and its shape."""

    def __init__(self, tape: Tape, place: int) -> None:
        self.tape, self.place, self.shape = tape, place, getattr(tape.values[place], "shape", ())

    def __array_ufunc__(self, work: Any, method: str, *given: Any, **named: Any) -> Any:
        return NotImplemented if method != "__call__" or named else self.tape.done(work, given)

    def __array_function__(self, work: Any, kinds: Any, given: Any, named: Any) -> Any:
        return NotImplemented if named else self.tape.done(work, given)

    def __array__(self, *given: Any, **named: Any) -> Any:
        raise TypeError("an array has no values of its own while operations are recorded")

    def __bool__(self) -> bool:
        raise TypeError("recorded operations must not depend on values")


def step(work: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function of arrays be recorded as one operation."""

    @wraps(work)
    def either(*given: Any) -> Any:
        tape = next((item.tape for item in given if isinstance(item, Recorded)), None)
        return work(*given) if tape is None else tape.done(work, given)

    return either


class Tape:
    """Records operations while it does them on example arrays."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        """Value at each place, for the example arrays."""
        self.written: list[Written] = []
        self._known: dict[Any, Recorded] = {}
        self._constants: dict[Any, int] = {}

    def given(self, value: Any) -> Recorded:
        """Add an input array, which a replay replaces."""
        self.values.append(value)
        return Recorded(self, len(self.values) - 1)

    def done(self, work: Any, given: Sequence[Any]) -> Any:
        """Do an operation and record it; one that was done before on the same operands is not done again."""
        if work is np.multiply:
            for one, other in (given, given[::-1]):
                if isinstance(one, float) and one == 1.0 and self._is_float(other):  # changes nothing
                    return other
        places = tuple(item.place if isinstance(item, Recorded) else self._constant(item) for item in given)
        if (work, places) not in self._known:
            result = self.given(work(*(self.values[place] for place in places)))
            self._known[work, places] = result
            self.written.append((work, places, result.place))
        return self._known[work, places]

    def _is_float(self, item: Any) -> bool:
        """Tell whether an operand holds floats: a mask times 1.0 is no longer a mask."""
        return isinstance(item, Recorded) and getattr(self.values[item.place], "dtype", None) == np.float64

    def _constant(self, value: Any) -> int:
        if isinstance(value, np.ndarray) and value.size > 1:
            raise TypeError("an array that is not an input may differ for other runs")
        key = (type(value), value) if isinstance(value, float | int) else id(value)
        if key not in self._constants:
            self._constants[key] = self.given(value).place
        return self._constants[key]

    def plan(self, written: Sequence[Written], asked: set[int], into: dict[int, int], shape: tuple[int, ...]) -> Plan:
        """Plan how to replay operations.

        Args:
            written: the operations, in order.
            asked: places of the results that are asked for; all others may be overwritten.
            into: of these, the ones to write into an array at another place, and that place.
            shape: of the arrays whose memory is reused.
        """
        needed = used(written, asked)
        steps = [item for item in written if item[2] in needed]
        last = {place: number for number, (_, operands, _) in enumerate(steps) for place in operands}
        plan: Plan = []
        own: set[int] = set()
        free: list[int] = []
        for number, (work, operands, place) in enumerate(steps):
            if not isinstance(work, np.ufunc):  # its result may be a view of them
                own.difference_update(operands)
            free += [item for item in dict.fromkeys(operands) if item in own and item not in asked and last[item] == number]
            value = self.values[place]
            if place in into:
                operands = (*operands, into[place])
            elif elementwise(work) and np.shape(value) == shape and value.dtype == float:
                operands = (*operands, free.pop()) if free else operands
                own.add(place)
            plan.append((work, itemgetter(*operands) if len(operands) > 1 else _alone(operands[0]), place))
        return plan


def elementwise(work: Any) -> bool:
    """Tell whether an operation takes an output array after its operands, which may be one of them."""
    return isinstance(work, np.ufunc) and work.signature is None and work not in (np.maximum, np.minimum)


def used(written: Sequence[Written], asked: Iterable[int]) -> set[int]:
    """Return the places that some results depend on, and their own."""
    needed = set(asked)
    for _, operands, place in reversed(written):
        if place in needed:
            needed.update(operands)
    return needed


def _alone(place: int) -> Callable[[list[Any]], tuple[Any, ...]]:
    return lambda places: (places[place],)  # `itemgetter` of a single place gives no tuple


def run(plan: Plan, places: list[Any]) -> None:
    """Run a plan, in place."""
    for work, operands, place in plan:
        places[place] = work(*operands(places))


def parted(written: Sequence[Written], places: Iterable[int]) -> tuple[list[Written], list[Written]]:
    """Split operations into those that do not depend on some places, and those that do."""
    after = set(places)
    parts: tuple[list[Written], list[Written]] = [], []
    for item in written:
        depends = not after.isdisjoint(item[1])
        if depends:
            after.add(item[2])
        parts[depends].append(item)
    return parts
