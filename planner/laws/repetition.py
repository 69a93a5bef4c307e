"""What repeated specialist text is worth: three ways to turn (D_spec, U) into effective tokens and a penalty.

R = D_spec/U − 1 passes beyond the first. *saturating*: S = U·(1 + R*·(1 − exp(−R/R*))) (arXiv 2305.16264); loss cannot rise.
*sized*: R* = R*₀·(N/N0)^−ν·(U/D0)^μ, since larger models tire of the same text sooner. *penalised*: saturating, and the loss gains
P·R^δ·(N/N0)^κ·(U/D0)^−κ (after arXiv 2605.01640), so that it can rise with passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.laws.base import Parameter, Points
from planner.laws.dual import exp


@dataclass(frozen=True)
class Repetition:
    """A way to value repeated text."""

    name: str
    """Suffix of the law's name."""
    parameters: tuple[Parameter, ...]
    """What it adds to the law's parameters."""
    effective: Callable[[Mapping[str, Any], Points], Any]
    """Effective specialist tokens S/D0."""
    penalty: Callable[[Mapping[str, Any], Points], Any]
    """What repetition adds to the loss [nats/token]."""
    formula: str
    """For people."""


_HALF = Parameter("R*", 0.2, 2000.0, (1.0, 30.0), "passes")


def _saturate(points: Points, half: Any) -> Any:
    return points.first + points.unique * half * (1.0 - exp(-points.repeats / half))


def _fixed(p: Mapping[str, Any], x: Points) -> Any:
    return _saturate(x, p["R*"])


def _sized(p: Mapping[str, Any], x: Points) -> Any:
    return _saturate(x, p["R*"] * exp(x.log_unique * p["μ"] - x.log_n * p["ν"]))


def _none(p: Mapping[str, Any], x: Points) -> Any:
    return 0.0


def _penalty(p: Mapping[str, Any], x: Points) -> Any:
    return x.has_repeats * p["P"] * exp(x.log_repeats * p["δ"] + (x.log_n - x.log_unique) * p["κ_P"])


SATURATING = Repetition("saturating", (_HALF,), _fixed, _none, "S = U·(1 + R*·(1 − e^(−R/R*))), R = D_spec/U − 1")
SIZED = Repetition(
    "sized",
    (_HALF, Parameter("ν", -1.5, 3.0, (0.0, 0.6), "exponent", logarithmic=False), Parameter("μ", -1.5, 3.0, (0.0, 0.6), "exponent", logarithmic=False)),
    _sized,
    _none,
    "S as saturating, with R*·(N/N0)^−ν·(U/D0)^μ for R*",
)
PENALISED = Repetition(
    "penalised",
    (
        _HALF,
        Parameter("P", 1e-8, 1.0, (1e-4, 0.03), "nats/token"),
        Parameter("δ", 0.2, 4.0, (0.6, 1.5), "exponent"),
        Parameter("κ_P", 0.0, 3.0, (0.2, 1.2), "exponent", logarithmic=False),
    ),
    _fixed,
    _penalty,
    "S as saturating, and + P·R^δ·(N/N0 · D0/U)^κ_P",
)
REPETITIONS = (SATURATING, SIZED, PENALISED)
