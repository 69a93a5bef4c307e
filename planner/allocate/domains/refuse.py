"""Required losses that a budget does not reach: which domain, how close it came, and what budget would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

import numpy as np

from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.split import split
from planner.allocate.domains.stages import MIXED, Found
from planner.errors import DataError

MOST_BUDGET = 1000.0
"""Factor in budget up to which is searched."""
BISECTIONS = 7
"""So that a budget is told to about 5 %."""


def refuse(problem: DomainsProblem, nearest: list[tuple[DomainsProblem, Found]]) -> NoReturn:
    """Say which required loss is out of reach.

    Args:
        problem: the domains.
        nearest: the plans that come closest to the required losses, each with the problem that it solves.

    Raises:
        DataError: always.
    """
    request = problem.request
    # The loss over the required one, of each domain that would have everything to itself.
    alone = [(_alone(problem, request, domain, request.flops) / domain.max_loss, domain) for domain in request.domains if domain.max_loss is not None]
    worst, hardest = max(alone, key=lambda pair: pair[0])
    if worst > 1:
        required = float(hardest.max_loss or np.nan)
        told = _least(request.flops, lambda flops: _alone(problem, request, hardest, flops) <= required)
        raise DataError(
            f"domain {hardest.name!r} cannot reach its max_loss of {required:g} nats/token with {request.flops:.3g} FLOPs, even with all of them: "
            f"the best is {worst * required:.5g}; {told}",
            remedy="raise its max_loss, give more budget or more of its text",
        )
    reached = [under.losses(found) for under, found in nearest]
    number, loss = min(((int((each / problem.max_loss).argmax()), each) for each in reached), key=lambda pair: float((pair[1] / problem.max_loss).max()))
    told = _least(request.flops, lambda flops: _together(problem, replace(request, flops=flops)))
    raise DataError(
        f"the required losses cannot all be reached with {request.flops:.3g} FLOPs: domain {request.domains[number].name!r} comes to "
        f"{loss[number]:.5g} nats/token at best beside the others, and its max_loss is {problem.max_loss[number]:g}; {told}",
        remedy="raise a max_loss, or give more budget",
    )


def _alone(problem: DomainsProblem, request: DomainsRequest, domain: Domain, flops: float) -> float:
    """Return the best loss of one domain that has the budget to itself [nats/token]."""
    own = replace(request, flops=flops, domains=(replace(domain, weight=1.0, max_loss=None),))
    return min((float(under.losses(found)[0]) for under, found in _plans(problem, own, quick=False)), default=np.inf)


def _together(problem: DomainsProblem, request: DomainsRequest) -> bool:
    """Return whether a coarse search reaches all required losses."""
    return any(bool((under.losses(found) <= under.max_loss).all()) for under, found in _plans(problem, request, quick=True))


def _plans(like: DomainsProblem, request: DomainsRequest, quick: bool) -> Iterator[tuple[DomainsProblem, Found]]:
    """Find the plans that could be recommended, each with the problem that it solves, by the measure of another problem."""
    problem = DomainsProblem.of(request, robust=like.robust)
    plans = [(problem, split(problem, quick=quick))]
    if problem.count > 1:  # one domain alone is split training off a trunk of its own
        plans.append((problem, independent(problem, quick=quick)))
    if (mix := MixWorth.of(problem)) is not None:
        mixing = replace(problem, mix=mix)
        if (mixed := split(mixing, MIXED, quick=quick)) is not None and mix.covers(mixed):
            plans.append((mixing, mixed))
    return ((under, found) for under, found in plans if found is not None)


def _least(flops: float, enough: Callable[[float], bool]) -> str:
    """Search upward for a budget, and say it."""
    low, high = flops, MOST_BUDGET * flops
    if not enough(high):
        return f"no budget up to {high:.2g} FLOPs would do"
    for _ in range(BISECTIONS):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if enough(middle) else (middle, high)
    return f"about {high:.2g} FLOPs would do by the laws"
