"""Exact first and second derivatives, so that a law is written once, as its formula.

A `Dual` holds values, and remembers what it was made from and its derivative by each of those. `derivatives` walks back over them and gives
every run's derivatives by all parameters at the cost of a few evaluations. `curvature` walks back too and sums weighted second derivatives over the
runs: every operation that is not linear adds the products of its operands' first derivatives, which are computed when they are asked for. No
array of all second derivatives is ever formed. `exp`, `log` and the other functions here take duals and plain arrays alike: one formula serves
the solver and forecasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from planner.arrays import Array
from planner.laws.tape import step

Bend: TypeAlias = Callable[[], Any]
"""Computes second derivatives when called: few steps of a fit need them."""

_number = count()
_STACKED = 4
"""Operands that depend on this many parameters or more are multiplied as matrices."""


class Dual:
    """Values, shape (problems, runs) or (problems, 1), and what they were made from."""

    __slots__ = ("value", "parents", "bends", "number", "_by")
    __array_ufunc__ = None  # so that array * dual comes here

    def __init__(
        self, value: Any, parents: tuple[tuple[Dual, Any], ...], bends: tuple[tuple[Dual, Dual, Bend | None], ...] = (), by: dict[int, Any] | None = None
    ) -> None:
        """Make a dual.

        Args:
            value: the values.
            parents: what it was made from, with the derivative by each; None stands for 1.
            bends: pairs of parents with the second derivative by the two of them; None stands for 1.
            by: derivatives by parameter number where they are known; else they follow from the parents'.
        """
        self.value = value
        self.parents = parents
        self.bends = bends
        self.number = next(_number)
        self._by = by

    @classmethod
    def parameter(cls, value: Any, number: int) -> Dual:
        """Make the dual of a parameter itself, its values of shape (problems, 1)."""
        return cls(value, (), by={number: 1.0})

    @property
    def by(self) -> dict[int, Any]:
        """Derivatives by parameter number, each of a shape that broadcasts to the values."""
        if self._by is None:
            by: dict[int, Any] = {}
            for parent, slope in self.parents:
                for key, inner in parent.by.items():
                    passed = inner if slope is None else inner * slope
                    by[key] = by[key] + passed if key in by else passed
            self._by = by
        return self._by

    def __add__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value + other, ((self, None),))
        return Dual(self.value + other.value, ((self, None), (other, None)))

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return self * -1.0

    def __sub__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value - other, ((self, None),))
        return Dual(self.value - other.value, ((self, None), (other, -1.0)))

    def __rsub__(self, other: Any) -> Dual:
        return Dual(other - self.value, ((self, -1.0),))

    def __mul__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value * other, ((self, other),))
        bend = (lambda: 2.0) if other is self else None
        return Dual(self.value * other.value, ((self, other.value), (other, self.value)), ((self, other, bend),))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return self * reciprocal(other)

    def __rtruediv__(self, other: Any) -> Dual:
        return reciprocal(self) * other


def unary(x: Dual, value: Any, slope: Any, bend: Bend) -> Dual:
    """Make a function of one dual from its values, its first derivatives there, and a function that computes the second ones."""
    return Dual(value, ((x, slope),), ((x, x, bend),))


def exp(x: Any) -> Any:
    """Exponentiate."""
    if not isinstance(x, Dual):
        return np.exp(x)
    value = np.exp(x.value)
    return unary(x, value, value, lambda: value)


def log(x: Any) -> Any:
    """Take the natural logarithm."""
    if not isinstance(x, Dual):
        return np.log(x)
    slope = 1.0 / x.value
    return unary(x, np.log(x.value), slope, lambda: -slope * slope)


def softplus(x: Any) -> Any:
    """Return ln(1 + e^x); numpy's logaddexp takes four times as long."""
    at = x.value if isinstance(x, Dual) else x
    small = np.exp(-np.abs(at))
    value = np.maximum(at, 0.0) + np.log1p(small)
    if not isinstance(x, Dual):
        return value
    other = 1.0 / (1.0 + small)
    share = np.where(at >= 0, other, small * other)
    return unary(x, value, share, lambda: share * (1.0 - share))


def reciprocal(x: Any) -> Any:
    """Return 1/x."""
    if not isinstance(x, Dual):
        return 1.0 / x
    value = 1.0 / x.value
    square = value * value
    return unary(x, value, -square, lambda: 2.0 * square * value)


def minimum(x: Any, limit: Any) -> Any:
    """Return the lesser of a dual or array and a dual or array; at equality the derivatives are those of the first."""
    if not isinstance(x, Dual) and not isinstance(limit, Dual):
        return np.minimum(x, limit)
    first, second = (item.value if isinstance(item, Dual) else item for item in (x, limit))
    inside = _ones(first <= second)
    return x * inside + limit * (1.0 - inside)


@step
def _ones(true: Any) -> Any:
    return true.astype(float)


def derivatives(output: Dual, seed: Any) -> dict[int, Any]:
    """Give first derivatives by parameter number.

    Args:
        output: values of shape (problems, runs).
        seed: what they are multiplied with, of a shape that broadcasts to the values.

    Returns:
        seed · ∂output/∂θ_k by k, each of a shape that broadcasts to the values.
    """
    found: dict[int, Any] = {}
    waiting: dict[int, tuple[Dual, Any]] = {output.number: (output, seed)}
    while waiting:
        node, adjoint = waiting.pop(max(waiting))
        if not node.parents:
            found.update((key, adjoint) for key in node.by)
        for parent, slope in node.parents:
            passed = adjoint if slope is None else adjoint * slope
            known = waiting.get(parent.number)
            waiting[parent.number] = (parent, passed if known is None else known[1] + passed)
    return found


