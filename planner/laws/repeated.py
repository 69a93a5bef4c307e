"""Laws of one stage with repetition: one corpus of U distinct tokens, seen D times in all (tables with specialist tokens only)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Parameter, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log, minimum
from planner.laws.repetition import PENALISED, saturate

_HALF_D = Parameter("R_D*", 0.2, 5000.0, (2.0, 60.0), "passes", needs="repeats")
_HALF_N = Parameter("R_N*", 0.05, 5000.0, (1.0, 30.0), "ratio")


def _constrained(p: Mapping[str, Any], x: Points) -> Any:
    # A model of more than U_N parameters is larger than U distinct tokens can use: U_N is Chinchilla-optimal for U.
    log_useful = minimum((log(p["A"]) - log(p["B"])) / p["α"] + x.log_first, x.log_n)
    excess = exp(x.log_n - log_useful) - 1.0
    size = log(1.0 + p["R_N*"] * (1.0 - exp(-excess / p["R_N*"]))) + log_useful
    data = log(saturate(x, p["R_D*"]))
    return p["E"] + p["A"] * exp(-p["α"] * size) + p["B"] * exp(-p["α"] * data)


def _penalised(p: Mapping[str, Any], x: Points) -> Any:
    return p["E"] + PENALISED.harm(p, x, p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-x.log_total * p["β"]))


LAWS = (
    Law(
        "data-constrained",
        "E + A·N'^−α + B·D'^−α, D' = U·(1 + R_D*·(1 − e^(−R/R_D*))), R = D/U − 1; N' alike with R_N* from U_N = min(N, N_opt(U)); units N0, D0",
        (irreducible(), amplitude("A", linear=False), amplitude("B", linear=False), exponent("α"), _HALF_D, _HALF_N),
        _constrained,
        "arXiv 2305.16264, with its one exponent for size and data; R_D* and R_N* lie on a ridge in its own data",
        "one corpus seen for several epochs; loss cannot rise with passes",
        stages=1,
        repeats=True,
        plain={"A": ("N", "α"), "B": ("D", "α")},
    ),
    Law(
        "repetition-penalty",
        f"E + A·(N/N0)^−α + B·(D/D0)^−β {PENALISED.formula.split(', and ')[1]}",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), *PENALISED.parameters),
        _penalised,
        "after arXiv 2605.01640, with exponents of their own for N and U",
        "one corpus seen for so many epochs that loss rises again",
        stages=1,
        repeats=True,
    ),
)
