"""What repeated specialist text is worth: ways to turn (D_spec, U) into effective tokens and into harm.

R = D_spec/U − 1 passes beyond the first. *saturating*: S = U·(1 + R*·(1 − exp(−R/R*))) (arXiv 2305.16264); loss cannot rise.
*penalised*: S = D_spec, and the loss gains
O = P·R^δ·(N/N0)^κ·(U/S0)^−λ (after arXiv 2605.01640, with exponents of their own for N and U), so that it rises when passes are many.
*competing*: the same O, joined to the rest x of the reducible loss as (x^q + O^q)^(1/q): where a model has learnt the text by heart,
earlier training hardly matters. On the recorded sweep R* of a penalised law always ran to infinity, so those two do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.laws.base import Parameter, Points
from planner.laws.dual import exp, log, softplus


@dataclass(frozen=True)
class Repetition:
    """A way to value repeated text."""

    name: str
    """Suffix of the law's name."""
    parameters: tuple[Parameter, ...]
    """What it adds to the law's parameters."""
    effective: Callable[[Mapping[str, Any], Points], Any]
    """Effective specialist tokens S/S0."""
    harm: Callable[[Mapping[str, Any], Points, Any], Any]
    """From the reducible loss without harm [nats/token] to that with it; of the whole loss where `whole`."""
    formula: str
    """For people."""
    whole: bool = False
    """Whether harm raises the loss itself, and not its reducible part."""


_HALF = Parameter("R*", 0.2, 2000.0, (1.0, 30.0), "passes", needs="repeats")


def saturate(points: Points, half: Any) -> Any:
    """Return the effective tokens, in units of S0; all repeats together are worth at most `half` passes of fresh text."""
    return points.first + points.unique * half * (1.0 - exp(-points.repeats / half))


def _fixed(p: Mapping[str, Any], x: Points) -> Any:
    return saturate(x, p["R*"])


def seen(p: Mapping[str, Any], x: Points) -> Any:
    """Return all specialist tokens, in units of S0: repeats count as fresh text does."""
    return x.first + x.unique * x.repeats


def _harmless(p: Mapping[str, Any], x: Points, reducible: Any) -> Any:
    return reducible


def _log_overfit(p: Mapping[str, Any], x: Points) -> Any:
    return log(p["P"]) + x.log_repeats * p["δ"] + x.log_n * p["κ_P"] - x.log_unique * p["λ_P"]


def _penalty(p: Mapping[str, Any], x: Points, reducible: Any) -> Any:
    return reducible + x.has_repeats * exp(_log_overfit(p, x))


def _compete(p: Mapping[str, Any], x: Points, reducible: Any) -> Any:
    rest = log(reducible)
    return exp(rest + x.has_repeats * softplus(p["q"] * (_log_overfit(p, x) - rest)) / p["q"])


def _overfit(amplitude: tuple[float, float, float], exponent: tuple[float, float], linear: bool) -> tuple[Parameter, ...]:
    low, *start = amplitude
    return (
        Parameter("P", low, 3.0, (start[0], start[1]), "nats/token", linear=linear, needs="passes"),
        Parameter("δ", 0.05, 4.0, exponent, "exponent", needs="passes"),
        Parameter("κ_P", 0.0, 3.0, (0.0, 1.0), "exponent", logarithmic=False, needs="repeats"),
        Parameter("λ_P", -0.5, 3.0, (0.1, 1.2), "exponent", logarithmic=False, needs="distinct"),
    )


_O = "P·R^δ·(N/N0)^κ_P·(U/S0)^−λ_P"
SATURATING = Repetition("saturating", (_HALF,), _fixed, _harmless, "S = U·(1 + R*·(1 − e^(−R/R*))), R = D_spec/U − 1")
PENALISED = Repetition("penalised", _overfit((1e-8, 1e-4, 0.03), (0.6, 1.5), True), seen, _penalty, f"S = D_spec, and + {_O}, R = D_spec/U − 1")
COMPETING = Repetition(
    "competing",
    (*_overfit((1e-6, 1e-3, 0.8), (0.2, 1.5), False), Parameter("q", 0.3, 12.0, (1.0, 5.0), "exponent", needs="repeats")),
    seen,
    _compete,
    f"S = D_spec, and the reducible loss x becomes (x^q + ({_O})^q)^(1/q), R = D_spec/U − 1",
)
REPETITIONS = (SATURATING, PENALISED)
"""Combined with every law of `separate` and `transfer`."""
