"""What a law is: a formula for the loss, its parameters with their bounds, and the runs it is evaluated on.

Legend for this package: N non-embedding parameters, D tokens, U distinct tokens, L loss, E its irreducible part. Sizes and
tokens enter as ratios to a reference (N0, D0) that is stored with the fit, so an amplitude is what its term adds at the
reference, in nats/token, and parameters of one law are of like magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.laws.dual import Array, Dual, log


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law."""

    name: str
    """Symbol in the formula."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    start: tuple[float, float]
    """Range that starts are drawn from."""
    unit: str
    """"nats/token", "exponent", "ratio" or "passes"."""
    logarithmic: bool = True
    """Whether it is searched on a log scale; not so where it may be zero or negative."""


@dataclass(frozen=True)
class Reference:
    """The size and token count that ratios are taken to."""

    params: float
    """N0 [parameters]."""
    tokens: float
    """D0 [tokens]."""


class Points:
    """Where a law is evaluated: flat arrays of shape (runs,), as ratios to the reference."""

    def __init__(self, reference: Reference, params: Any, tokens_pt: Any, tokens_spec: Any, unique_spec: Any) -> None:
        """Prepare points.

        Args:
            reference: N0 and D0.
            params: N, shape (runs,).
            tokens_pt: general tokens, zero allowed.
            tokens_spec: specialist tokens with repeats, zero allowed.
            unique_spec: distinct specialist tokens; ignored (may be NaN) where tokens_spec is zero.
        """
        given = (np.atleast_1d(np.asarray(item, dtype=float)) for item in (params, tokens_pt, tokens_spec, unique_spec))
        params, pt, spec, unique = np.broadcast_arrays(*given)
        self.log_n: Array = np.log(params / reference.params)
        self.pt: Array = pt / reference.tokens
        self.has_pt: Array = (pt > 0).astype(float)
        self.log_pt: Array = np.log(np.where(pt > 0, pt, reference.tokens) / reference.tokens)
        self.has_spec: Array = (spec > 0).astype(float)
        unique = np.where(spec > 0, unique, reference.tokens)
        self.log_unique: Array = np.log(unique / reference.tokens)
        self.unique: Array = self.has_spec * unique / reference.tokens
        self.first: Array = np.minimum(spec, unique) / reference.tokens * self.has_spec
        self.repeats: Array = np.where(spec > unique, spec / unique - 1, 0.0)
        self.has_repeats: Array = (self.repeats > 0).astype(float)
        self.log_repeats: Array = np.log(np.where(self.repeats > 0, self.repeats, 1.0))
        self.total: Array = self.pt + spec / reference.tokens
        self.log_total: Array = np.log(np.maximum(self.total, 1e-300))


Formula = Callable[[Mapping[str, Any], Points], Any]
"""From parameters by name (each a dual or an array that broadcasts against the points) to the loss [nats/token]."""


@dataclass(frozen=True)
class Law:
    """A parametric law of the loss."""

    name: str
    """Name in `plan laws` and `--law`."""
    formula: str
    """The formula for people."""
    parameters: tuple[Parameter, ...]
    """In the order of parameter vectors."""
    loss: Formula
    """The formula as code."""
    source: str
    """Where the form is from (arXiv id), and where this departs from it."""
    use: str
    """When to use it."""
    stages: int = 2
    """1: sizes and tokens only; 2: general and specialist tokens."""

    def log_loss(self, theta: Array, points: Points) -> Array:
        """Forecast ln L, shape (problems, runs), at parameters of shape (problems, parameters)."""
        named = {parameter.name: theta[:, number : number + 1] for number, parameter in enumerate(self.parameters)}
        result: Array = np.log(self.loss(named, points))
        return np.broadcast_to(result, (len(theta), len(points.log_n)))

    def log_loss_and_slopes(self, theta: Array, points: Points) -> tuple[Array, Array]:
        """Forecast ln L, shape (problems, runs), and its derivatives, shape (problems, parameters, runs)."""
        named = {parameter.name: Dual(theta[:, number : number + 1], {number: 1.0}) for number, parameter in enumerate(self.parameters)}
        result = log(self.loss(named, points))
        shape = (len(theta), len(points.log_n))
        slopes = np.zeros((shape[0], len(self.parameters), shape[1]))
        for number, slope in result.by.items():
            slopes[:, number] = slope
        return np.broadcast_to(result.value, shape), slopes


def irreducible() -> Parameter:
    """Describe E."""
    return Parameter("E", 1e-3, 20.0, (0.2, 2.5), "nats/token")


def amplitude(name: str) -> Parameter:
    """Describe what a term adds at the reference."""
    return Parameter(name, 1e-4, 100.0, (0.05, 3.0), "nats/token")


def exponent(name: str, high: float = 3.0) -> Parameter:
    """Describe a decay exponent."""
    return Parameter(name, 5e-3, high, (0.08, 0.9), "exponent")
