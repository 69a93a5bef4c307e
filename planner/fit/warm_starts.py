"""Warm starts from related laws: a law should never fit worse than its special cases.

Parameters of one name, as in a form without and with an irreducible loss, mostly mean the same quantity: the related law's values are copied, the other
parameters drawn. A warm start is a start like any other: the solver may leave it, and it wins only where no drawn start does better.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from planner.arrays import Array
from planner.fit.estimate import Estimate
from planner.fit.scale import Scale
from planner.fit.starts import draw_starts
from planner.laws import Law, Points

SHARED_NAMES = 0.5
"""Least share of a law's parameters that a related law must have by name."""
MOST_RELATED = 4
"""Most related laws that are used, those of the least objective."""
FIRST_IRREDUCIBLE = 0.03
"""Irreducible loss at a start from a law without one, as a share of the least loss measured."""
BOUND_MARGIN = 1e-3
"""Share of a parameter's range that a warm start keeps from its bounds, near which steps would hardly move it."""


def warm_starts(law: Law, found: Iterable[Estimate], points: Points, log_loss: Array, random: np.random.Generator) -> Array:
    """Return starts from the solutions of related laws, shape (up to MOST_RELATED, parameters).

    Args:
        law: the law.
        found: laws fitted to the same runs, with the same δ; the law itself too, under another convention of N.
        points: the runs, n of them.
        log_loss: ln L, shape (n,).
        random: for the parameters that a related law lacks.
    """
    names = [parameter.name for parameter in law.parameters]
    related = [(known, {p.name: value for p, value in zip(known.law.parameters, known.theta, strict=True)}) for known in found]
    related = [pair for pair in related if len(pair[1].keys() & set(names)) >= SHARED_NAMES * len(names)]
    related = sorted(related, key=lambda pair: pair[0].objective)[:MOST_RELATED]
    if not related:
        return np.empty((0, len(names)))
    starts = draw_starts(law, points, log_loss, random, len(related), draws=1)
    floor = [parameter.irreducible for parameter in law.parameters]
    for start, (kin, values) in zip(starts, related, strict=True):
        if not kin.law.has_irreducible:
            start[floor] = FIRST_IRREDUCIBLE * np.exp(log_loss.min())
        for number, parameter in enumerate(law.parameters):
            value = values.get(parameter.name, np.nan)
            if parameter.low <= value <= parameter.high:  # what is out of range means something else here
                start[number] = value
    return Scale(law).inside(starts, BOUND_MARGIN)
