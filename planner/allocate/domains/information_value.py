"""What is worth measuring: how much better the recommendation would be if one law were known exactly, the others as uncertain as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.allocate.domains.answer import InformationValue
from planner.allocate.domains.found import Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.resample_problems import best_in, resample_problems
from planner.allocate.domains.sensitivity import EVALUATIONS

MOST_LAWS = 20
"""Most laws evaluated: those of the domains with the most FLOPs."""


def information_value(problem: DomainsProblem, found: Found, margin: float, progress: Callable[[float], None]) -> tuple[InformationValue, ...]:
    """Return the value of knowing each law, largest first.

    Args:
        problem: the request under its laws.
        found: the recommendation.
        margin: by which required losses were tightened.
        progress: called with the share that is done.
    """
    problem = replace(problem, evaluations=EVALUATIONS)
    flops = np.array(found.flops)
    laws = sorted(problem.groups, key=lambda group: -float(flops[group[1]].sum()))[:MOST_LAWS]
    result = []
    for number, (law, members) in enumerate(laws):
        saved = [best_in(drawn, found, margin)[1] for drawn in resample_problems(problem, law)]
        names = tuple(problem.request.domains[member].name for member in members[np.argsort(-flops[members], kind="stable")])
        result.append(InformationValue(names, max(0.0, float(np.mean(saved))), max(0.0, float(np.max(saved)))))
        progress((number + 1) / len(laws))
    return tuple(sorted(result, key=lambda item: -item.saved_percent))
