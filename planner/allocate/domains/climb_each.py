"""Independent models under a limit on the general loss, in whole steps: local search over size, general and specialist tokens of each.

As `planner.allocate.domains.climb`, but every model moves within its own part of the budget, independent of the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.allocate.domains.climb import FEW_RESAMPLES, FILLS, GAIN, MOST_MOVES, NEAR_SCALES, SCALES, SIZES
from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.general_limit import model_replay
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.rounding import FINE, better
from planner.allocate.domains.trade import MARGIN
from planner.arrays import Array

SIGNS = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
"""Signs of the moves of general and specialist tokens; no move comes first."""
TAKERS = np.array([-1, 0, 1])
"""What takes the rest of the budget: nothing, the general or the specialist tokens."""


def own_budgets(problem: DomainsProblem, found: Found) -> Array:
    """Return the cost of each domain's model with its inference, scaled so that they add up to the budget, shape (domains,)."""
    result: Array = (found.flops + problem.weights * problem.inference[found.size]) * problem.request.flops / problem.spent(found)
    return result


def climbed_each(problem: DomainsProblem, found: Found, flops: Array, nearby: bool = False) -> Found:
    """Return the best models that moves lead to, or those themselves.

    Args:
        problem: the domains, with a limit on the general loss.
        found: independent models.
        flops: most FLOPs of each with its inference, shape (domains,).
        nearby: whether the search began near the best plan of another request.
    """
    rows = np.arange(problem.count)
    size, pt, spec, share = found.plan
    unit = np.maximum(problem.step, problem.whole(spec / FINE))
    like = found
    for scale in NEAR_SCALES if nearby else SCALES:
        least = np.full(problem.count, np.inf)
        for _ in range(MOST_MOVES):
            moved = _neighbours(problem, size, pt, spec, flops, scale * unit)
            value = problem.value(problem.expected(*moved[:3], FEW_RESAMPLES, like, moved[3]), MARGIN)
            best = value.argmin(1)
            gains = value[rows, best] < least * (1 - GAIN)
            if not gains.any():
                break
            least = np.where(gains, value[rows, best], least)
            size, pt, spec, share = (np.where(gains, new[rows, best], old) for new, old in zip(moved, (size, pt, spec, share), strict=True))
        like = _as_found(problem, size, pt, spec, share)
        found = better(problem, found, like, 0.0) or found
    return found


def _neighbours(problem: DomainsProblem, size: Any, pt: Array, spec: Array, flops: Array, steps: Array) -> tuple[Any, Array, Array, Array]:
    """Return every model with all its neighbours by one move: sizes, general tokens with replay, specialist tokens, and the share of replay, NaN if not
    allowed; shape (domains, plans), the model itself first.
    """  # fmt: skip
    change, sign, taker = (item.reshape(-1) for item in np.meshgrid(SIZES, np.arange(len(SIGNS)), TAKERS, indexing="ij"))
    at = size[:, None] + np.array(change)
    outside = (at < 0) | (at >= len(problem.ladder))
    at = np.clip(at, 0, len(problem.ladder) - 1)
    total, cost = problem.tokens_each(flops[:, None], at) * (1 + 1e-9), np.take_along_axis(problem.spec_cost, at, 1)
    pt, spec = (np.where(item[:, None] > 0, item[:, None] + steps[:, None] * SIGNS[sign, which], 0.0) for which, item in enumerate((pt, spec)))
    for last in (*[False] * FILLS, True):
        pt, spec = np.minimum(pt, problem.whole(problem.general_tokens)), np.minimum(spec, problem.whole(problem.most_spec)[:, None])
        good = ~outside & (pt >= problem.least_stage * (1 - 1e-9)) & ((spec == 0) | (spec >= problem.least_stage * (1 - 1e-9)))
        share = np.where(good, model_replay(problem, at, pt, spec, 0.0, good), np.nan)
        replayed = spec * share / (1 - share)
        left = total - pt - cost * spec - (cost - 1) * replayed
        if not last:
            more = np.where(np.isfinite(left), left, 0.0)
            pt = np.where((taker == 0) & (pt > 0), pt + problem.whole(more), pt)
            spec = np.where((taker == 1) & (spec > 0), spec + problem.whole(more / cost), spec)
    return at, pt, spec, np.where(left >= 0, share, np.nan)


def _as_found(problem: DomainsProblem, size: Any, pt: Array, spec: Array, share: Array) -> Found:
    """Convert models to a `Found`, with their cost."""
    cost, replayed = problem.spec_cost[np.arange(problem.count), size], spec * share / (1 - share)
    return Found(INDEPENDENT, size, pt, spec, float(pt.sum()), problem.price[size] * (pt - replayed + cost * (spec + replayed)), 0.0, share)
