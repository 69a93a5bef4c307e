"""Whether the longer-trained base gains less from specialising, and whether the runs show that an interaction of the two kinds of tokens causes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_stage import Stage
from planner.fit.fitted import FittedLaw
from planner.fit.level import interval_of

LEAST_LOWER = 0.05
"""Share of the resamples in which it starts at a lower loss, above which that is mentioned as a cause."""


def longer(law: FittedLaw, bases: Sequence[Base], stages: Sequence[Stage]) -> str:
    """Say whether by the law the base with more tokens per parameter gains less, each after its best specialist stage, and why.

    A base that starts at a lower loss has less to gain under any law, so the gains alone say nothing about an interaction.
    """
    if len(bases) < 2:
        return ""
    ratio = [base.tokens / base.shape.params_non_embedding for base in bases]
    long, short = int(np.argmax(ratio)), int(np.argmin(ratio))
    if ratio[long] == ratio[short]:  # neither is longer-trained; both indices are the same
        return ""
    gains = [-100 * np.expm1(stages[number].end - stages[number].before) for number in (long, short)]
    if not (gains[0].any() and gains[1].any()):
        return ""  # a limit on the general loss, or the budget left by inference, allows one of them no specialist stage
    share = float((gains[0] < gains[1]).mean())
    lower = float((stages[long].before < stages[short].before).mean())
    less, more = (float(gain.mean()) for gain in gains)
    start = f" It starts at a lower loss in {lower:.0%} of them, which alone leaves less to gain." if lower >= LEAST_LOWER else ""
    return (
        f"{bases[long].name} ({_ratio(ratio[long])} general tokens per parameter) gains less from specialising than {bases[short].name} "
        f"({_ratio(ratio[short])}) in {share:.0%} of the resamples: {less:.3g} against {more:.3g} % of the loss on average.{start} "
        f"{interaction(law)}"
    )


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def interaction(law: FittedLaw) -> str:
    """Say in what share of the resamples a specialist token gains less the longer the general stage was, if the law has a parameter for it."""
    found = []
    for member in law.members:
        names = [parameter.name for parameter in member.law.parameters]
        if name := member.law.interaction:
            found.append((name, member.resamples[:, names.index(name)]))
    if not found:
        said = "what it implies about one follows from its form, which no run has tested"
        return f"The law has no parameter for an interaction of general and specialist tokens: {said}"
    values = np.concatenate([each for _, each in found])
    low, high = interval_of(values)
    known = "so the runs do not determine its sign" if low < 0 < high else "so the runs determine its sign"
    which = "" if len(found) == len(law.members) else f" of the {len(found)} of {len(law.members)} laws that have it"
    return (
        f"The interaction itself, {found[0][0]} > 0 (a specialist token gains less the longer the general stage was), holds in "
        f"{float((values > 0).mean()):.0%} of the resamples{which} (90 % interval {low:.2g} to {high:.2g}), {known}"
    )
