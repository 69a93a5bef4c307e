"""Required losses that a budget does not reach: which domain, how close it came, and what budget would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

import numpy as np

from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.found import MIXED, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.split import split
from planner.allocate.domains.stages import MANY
from planner.allocate.few import MOST_BUDGET, up
from planner.errors import DataError

TOLD = 3
"""Digits of the budget that is named."""
BISECTIONS = 6
"""So that a budget is known to about 10 %, by a coarse search."""
HAIR = 1.0005
"""By how much of a required loss a coarse search may miss it, which gives a domain just what that takes."""
COARSE, CLOSER = 1.3, 3
"""By how much of a budget a coarse search may ask too much, and bisections after it, so that it is told to 4 %."""
RAISED = 1.05
"""By how much a budget that a coarse search finds is raised until the search that plans are made with finds it enough."""


def refuse(problem: DomainsProblem, nearest: list[tuple[DomainsProblem, Found]], reaches: Callable[[float], bool]) -> NoReturn:
    """Say which required loss is out of reach.

    Args:
        problem: the domains.
        nearest: the plans that come closest to the required losses, each with the problem that it solves.
        reaches: whether the search that plans are made with finds one that keeps the required losses for some budget [FLOPs].

    Raises:
        DataError: always.
    """
    request = problem.request
    # The loss over the required one, of each domain that would have everything to itself.
    alone = [(_alone(problem, domain) / domain.max_loss, domain) for domain in request.domains if domain.max_loss is not None]
    worst, hardest = max(alone, key=lambda pair: pair[0])
    least = _least(problem, reaches)
    never = f"no budget up to {MOST_BUDGET * request.flops:.2g} FLOPs would do"
    told = never if least is None else f"about {least:.{TOLD}g} FLOPs for all domains would do by the laws"
    if worst > 1:
        required = float(hardest.max_loss or np.nan)
        raise DataError(
            f"domain {hardest.name!r} cannot reach its max_loss of {required:g} nats/token with {request.flops:.3g} FLOPs, even with all of them: "
            f"the best is {worst * required:.5g}; {told}",
            remedy="raise its max_loss, or give more of its text" if least is None else "raise its max_loss, give more budget or more of its text",
        )
    reached = [under.losses(found) for under, found in nearest]
    number, loss = min(((int((each / problem.max_loss).argmax()), each) for each in reached), key=lambda pair: float((pair[1] / problem.max_loss).max()))
    raise DataError(
        f"the required losses cannot all be reached with {request.flops:.3g} FLOPs: domain {request.domains[number].name!r} comes to "
        f"{loss[number]:.5g} nats/token at best beside the others, and its max_loss is {problem.max_loss[number]:g}; {told}",
        remedy="raise a max_loss, or give more text" if least is None else "raise a max_loss, or give more budget",
    )


def _alone(problem: DomainsProblem, domain: Domain) -> float:
    """Return the best loss of one domain that has the budget to itself [nats/token]."""
    own = replace(problem.request, domains=(replace(domain, weight=1.0, max_loss=None),))
    return min((float(under.losses(found)[0]) for under, found in _plans(problem, own, quick=False)), default=np.inf)


def _plans(like: DomainsProblem, request: DomainsRequest, quick: bool) -> Iterator[tuple[DomainsProblem, Found]]:
    """Find the plans that could be recommended, each with the problem that it solves, by the measure of another problem."""
    problem = DomainsProblem.of(request, robust=like.robust)
    if (found := split(problem, quick=quick)) is not None:
        yield problem, found
    # One domain alone is split training off a trunk of its own.
    if problem.count > 1 and (found := independent(problem, quick=quick)) is not None:
        yield problem, found
    if (mix := MixWorth.of(request.domains)) is not None:
        mixing = replace(problem, mix=mix)
        if (found := split(mixing, MIXED, quick=quick)) is not None and mix.covers(found):
            yield mixing, found


def _least(problem: DomainsProblem, reaches: Callable[[float], bool]) -> float | None:
    """Search upward for a budget [FLOPs], None where none does: coarsely, and from there by the search that plans are made with.

    What is told has three digits, and is searched with as these say it. Larger budgets may be a hair behind smaller ones in whole steps.
    """

    def enough(flops: float) -> bool:
        plans = _plans(problem, replace(problem.request, flops=flops), True)
        return any(bool((under.losses(found) <= HAIR * under.max_loss).all()) for under, found in plans)

    asked = problem.request.flops
    low, high = asked, MOST_BUDGET * asked
    if not enough(high):
        return None
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if enough(middle) else (middle, high)
    low, high = max(asked, high / COARSE), up(high, TOLD)
    while not reaches(high):
        if high > MOST_BUDGET * asked:
            return None
        low, high = high, up(high * RAISED, TOLD)
    for _ in range(CLOSER if problem.count <= MANY else 0):
        middle = up(float(np.sqrt(low * high)), TOLD)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
