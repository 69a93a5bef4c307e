"""Required losses that a budget does not reach: which domain misses, by how much, and what budget would suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np

from planner.allocate.bisection import bisect_log
from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.found import INDEPENDENT, MIXED, SPLIT, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.search_grid import MANY_DOMAINS
from planner.allocate.domains.split import split
from planner.allocate.infeasible import MOST_BUDGET, round_up
from planner.errors import DataError

STRUCTURES = (SPLIT, INDEPENDENT, MIXED)
BUDGET_DIGITS = 3
"""Digits of the budget in the message."""
BISECTIONS = 6
"""Halvings after which a coarse search knows the budget to about 10 %."""
HAIR = 1.0005
"""Factor on a required loss within which a coarse search counts as reaching it, since it gives a domain just enough for that."""
DOWN = 1.15
"""Factor between budgets tried downward from one that suffices, until one does not."""
FURTHER, ASIDE = 1.15, 1.005
"""How far to step towards the budget at which the last two misses extrapolate to zero [fraction of the way in ln C]; over 1, since misses shrink ever
more slowly with the budget. And the factor to go above that budget."""
CLOSE = 1.028
"""Factor between the budget that is named and one known to miss: close enough to stop."""
APART, NOISE = 2.0, 1e-3
"""A structure is dropped from the search once its miss exceeds APART times the smallest miss plus NOISE [share of the required loss]."""
MOST_BUDGETS = 10
"""Budgets searched at most."""
RAISED = 1.05
"""Factor by which the budget from the coarse search is raised until the full search confirms it."""


Missed = Callable[[float, Sequence[str]], float]
"""From a budget [FLOPs] and names of structures to the relative miss of the best of them by the full search; 0 or less if it keeps the required losses."""


def refuse(problem: DomainsProblem, nearest: list[tuple[DomainsProblem, Found]], missed: Missed) -> NoReturn:
    """Refuse required losses that are out of reach, and say which.

    Args:
        problem: the domains.
        nearest: the plans that come closest to the required losses, each with its problem.
        missed: returns by how much structures miss the required losses with another budget.

    Raises:
        DataError: always.
    """
    request = problem.request
    # Loss over required loss of each domain if it had the whole budget.
    alone = [(_loss_alone(problem, domain) / domain.max_loss, domain) for domain in request.domains if domain.max_loss is not None]
    worst, hardest = max(alone, key=lambda pair: pair[0])
    reached = [under.losses(found) for under, found in nearest]
    number, loss = min(((int((each / problem.max_loss).argmax()), each) for each in reached), key=lambda pair: float((pair[1] / problem.max_loss).max()))
    least = _least(problem, float(loss[number] / problem.max_loss[number]) - 1, missed)
    never = f"no budget up to {MOST_BUDGET * request.flops:.2g} FLOPs would suffice"
    told = never if least is None else f"by the laws about {least:.{BUDGET_DIGITS}g} FLOPs for all domains would suffice"
    if worst > 1:
        required = float(hardest.max_loss or np.nan)
        raise DataError(
            f"domain {hardest.name!r} cannot reach its max_loss of {required:g} nats/token with {request.flops:.3g} FLOPs, even if it gets them all: "
            f"its best loss is {worst * required:.5g}; {told}",
            remedy="raise its max_loss, or give more of its text" if least is None else "raise its max_loss, give more budget or more of its text",
        )
    raise DataError(
        f"the required losses cannot all be reached with {request.flops:.3g} FLOPs: domain {request.domains[number].name!r} reaches "
        f"{loss[number]:.5g} nats/token at best beside the others, but its max_loss is {problem.max_loss[number]:g}; {told}",
        remedy="raise a max_loss, or give more text" if least is None else "raise a max_loss, or give more budget",
    )


def _loss_alone(problem: DomainsProblem, domain: Domain) -> float:
    """Return the best loss of one domain that has the budget to itself [nats/token]."""
    own = replace(problem.request, domains=(replace(domain, weight=1.0, max_loss=None),))
    return min((float(under.losses(found)[0]) for under, found in _plans(problem, own, quick=False)), default=np.inf)


def _plans(like: DomainsProblem, request: DomainsRequest, quick: bool) -> Iterator[tuple[DomainsProblem, Found]]:
    """Find the plans that could be recommended, each with its problem, by the measure (robust or not) of another problem."""
    problem = DomainsProblem.of(request, robust=like.robust)
    if (found := split(problem, quick=quick)) is not None:
        yield problem, found
    # For one domain this is the same as split training.
    if problem.count > 1 and (found := independent(problem, quick=quick)) is not None:
        yield problem, found
    if (mix := MixWorth.of(request.domains)) is not None:
        mixing = replace(problem, mix=mix)
        if (found := split(mixing, MIXED, quick=quick)) is not None and mix.covers(found):
            yield mixing, found


def _least(problem: DomainsProblem, now: float, missed: Missed) -> float | None:
    """Find the least budget that suffices [FLOPs], None if there is none: first coarsely, then by the full search.

    Budgets are rounded to the digits of the message before they are tried. A structure that misses with a sufficient budget, or by far with an
    insufficient one, is not tried again: most of the time goes to those that miss.

    Args:
        problem: the domains.
        now: relative miss of the best plan with the present budget.
        missed: as for `refuse`.
    """

    def enough(flops: float) -> bool:
        plans = _plans(problem, replace(problem.request, flops=flops), True)
        return any(bool((under.losses(found) <= HAIR * under.max_loss).all()) for under, found in plans)

    asked = problem.request.flops
    if not enough(MOST_BUDGET * asked):
        return None
    _, high = bisect_log(asked, MOST_BUDGET * asked, enough, BISECTIONS)
    few, high = [(asked, now)], round_up(high, BUDGET_DIGITS)
    each = [missed(high, [name]) for name in STRUCTURES]
    while min(each) > 0:
        if high > MOST_BUDGET * asked:
            return None
        few, high = [*few, (high, min(each))], round_up(high * RAISED, BUDGET_DIGITS)
        each = [missed(high, [name]) for name in STRUCTURES]
    names = [name for name, by in zip(STRUCTURES, each, strict=True) if by <= 0]
    if problem.count > MANY_DOMAINS:
        return high
    for _ in range(MOST_BUDGETS):
        if high <= CLOSE * few[-1][0]:
            break
        at = round_up(float(np.clip(_aim(few, high), few[-1][0] * ASIDE, high / CLOSE)), BUDGET_DIGITS)
        by: dict[str, float] = {}
        for name in names:
            if min(by.values(), default=np.inf) > 0:
                by[name] = missed(at, [name])
        least = min(by.values())
        few, high = (few, at) if least <= 0 else ([*few, (at, least)], high)
        names = [name for name in names if by.get(name, 0.0) <= (APART * least + NOISE if least > 0 else 0.0)]
    return high


def _aim(few: list[tuple[float, float]], high: float) -> float:
    """Return the next budget to try below one that suffices: where the last two misses extrapolate to zero, else a step down."""
    if len(few) < 2:
        return max(high / DOWN, float(np.sqrt(few[0][0] * high)))
    (first, more), (last, less) = few[-2:]
    if less >= more:
        return float(np.sqrt(last * high))
    return float(last * (last / first) ** (FURTHER * less / (more - less)) * ASIDE)
