"""Laws of one stage without repetition: size and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp, log, softplus


def _chinchilla(p: Mapping[str, Any], x: Points) -> Any:
    return p["E"] + p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-x.log_total * p["β"])


def _kaplan(p: Mapping[str, Any], x: Points) -> Any:
    size = (log(p["A"]) - x.log_n * p["α"]) / p["β"]
    data = log(p["B"]) / p["β"] - x.log_total
    return exp(p["β"] * (data + softplus(size - data)))


def _overtraining(p: Mapping[str, Any], x: Points) -> Any:
    compute = x.log_n + x.log_total
    ratio = x.log_total - x.log_n
    return p["E"] + p["A"] * exp((ratio - compute) * p["η"]) + p["B"] * exp(-(ratio + compute) * p["η"])


LAWS = (
    Law(
        "chinchilla",
        "E + A·(N/N0)^−α + B·(D/D0)^−β",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β")),
        _chinchilla,
        "arXiv 2203.15556, refitted in arXiv 2404.10102",
        "runs of one stage: tokens_spec is empty or zero",
        stages=1,
        plain={"A": ("N", "α"), "B": ("D", "β")},
    ),
    Law(
        "kaplan",
        "(A^(1/β)·(N/N0)^(−α/β) + B^(1/β)·(D/D0)^−1)^β; A and B are the losses at N0 and D0 that size alone and data alone would leave",
        (amplitude("A", linear=False), amplitude("B", linear=False), exponent("α"), exponent("β")),
        _kaplan,
        "after arXiv 2001.08361, with its N_c and D_c written as losses at the reference",
        "runs of one stage, far from any irreducible loss: it has none, so it forecasts too low at large scale",
        stages=1,
    ),
    Law(
        "overtraining",
        "E + (A·M^η + B·M^−η)·C^−η, C = N·D/(N0·D0), M = (D/D0)/(N/N0)",
        (irreducible(), amplitude("A"), amplitude("B"), exponent("η", 1.5)),
        _overtraining,
        "after arXiv 2403.08540: one exponent, so that loss falls alike with compute at every ratio of tokens to parameters",
        "runs of one stage trained far past the compute-optimal ratio, too few for two exponents",
        stages=1,
        tied=True,
    ),
)