def curvature(output: Dual, weights: Array, parameters: int) -> Array:
    """Sum weighted second derivatives over the runs.

    Args:
        output: values of shape (problems, runs).
        weights: of each value's second derivatives, same shape.
        parameters: how many there are.

    Returns:
        Σ_runs weights · ∂²output/∂θ_k∂θ_l, shape (problems, parameters, parameters).
    """
    parts: list[tuple[Any, Any, Any]] = []
    waiting: dict[int, tuple[Dual, Any]] = {output.number: (output, weights)}
    while waiting:
        node, adjoint = waiting.pop(max(waiting))
        for first, second, bend in node.bends:
            weight = adjoint if bend is None else adjoint * bend()
            if first is second:
                _add_square(parts, first.by, weight)
            else:
                _add_cross(parts, first.by, second.by, weight)
        for parent, slope in node.parents:
            if not parent.parents:
                continue  # a parameter itself: it has no curvature
            passed = adjoint if slope is None else adjoint * slope
            if _shape(parent.value)[-1] == 1 and passed.shape[-1] > 1:
                passed = _sum_kept(passed)
            known = waiting.get(parent.number)
            waiting[parent.number] = (parent, passed if known is None else known[1] + passed)
    return _put_together(parameters, _grouped([part[:2] for part in parts]), weights, *(value for _, _, value in parts))


def _add_square(parts: list[tuple[Any, Any, Any]], by: dict[int, Any], weight: Any) -> None:
    keys = tuple(by)
    if len(by) < _STACKED or weight.shape[-1] == 1:
        for place, key in enumerate(keys):
            weighted = weight * by[key]
            for other in keys[place:]:
                value = _sum_of_products(weighted, by[other])
                parts += [(key, other, value), (other, key, value)][: 1 + (other != key)]
        return
    stack = _stack(weight, *by.values())
    parts.append((keys, keys, _products(stack, weight, stack)))


def _add_cross(parts: list[tuple[Any, Any, Any]], first: dict[int, Any], second: dict[int, Any], weight: Any) -> None:
    if len(first) > len(second):
        first, second = second, first
    if len(first) >= _STACKED and weight.shape[-1] > 1:
        product = _products(_stack(weight, *first.values()), weight, _stack(weight, *second.values()))
        parts += [(tuple(first), tuple(second), product), (tuple(second), tuple(first), _turned(product))]
        return
    for key, slope in first.items():
        weighted = weight * slope
        for other, slope_other in second.items():
            value = _sum_of_products(weighted, slope_other)
            parts += [(key, other, value), (other, key, value)]


@step
def _put_together(parameters: int, groups: Any, weights: Array, *values: Any) -> Array:
    """Add up the sums for pairs of parameters, in order; see `_grouped`."""
    total = np.zeros((parameters, parameters, len(weights)))
    for place, begin, end in groups:
        total[place] += values[begin] if end is None else np.array(values[begin:end])
    return total.transpose(2, 0, 1)


def _grouped(places: Sequence[tuple[Any, Any]]) -> list[tuple[Any, int, int | None]]:
    """Group successive pairs of parameters, none of them twice, to be added at once; a block of pairs is a group of its own."""
    groups: list[tuple[Any, int, int | None]] = []
    pairs: list[tuple[int, int]] = []
    for number, (key, other) in enumerate([*places, ((), ())]):
        if isinstance(key, tuple) or (key, other) in pairs:
            if pairs:
                groups.append((tuple(np.array(pairs).T), number - len(pairs), number))
            pairs = []
        if not isinstance(key, tuple):
            pairs.append((key, other))
        elif key:
            groups.append(((np.array(key)[:, None], np.array(other)), number, None))
    return groups


@step
def _stack(weight: Any, *slopes: Any) -> Array:
    """Put slopes beside each other, shape (problems, slopes, runs)."""
    stack = np.empty((len(weight), len(slopes), weight.shape[1]))
    for place, slope in enumerate(slopes):
        stack[:, place] = slope
    return stack


@step
def _products(first: Array, weight: Array, second: Array) -> Array:
    """Sum weighted products over the runs, shape (of the first, of the second, problems)."""
    product: Array = (first * weight[:, None]) @ second.transpose(0, 2, 1)
    return product.transpose(1, 2, 0)


@step
def _turned(product: Array) -> Array:
    return product.transpose(1, 0, 2)


@step
def _sum(items: Array) -> Array:
    return np.add.reduce(items, -1)


@step
def _sum_kept(items: Array) -> Array:
    return np.add.reduce(items, -1, keepdims=True)


@step
def _flat(items: Array) -> Array:
    return np.reshape(items, -1)


@step
def _dots(first: Array, second: Array) -> Array:
    result: Array = np.einsum("ij,ij->i", first, second)
    return result


def _shape(items: Any) -> tuple[int, ...]:
    return getattr(items, "shape", ())


def _sum_of_products(weighted: Any, slope: Any) -> Any:
    """Sum over the runs; a slope may be a number, or of shape (runs,), (problems, 1) or (problems, runs)."""
    shape = _shape(slope)
    if len(shape) == 2 and shape[0] > 1 and shape[1] == weighted.shape[-1]:
        return _dots(weighted, slope)
    if shape and shape[-1] == weighted.shape[-1] and shape[-1] > 1:
        return weighted @ _flat(slope)
    total = _sum(weighted)
    return total * (_flat(slope) if shape else slope)
