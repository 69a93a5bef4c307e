"""Laws of one stage: size and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.laws.base import Law, Points, amplitude, exponent, irreducible
from planner.laws.dual import exp


def _chinchilla(p: Mapping[str, Any], x: Points) -> Any:
    return p["E"] + p["A"] * exp(-x.log_n * p["α"]) + p["B"] * exp(-x.log_total * p["β"])


CHINCHILLA = Law(
    "chinchilla",
    "E + A·(N/N0)^−α + B·(D/D0)^−β",
    (irreducible(), amplitude("A"), amplitude("B"), exponent("α"), exponent("β")),
    _chinchilla,
    "arXiv 2203.15556, refitted in arXiv 2404.10102",
    "runs of one stage: tokens_spec is empty or zero",
    stages=1,
)
LAWS = (CHINCHILLA,)
