"""Two-stage laws of transfer: general tokens count as κ·D_pt^ρ·N^η specialist ones (after arXiv 2102.01293).

They hold at both ends: D_spec = 0 is zero-shot, D_pt = 0 is from scratch. *transfer* is Chinchilla's form in the joint tokens;
*bounded* keeps the loss under L0, that of an untrained model (form after arXiv 2605.09189).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Parameter, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log
from planner.laws.repetition import COMPETING, REPETITIONS, Repetition

_KAPPA = Parameter("κ", 1e-6, 30.0, (0.01, 1.0), "ratio")
_RHO = Parameter("ρ", 0.02, 3.0, (0.2, 1.0), "exponent")
_ETA = Parameter("η", -2.0, 2.0, (-0.3, 0.5), "exponent", logarithmic=False)
_JOINT = "S + κ·(D_pt/D0)^ρ"


def _joint(p: Mapping[str, Any], x: Points, repetition: Repetition, sized: bool) -> Any:
    """Return the logarithm of the joint tokens."""
    power = x.log_pt * p["ρ"] + (x.log_n * p["η"] if sized else 0.0)
    return log(repetition.effective(p, x) + x.has_pt * p["κ"] * exp(power))


def _transfer(repetition: Repetition, sized: bool) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        data = p["B"] * exp(-p["β"] * _joint(p, x, repetition, sized))
        return p["E"] + repetition.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + data)

    joint = f"{_JOINT}·(N/N0)^η" if sized else _JOINT
    return Law(
        f"transfer{'-size' if sized else ''}-{repetition.name}",
        f"E + A·(N/N0)^−α + B·({joint})^−β, S in units of S0; {repetition.formula}",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), _KAPPA, _RHO) + ((_ETA,) if sized else ()) + repetition.parameters,
        loss,
        "after arXiv 2102.01293",
        "general tokens stand in for specialist ones" + (", the better the larger the model" if sized else ""),
    )


def _gap(repetition: Repetition) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        data = p["B"] * exp(-p["β"] * _joint(p, x, repetition, True))
        gap = p["G"] * exp(-p["γ"] * log(1.0 + repetition.effective(p, x) / p["s0"]))
        return p["E"] + repetition.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + data + gap)

    return Law(
        f"gap-{repetition.name}",
        f"E + A·(N/N0)^−α + B·({_JOINT}·(N/N0)^η)^−β + G·(1 + S/s0)^−γ; {repetition.formula}",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), _KAPPA, _RHO, _ETA)
        + (Parameter("G", 1e-4, 20.0, (0.3, 4.0), "nats/token", linear=True), Parameter("s0", 1e-5, 10.0, (0.003, 0.3), "ratio"), exponent("γ"))
        + repetition.parameters,
        loss,
        "transfer after arXiv 2102.01293, and this project's own term for the gap between the domains",
        "the specialist domain is far from the general text: zero-shot loss is much higher than after a little specialist text",
    )


def _bounded(repetition: Repetition) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        h = p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-p["β"] * _joint(p, x, repetition, True))
        return p["E"] + repetition.harm(p, x, (p["L0"] - p["E"]) * h / (1.0 + h))

    return Law(
        f"bounded-{repetition.name}",
        f"E + (L0 − E)·h/(1 + h), h = A·(N/N0)^−α + B·({_JOINT}·(N/N0)^η)^−β; {repetition.formula}",
        (irreducible(), Parameter("L0", 4.0, 14.0, (6.0, 10.0), "nats/token"), amplitude("A", linear=False), amplitude("B", linear=False))
        + (exponent("α"), exponent("β"))
        + (_KAPPA, _RHO, _ETA)
        + repetition.parameters,
        loss,
        "transfer after arXiv 2102.01293 inside a bounded form after arXiv 2605.09189",
        "the loss saturates towards that of an untrained model",
    )


LAWS = (
    *(_transfer(repetition, sized) for sized in (False, True) for repetition in REPETITIONS),
    *(make(repetition) for make in (_gap, _bounded) for repetition in REPETITIONS),
    _gap(COMPETING),
)
