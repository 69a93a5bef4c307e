"""Whether the base of more general tokens gains less from specialising, and whether an interaction of the two kinds of tokens is known to be why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_stage import Stage
from planner.fit.fitted import FittedLaw
from planner.fit.level import interval_of

LEAST_LOWER = 0.05
"""Share of the resamples in which it starts lower, from which that may be why it gains less."""


def longer(law: FittedLaw, bases: Sequence[Base], stages: Sequence[Stage]) -> str:
    """Say whether the law has the base of more tokens per parameter gain less, each specialised as far as is best for it, and by what.

    A base that starts lower has less to gain under any law, so that the gains alone say nothing of an interaction.
    """
    if len(bases) < 2:
        return ""
    ratio = [base.tokens / base.shape.params_non_embedding for base in bases]
    long, short = int(np.argmax(ratio)), int(np.argmin(ratio))
    if ratio[long] == ratio[short]:  # none is longer trained: both are the first
        return ""
    gains = [-100 * np.expm1(stages[number].end - stages[number].before) for number in (long, short)]
    if not (gains[0].any() and gains[1].any()):
        return ""  # a limit on the general loss, or what inference leaves, lets one of them not be specialised at all
    share = float((gains[0] < gains[1]).mean())
    lower = float((stages[long].before < stages[short].before).mean())
    less, more = (float(gain.mean()) for gain in gains)
    start = f" It starts lower in {lower:.0%} of them, and a lower start alone leaves less to gain." if lower >= LEAST_LOWER else ""
    return (
        f"{bases[long].name} ({_ratio(ratio[long])} general tokens per parameter) gains less from specialising than {bases[short].name} "
        f"({_ratio(ratio[short])}) in {share:.0%} of the resamples: {less:.3g} against {more:.3g} % of the loss on average.{start} "
        f"{interaction(law)}"
    )


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def interaction(law: FittedLaw) -> str:
    """Say in what share of the resamples a specialist token buys less the longer the general stage was, where a parameter of the law decides that."""
    found = []
    for member in law.members:
        names = [parameter.name for parameter in member.law.parameters]
        if name := member.law.interaction:
            found.append((name, member.resamples[:, names.index(name)]))
    if not found:
        return "The law has no parameter for an interaction of general and specialist tokens: what it says of them here is its form, which no run decided"
    values = np.concatenate([each for _, each in found])
    low, high = interval_of(values)
    known = "which the runs do not determine" if low < 0 < high else "which the runs determine"
    which = "" if len(found) == len(law.members) else f" by the {len(found)} of {len(law.members)} laws that have one"
    return (
        f"The interaction itself, {found[0][0]} over 0 (a specialist token buys less the longer the general stage was), has that sign in "
        f"{float((values > 0).mean()):.0%} of the resamples{which} (90 % interval {low:.2g} to {high:.2g}), {known}"
    )
