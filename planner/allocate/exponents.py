"""Exponents of the best plan: how its size and tokens grow with the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.allocate.curves import Exponent
from planner.allocate.optimum import Search
from planner.allocate.problem import Problem
from planner.arrays import Array
from planner.fit.level import interval_of

QUANTITIES = ("params_non_embedding", "tokens_pt", "tokens_spec")
AT = 0.02
"""Share of a limit within which a plan counts as at the limit."""
LEAST_BUDGETS = 3
"""Budgets needed for a slope."""
LEAST_SHARE = 0.5
"""Share of the resamples that must have a slope for an interval, and so for an exponent."""


def exponents(budgets: Sequence[float], best: Array, own: Array) -> tuple[Exponent, ...]:
    """Fit an exponent for each of QUANTITIES.

    Args:
        budgets: [FLOPs].
        best: of the plans with the least expected regret, NaN at a limit, shape (budgets, quantities).
        own: of each resample's own best plan, NaN at a limit, shape (budgets, quantities, resamples).
    """
    each, log_flops = [], np.log(budgets)
    for number, name in enumerate(QUANTITIES):
        value, off = (item[0] for item in slopes(log_flops, best[:, number][None]))
        theirs, _ = slopes(log_flops, own[:, number].T)
        known = theirs[np.isfinite(theirs)]
        count, share = int(np.isfinite(best[:, number]).sum()), len(known) / len(theirs)
        if np.isfinite(value) and share >= LEAST_SHARE:
            each.append(Exponent(name, float(value), *interval_of(known), float(100 * np.expm1(off)), count, share))
        else:
            each.append(Exponent(name, None, None, None, None, count, share))  # never a value without its interval
    return tuple(each)


def slopes(log_flops: Array, values: Array) -> tuple[Array, Array]:
    """Fit d ln value / d ln C by least squares, over what is not NaN.

    Args:
        log_flops: ln C, shape (budgets,).
        values: shape (problems, budgets).

    Returns:
        Slopes, and root mean square deviations from the line in ln value, each of shape (problems,); NaN with fewer than LEAST_BUDGETS known
        values.
    """
    known = np.isfinite(values)
    count = np.where(known.sum(1) >= LEAST_BUDGETS, known.sum(1), np.nan)[:, None]
    logs = np.log(np.where(known, values, 1.0))
    along = np.where(known, log_flops, 0.0)
    off_middle = known * (log_flops - along.sum(1, keepdims=True) / count)
    slope = (off_middle * logs).sum(1) / (off_middle**2).sum(1)
    rest = known * (logs - logs.sum(1, keepdims=True) / count - slope[:, None] * off_middle)
    return slope, np.sqrt((rest**2).sum(1) / count[:, 0])


def bounded(problem: Problem, whole: Search, found: Search) -> tuple[Array, dict[str, Any]]:
    """Return `QUANTITIES` of all plans, NaN at a limit, and which plans are at which limit.

    A limit on the text does not bound the size: if all passes are taken, N and D_pt still have their optimum.
    """
    plans = found.plans
    fixed = problem.request.params is not None
    ends = (float(whole.plans.params.min()), float(whole.plans.params.max()))
    bounds = {
        "smallest size": (plans.params <= ends[0] * (1 + 1e-9)) & (not fixed),
        "largest size": (plans.params >= ends[1] * (1 - 1e-9)) & (not fixed),
        "most epochs": (plans.tokens_spec > (1 - AT) * problem.max_tokens_spec) & (not problem.one_stage),
        "shortest stage": (plans.tokens_spec > 0) & (plans.tokens_spec < (1 + AT) * problem.min_tokens_stage),
        "all general text": plans.tokens_pt > (1 - AT) * (problem.request.general_tokens or math.inf),
        "specialist only": (plans.tokens_pt == 0) & (not problem.one_corpus),
        "general only": (plans.tokens_spec == 0) & (not problem.one_stage),
        "budget left over": plans.flops < (1 - AT) * problem.request.flops,
    }
    floor = np.array([problem.at_floor(size) for size in plans.sizes])[plans.size]
    bounds["largest size"] |= floor | ((plans.tokens_pt + plans.tokens_spec < (1 + AT) * problem.shortest * plans.params) & (not fixed))
    at_end = bounds["smallest size"] | bounds["largest size"]
    spent = ~bounds["budget left over"]  # a plan that leaves some of the budget over does not depend on it
    free = (
        (plans.params, spent & ~at_end & (not fixed)),
        (plans.tokens_pt, spent & ~at_end & ~bounds["all general text"] & (plans.tokens_pt > 0)),
        (plans.tokens_spec, spent & ~at_end & ~bounds["most epochs"] & ~bounds["shortest stage"] & (plans.tokens_spec > 0)),
    )
    return np.array([np.where(inside, values, np.nan) for values, inside in free]), bounds
