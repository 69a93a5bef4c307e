"""Two-stage laws in which general and specialist tokens have terms or factors of their own.

Offsets d0 and s0 keep them finite at D_pt = 0 and D_spec = 0. They are written as (1 + D/d0)^−β, so that an amplitude is the term's value at zero tokens:
(D + d0)^−β is the same law, but its amplitude, offset and exponent trade off so well that no solver recovers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Parameter, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log
from planner.laws.repetition import REPETITIONS, Repetition

_OFFSETS = tuple(Parameter(name, 1e-5, 100.0, (0.01, 1.0), "ratio") for name in ("d0", "s0"))


def _additive(repetition: Repetition) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        general = p["B"] * exp(-p["β"] * log(1.0 + x.pt / p["d0"]))
        special = p["C"] * exp(-p["γ"] * log(1.0 + repetition.effective(p, x) / p["s0"]))
        return p["E"] + repetition.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + general + special)

    return Law(
        f"additive-{repetition.name}",
        f"E + A·(N/N0)^−α + B·(1 + D_pt/d0)^−β + C·(1 + S/s0)^−γ; {repetition.formula}",
        (irreducible(), amplitude("A"), amplitude("B"), amplitude("C"), exponent("α"), exponent("β"), exponent("γ"))
        + _OFFSETS
        + repetition.parameters,
        loss,
        "a sum of powers, with offsets",
        "a baseline: general tokens help by the same amount whatever the specialist tokens",
    )


def _multiplicative(repetition: Repetition) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        data = -p["β"] * log(1.0 + x.pt / p["d0"]) - p["γ"] * log(1.0 + repetition.effective(p, x) / p["s0"])
        return p["E"] + repetition.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(data))

    return Law(
        f"multiplicative-{repetition.name}",
        f"E + A·(N/N0)^−α + B·(1 + D_pt/d0)^−β·(1 + S/s0)^−γ; {repetition.formula}",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), exponent("γ"))
        + _OFFSETS
        + repetition.parameters,
        loss,
        "after arXiv 2402.17193, with offsets and a term for size",
        "general tokens act as a factor on what specialist tokens leave",
    )


def _interaction(repetition: Repetition) -> Law:
    def loss(p: Mapping[str, Any], x: Points) -> Any:
        general, special = log(1.0 + x.pt / p["d0"]), log(1.0 + repetition.effective(p, x) / p["s0"])
        data = -p["β"] * general - p["γ"] * special + p["ι"] * general * special
        return p["E"] + repetition.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(data))

    return Law(
        f"interaction-{repetition.name}",
        f"E + A·(N/N0)^−α + B·(1 + D_pt/d0)^−β·(1 + S/s0)^(−γ + ι·ln(1 + D_pt/d0)); {repetition.formula}",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), exponent("γ"))
        + (Parameter("ι", -0.5, 0.5, (-0.05, 0.1), "exponent", logarithmic=False),)
        + _OFFSETS
        + repetition.parameters,
        loss,
        "after arXiv 2510.06548, with offsets and a term for size",
        "a specialist token buys less the longer the general stage was",
        interaction="ι",
    )


LAWS = tuple(make(repetition) for make in (_additive, _multiplicative, _interaction) for repetition in REPETITIONS)
