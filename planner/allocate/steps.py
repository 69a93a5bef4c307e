"""Under a limit on the general loss: the best plan in whole optimiser steps, among all that lie beside a place of a search.

A search has plans in parts of steps. Where the best of them just keeps the limit, its rounding keeps it no longer, or by more than it must, and another
size or one step more of something is better by as much as a step is worth.
"""

from __future__ import annotations

import numpy as np

from planner.allocate.optimum import guesses, search
from planner.allocate.plans import Plans
from planner.allocate.problem import ROUNDING, Problem
from planner.laws.dual import Array

ASIDE = 2
"""Steps below and above."""
NEAR = 1e-3
"""In ln L, behind the best in parts of steps: farther off a step makes no other plan the best."""


def best_beside(problem: Problem, plans: Plans) -> Plans | None:
    """Return the best plan in whole steps beside those of a close search, None where none of them keeps the limit.

    Args:
        problem: the request under its law and its limit on the general loss.
        plans: the search.
    """
    values = _values(problem, plans)
    whole = _beside(problem, plans.rows(np.flatnonzero(values <= values.min() + NEAR)))
    values = _values(problem, whole)
    return whole.rows([int(values.argmin())]) if len(values) and np.isfinite(values.min()) else None


def _beside(problem: Problem, plans: Plans) -> Plans:
    """Return the plans in whole steps beside some plans, each once, that keep budget, text and the least of each stage.

    Args:
        problem: the request under its law.
        plans: in parts of steps.
    """
    step = problem.recipe.tokens_per_step if problem.recipe else 1
    whole = []
    for tokens in (plans.tokens_pt, plans.tokens_spec):
        aside = np.floor(tokens / step)[:, None] + np.arange(1 - ASIDE, ASIDE + 1)
        whole.append(np.where((tokens > 0)[:, None], aside, 0.0))
    size, pt, spec = (item.ravel() for item in np.broadcast_arrays(plans.size[:, None, None], whole[0][:, :, None], whole[1][:, None, :]))
    size, pt, spec = np.unique(np.stack([size, pt, spec]), axis=1)
    size, pt, spec = size.astype(int), step * pt, step * spec
    params = np.array([item.params_non_embedding for item in plans.sizes])[size]
    made = Plans(size, params, pt, spec, np.full(len(size), plans.unique_spec[0]), plans.sizes)
    total, cost = (np.array(values)[size] for values in zip(*((problem.tokens(item), item.spec_cost) for item in plans.sizes), strict=True))
    least, slack = problem.min_tokens_stage * (1 - ROUNDING), 1 + 1e-9
    fits = (pt + cost * spec <= total * slack) & (pt <= problem.general_tokens * slack) & (spec <= problem.max_tokens_spec * slack)
    fits &= ((pt == 0) | (pt >= least)) & ((spec == 0) | (spec >= least)) & (pt + spec > 0) & (not problem.needs_trunk or pt > 0)
    return made.rows(fits & problem.enough(made))


def _values(problem: Problem, plans: Plans) -> Array:
    """Return what plans are worth, infinite for those that pass the limit, shape (plans,)."""
    return search(problem, plans).expected if problem.robust else guesses(problem, plans)
