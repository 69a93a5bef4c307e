"""The best plan in whole optimiser steps, among all that lie close to a plan of a search.

A search allows fractions of steps. If its best plan just keeps a limit, on the general loss or of the fewest tokens for a size, the rounded plan breaks
it, or keeps it with a margin, and another size or a few more steps of something are better by about the worth of a step.
"""

from __future__ import annotations

import numpy as np

from planner.allocate.optimum import guesses, leading
from planner.allocate.plans import Plans
from planner.allocate.problem import FINEST, ROUNDING, Problem
from planner.allocate.refine import Round, around_plan
from planner.arrays import Array

NEAR_STEPS = Round(1.1, FINEST, 1.02, 9)
"""Neighbourhood of the best plan before rounding."""
NEAR = 3e-3
"""In ln L: plans that are further behind cannot become the best through rounding."""
OF_A_SIZE = 4
"""Best plans of each size, before rounding, whose surroundings are tried."""
ASIDE = 4
"""Whole steps tried to either side."""
AROUND_STEP = np.arange(1 - ASIDE, ASIDE + 1)


def best_beside(problem: Problem, plans: Plans, number: int) -> Plans | None:
    """Return the best plan in whole steps near one of a search, None if none keeps all limits.

    Args:
        problem: the request under its law.
        plans: the search.
        number: of its best plan.
    """
    near, values = _valued(problem, around_plan(problem, plans, number, NEAR_STEPS))
    if not len(near):
        return None
    order = np.lexsort((values, near.size))
    first = np.concatenate([[0], np.flatnonzero(np.diff(near.size[order])) + 1])
    rank = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
    chosen = order[(rank < OF_A_SIZE) & (values[order] <= values.min() + NEAR)]
    whole, values = _valued(problem, _beside(problem, near.rows(chosen[values[chosen].argsort()])))
    return whole.rows([int(values.argmin())]) if len(whole) else None


def _valued(problem: Problem, plans: Plans) -> tuple[Plans, Array]:
    """Return the plans that keep the limit on the general loss and may be the best, with their ln L."""
    if problem.robust:
        found = leading(problem, plans, NEAR)
        return found.plans, found.expected
    values = guesses(problem, plans)
    keeps = np.flatnonzero(np.isfinite(values))
    return plans.rows(keeps), values[keeps]


def _beside(problem: Problem, plans: Plans) -> Plans:
    """Return the plans in whole steps beside some plans, each once, that keep budget, text and the minimum of each stage.

    Args:
        problem: the request under its law.
        plans: before rounding, the best first.
    """
    step = problem.recipe.tokens_per_step if problem.recipe else 1
    pt, spec = (np.where((tokens > 0)[:, None], np.floor(tokens / step)[:, None] + AROUND_STEP, 0.0) for tokens in (plans.tokens_pt, plans.tokens_spec))
    crossed = [np.broadcast_arrays(plans.size[:, None, None], pt[:, :, None], spec[:, None, :])]
    if plans.tokens_pt[0] > 0:  # and the fewest general tokens for each size with the best's specialist ones: for a smaller size far fewer
        enough = problem.shortest * np.array([[size.params_non_embedding] for size in plans.sizes]) / step
        fewest = np.ceil((enough - spec[0]) * (1 - ROUNDING))[:, :, None] + np.arange(ASIDE)
        crossed.append(np.broadcast_arrays(np.arange(len(plans.sizes))[:, None, None], fewest, spec[0][:, None]))
    size, pt, spec = (np.concatenate([item.ravel() for item in column]) for column in zip(*crossed, strict=True))
    size, pt, spec = np.unique(np.stack([size, pt, spec]), axis=1)
    size = size.astype(int)
    made = problem.make(size, step * pt, step * spec, plans.sizes)
    total, cost = (np.array(values)[size] for values in zip(*((problem.tokens(item), item.spec_cost) for item in plans.sizes), strict=True))
    least, slack = problem.min_tokens_stage * (1 - ROUNDING), 1 + 1e-9
    pt, spec = made.tokens_pt, made.tokens_spec
    fits = (pt + cost * spec <= total * slack) & (pt <= problem.general_tokens * slack) & (spec <= problem.max_tokens_spec * slack)
    fits &= ((pt == 0) | (pt >= least)) & ((spec == 0) | (spec >= least)) & (pt + spec > 0) & (not problem.needs_trunk or pt > 0)
    return made.rows(fits & problem.enough(made))
