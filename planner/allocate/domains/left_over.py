"""Searches with smaller budgets, if a limit on the general loss, or a required loss with scarce text, leaves some of the budget over.

A plan for a smaller budget is also one for the budget. The grids of a search span the whole budget, so they are coarse if the best plan takes a small
part of it. The smaller budgets are powers of a fixed factor, independent of the request, so the same ones are searched and the same plans found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.allocate.domains.climb import MOST_DOMAINS, climbed
from planner.allocate.domains.climb_each import climbed_each, own_budgets
from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.rounding import better
from planner.allocate.request import LEFT_OVER

STEP, ROOM = 1.2, 1.02
"""Factor between smaller budgets, and the least factor from the cost of a plan to the smaller budget that is searched."""
CLOSE = (1.05, 1.4)
"""Factors from the cost of the best plan to the budgets searched last, whose grids are centred on it."""
MOST_SEARCHES = 3
"""Most smaller budgets searched."""


def with_less(problem: DomainsProblem, search: Callable[[DomainsProblem, float], Found | None], margin: float) -> Found | None:
    """Search a request, and smaller budgets while a limit or a required loss leaves some over; return the best plan, None if there is none.

    Args:
        problem: the request under its laws.
        search: returns the best plan of a request, with required losses tightened by a margin.
        margin: that margin.
    """
    best = found = first = search(problem, margin)
    less = problem
    for _ in range(MOST_SEARCHES):
        if found is None or not (problem.request.limited or np.isfinite(problem.max_loss).any()):
            break
        flops = STEP ** np.ceil(np.log(ROOM * problem.spent(found)) / np.log(STEP))
        if flops > LEFT_OVER * less.request.flops:
            break
        less = _under(problem, float(flops))
        found = search(less, margin)
        best = better(problem, best, found, margin)
    if best is None or not problem.request.limited or problem.spent(best) > LEFT_OVER * problem.request.flops:
        return best
    best = best if best is first else _climbed_in_full(problem, best)
    for flops in (factor * problem.spent(best) for factor in CLOSE):
        if flops <= LEFT_OVER * problem.request.flops and (found := search(_under(problem, flops), margin)) is not None:
            best = better(problem, best, _climbed_in_full(problem, found), margin) or best
    return best


def _climbed_in_full(problem: DomainsProblem, found: Found) -> Found:
    """Continue the local search of a plan from a smaller budget with the whole budget and all sizes."""
    if problem.count > MOST_DOMAINS:
        return found
    return climbed_each(problem, found, own_budgets(problem, found)) if found.name == INDEPENDENT else climbed(problem, found)


def _under(problem: DomainsProblem, flops: float) -> DomainsProblem:
    """Return the problem with a smaller budget, and the part of its ladder that this can train."""
    less = replace(problem, request=replace(problem.request, flops=flops))
    sizes = np.arange(len(problem.ladder))
    trained = np.maximum(problem.least_ratio.min() * problem.params, problem.least_stage)
    if problem.request.sized:
        return less
    return replace(less, ladder=problem.ladder[: int(sizes[less.tokens(sizes) >= trained].max(initial=0)) + 1])
