"""Laws of the general loss after specialising: how much is forgotten, and how much of it replayed general text prevents.

In the specialist stage a share r of the tokens is general text; those tokens count with the general ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Parameter, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log

_REPLAY = Parameter("b", 0.1, 1e5, (10.0, 1000.0), "ratio", needs="replay")


def _forgetting(p: Mapping[str, Any], x: Points) -> Any:
    learnt = p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-p["β"] * log(x.general + p["d0"]))
    kept = x.log_n + (log(1.0 + x.replay * p["b"]) if "b" in p else 0.0)
    lost = p["φ"] * x.log_spec - p["ψ"] * kept - p["ω"] * log(x.general + p["d0"])
    return p["E"] + learnt + x.has_spec * p["F"] * exp(lost)


def _rehearsal(p: Mapping[str, Any], x: Points) -> Any:
    learnt = p["A"] * exp(p["α"] * log(exp(-x.log_n) + p["c"] * exp(-p["β"] * log(x.general + p["k"] * x.special * x.first))))
    kept = exp(-p["χ"] * log(1.0 + p["b"] * (x.general - x.pt))) if "b" in p else 1.0
    return learnt + p["F"] * log(1.0 + x.has_spec * exp(x.log_spec) / p["s0"]) * kept


def _mixture(p: Mapping[str, Any], x: Points) -> Any:
    data = p["B"] * exp(p["η"] * log(x.replay + p["ε"]) - x.log_total * p["β"])
    return p["E"] + p["A"] * exp(-x.log_n * p["α"]) + data + p["C"] * exp(-p["γ"] * log(x.replay + p["ε"]))


LAWS = (
    *(
        Law(
            name,
            f"E + A·(N/N0)^−α + B·(G + d0)^−β + F·(D_spec/S0)^φ·({size})^−ψ·(G + d0)^−ω, G = {general}/D0",
            (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β"), Parameter("d0", 1e-4, 10.0, (0.01, 1.0), "ratio"))
            + (amplitude("F"), Parameter("φ", 0.0, 2.0, (0.1, 0.6), "exponent", logarithmic=False))
            + (Parameter("ψ", -1.0, 2.0, (0.0, 0.5), "exponent", logarithmic=False), *kept)
            + (Parameter("ω", -1.0, 2.0, (-0.1, 0.4), "exponent", logarithmic=False),),
            _forgetting,
            "after arXiv 2502.06042, with an offset for runs from scratch and a factor for the length of the general stage",
            use,
            target="general",
        )
        for name, size, general, kept, use in (
            (
                "forgetting", "(1 + b·r)·N/N0", "(D_pt + replayed tokens)", (_REPLAY,),
                "the rise of the general loss by specialising, and how much of it a share of replay prevents",
            ),
            ("forgetting-alone", "N/N0", "D_pt", (), "the rise of the general loss, with a floor, by specialising, where no run replays general text"),
        )
    ),
    *(
        Law(
            name,
            f"A·((N/N0)^−1 + c·G^−β)^α + F·ln(1 + D_spec/(s0·S0)){factor}, G = (D_pt{replayed} + k·min(U, D_spec))/D0{meaning}",
            (
                amplitude("A"), Parameter("c", 1e-4, 1e3, (0.05, 3.0), "ratio"), exponent("α"), exponent("β"), amplitude("F"),
                Parameter("s0", 1e-5, 10.0, (1e-3, 0.1), "ratio"), Parameter("k", 1e-4, 10.0, (0.01, 3.0), "ratio"), *kept,
            ),
            _rehearsal,
            "this project's own, found on its sweep computing/replay",
            use,
            target="general",
        )
        for name, factor, replayed, meaning, kept, use in (
            (
                "rehearsal", "·(1 + b·R)^−χ", " + replayed", ", R = replayed/D0", (_REPLAY, exponent("χ")),
                "the rise of the general loss by specialising, and how much of it a number of replayed tokens prevents",
            ),
            ("rehearsal-alone", "", "", "", (), "the rise of the general loss by specialising, where no run replays general text"),
        )
    ),
    Law(
        "mixture-share",
        "E + A·(N/N0)^−α + B·(r + ε)^η·(D/D0)^−β + C·(r + ε)^−γ, r the share of general text",
        (irreducible(), amplitude("A"), amplitude("B"), amplitude("C"), exponent("α"), exponent("β"), exponent("γ"))
        + (Parameter("η", -1.0, 2.0, (0.0, 0.6), "exponent", logarithmic=False),)
        + (Parameter("ε", 1e-4, 1.0, (0.003, 0.1), "share", needs="replay"),),
        _mixture,
        "after arXiv 2406.01375 (D-CPT), which fits it separately for the general and for the specialist loss",
        "one base, continued on mixtures of several shares",
        target="general",
    ),
)
