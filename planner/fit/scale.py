"""Coordinates without bounds for a law's parameters: a logistic map of the parameter, or of its logarithm, between its bounds."""

from __future__ import annotations

import numpy as np

from planner.arrays import Array
from planner.laws import Law

INSIDE = 1e-9
"""Least share of a parameter's range that a start keeps from its bounds."""


class Scale:
    """Maps parameters to unbounded coordinates and back."""

    def __init__(self, law: Law) -> None:
        self._log = np.array([parameter.logarithmic for parameter in law.parameters])
        self._all_log = bool(self._log.all())
        low = np.array([parameter.low for parameter in law.parameters])
        high = np.array([parameter.high for parameter in law.parameters])
        self._low, self._high = self.natural(low), self.natural(high)
        self._width = self._high - self._low
        self._starts = self.natural(np.array([parameter.start for parameter in law.parameters]).T)

    def natural(self, theta: Array) -> Array:
        """Take logarithms of the parameters that are searched on a log scale."""
        if self._all_log:
            return np.log(theta)
        return np.where(self._log, np.log(np.where(self._log, theta, 1.0)), theta)

    def unnatural(self, inner: Array) -> Array:
        """Undo `natural`."""
        if self._all_log:
            return np.exp(inner)
        return np.where(self._log, np.exp(np.where(self._log, inner, 0.0)), inner)

    def steepness(self, theta: Array) -> Array:
        """Return the derivatives of parameters with respect to their natural coordinates."""
        return np.where(self._log, theta, 1.0)

    def share(self, theta: Array) -> Array:
        """Return where parameters stand between their bounds, 0 to 1."""
        result: Array = (self.natural(theta) - self._low) / self._width
        return result

    def inside(self, theta: Array, margin: float) -> Array:
        """Clip parameters into their range, at least a share of it away from its bounds."""
        return self.unnatural(self._low + self._width * np.clip(self.share(theta), margin, 1 - margin))

    def to_free(self, theta: Array) -> Array:
        """Map parameters to unbounded coordinates."""
        share = np.clip(self.share(theta), INSIDE, 1 - INSIDE)
        result: Array = np.log(share / (1 - share))
        return result

    def to_theta(self, free: Array) -> Array:
        """Map coordinates to parameters."""
        return self.unnatural(self._low + self._width * logistic(free))

    def bend(self, free: Array) -> tuple[Array, Array, Array]:
        """Map coordinates to parameters; return them with their first and second derivatives with respect to the coordinates."""
        share = logistic(free)
        theta = self.unnatural(self._low + self._width * share)
        first = self._width * share * (1 - share)
        second = first * (1 - 2 * share)
        if self._all_log:
            return theta, theta * first, theta * (first * first + second)
        return theta, np.where(self._log, theta * first, first), np.where(self._log, theta * (first * first + second), second)

    def draw(self, random: np.random.Generator, count: int) -> Array:
        """Draw starts from the law's start ranges, shape (count, parameters)."""
        low, high = self._starts
        return self.unnatural(low + (high - low) * random.random((count, len(low))))

    @property
    def middle(self) -> Array:
        """Middle of the start ranges."""
        return self.unnatural(0.5 * (self._starts[0] + self._starts[1]))

    @property
    def deviation(self) -> Array:
        """Standard deviation of a draw from the start ranges, in natural coordinates."""
        result: Array = (self._starts[1] - self._starts[0]) / np.sqrt(12)
        return result


def logistic(free: Array) -> Array:
    """Map coordinates to shares of the range between the bounds."""
    return 1 / (1 + np.exp(-np.minimum(np.maximum(free, -40.0), 40.0)))
