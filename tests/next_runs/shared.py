"""What the tests of this folder share: a setting, a law that is linear in two parameters, and one that is less sure than its runs make it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.scale import Scale
from planner.laws import Law, Parameter
from planner.laws.base import Points
from planner.laws.dual import exp
from planner.next_runs.candidates import Setting
from planner.recipe import Recipe

SETTING = Setting(Recipe(), 1024, 1.6e6, 16.0)


def _line(p: Mapping[str, Any], x: Points) -> Any:
    return exp(p["a"] + p["b"] * x.log_n)


UNIFORM = np.sqrt(12.0)
"""Width of a start range of deviation 1."""
LINE = Law(
    "line", "exp(a + b·ln(N/N0))",
    tuple(Parameter(name, -50.0, 50.0, (0.0, float(UNIFORM)), "exponent", logarithmic=False) for name in "ab"), _line, "this test", "this test",
)  # fmt: skip
"""ln L is a straight line in ln N, so everything has a closed form."""


def unsure(law: FittedLaw, times: float) -> FittedLaw:
    """Spread the resamples of a law so many times as far around its parameters, so that they disagree about what is best."""

    def wider(member: Member) -> Member:
        scale, (low, high) = Scale(member.law), np.array([(item.low, item.high) for item in member.law.parameters]).T
        middle = scale.natural(member.theta[None])
        apart = scale.unnatural(middle + times * (scale.natural(member.resamples) - middle))
        return replace(member, resamples=np.clip(apart, low, high))

    return replace(law, members=tuple(map(wider, law.members)))
