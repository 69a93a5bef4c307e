"""Where a limit on the general loss, or a required loss beside scarce text, leaves some of the budget over: a smaller budget's plan is one of it too.

The grids of a search reach over all that a budget pays, so that they are coarse where the best plan takes a small part of it. The smaller budgets are
counted from one FLOP in fixed steps: whatever the request, the same one is searched, and the same plan found in it.
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
"""Factor between smaller budgets, and from what a plan takes to the least of them that is searched for a better one."""
CLOSE = (1.05, 1.4)
"""Factors from what the best plan takes to budgets that are searched last, whose grids lie around it."""
MOST_SEARCHES = 3
"""Smaller budgets that are searched, one after the other."""


def with_less(problem: DomainsProblem, search: Callable[[DomainsProblem, float], Found | None], margin: float) -> Found | None:
    """Search a request, and smaller budgets as long as some is left over under a limit or a required loss; return the best plan, None where there is none.

    Args:
        problem: the request under its laws.
        search: for the best plan of such a request with required losses tightened by a margin.
        margin: by which they are.
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
    """Move a plan, which was moved within a smaller budget and its sizes, within the whole one."""
    if problem.count > MOST_DOMAINS:
        return found
    return climbed_each(problem, found, own_budgets(problem, found)) if found.name == INDEPENDENT else climbed(problem, found)


def _under(problem: DomainsProblem, flops: float) -> DomainsProblem:
    """Return a request with a smaller budget, and of its ladder the sizes that this can train."""
    less = replace(problem, request=replace(problem.request, flops=flops))
    sizes = np.arange(len(problem.ladder))
    trained = np.maximum(problem.least_ratio.min() * problem.params, problem.least_stage)
    if problem.request.sized:
        return less
    return replace(less, ladder=problem.ladder[: int(sizes[less.tokens(sizes) >= trained].max(initial=0)) + 1])
