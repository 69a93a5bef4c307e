"""Exact first derivatives by forward accumulation, so that a law is written once, as its formula.

A `Dual` holds values and their derivatives by each parameter that they depend on. `exp` and `log` take duals and plain
arrays alike: the same formula serves the solver (duals) and forecasts (arrays).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


class Dual:
    """Values, shape (problems, runs) or (problems, 1), with derivatives by parameter number, each of a shape that broadcasts to them."""

    __slots__ = ("value", "by")
    __array_ufunc__ = None  # so that array * dual comes here

    def __init__(self, value: Any, by: dict[int, Any]) -> None:
        self.value = value
        self.by = by

    def __add__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value + other, self.by)
        by = dict(self.by)
        for key, slope in other.by.items():
            by[key] = by[key] + slope if key in by else slope
        return Dual(self.value + other.value, by)

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.value, {key: -slope for key, slope in self.by.items()})

    def __sub__(self, other: Any) -> Dual:
        return self + (-other)

    def __rsub__(self, other: Any) -> Dual:
        return -self + other

    def __mul__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.value * other, {key: slope * other for key, slope in self.by.items()})
        by = {key: slope * other.value for key, slope in self.by.items()}
        for key, slope in other.by.items():
            by[key] = by[key] + slope * self.value if key in by else slope * self.value
        return Dual(self.value * other.value, by)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return self * (1.0 / other)

    def __rtruediv__(self, other: Any) -> Dual:
        value = 1.0 / self.value
        return Dual(value, {key: -slope * value * value for key, slope in self.by.items()}) * other


def exp(x: Any) -> Any:
    """Exponentiate a dual or an array."""
    if not isinstance(x, Dual):
        return np.exp(x)
    value = np.exp(x.value)
    return Dual(value, {key: slope * value for key, slope in x.by.items()})


def log(x: Any) -> Any:
    """Take the natural logarithm of a dual or an array."""
    if not isinstance(x, Dual):
        return np.log(x)
    return Dual(np.log(x.value), {key: slope / x.value for key, slope in x.by.items()})
