"""Iso-FLOP curves: the best loss of a budget at each model size, and how sure the law is of the best size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.allocate.optimum import crossed, interval, search
from planner.allocate.plans import Size
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.level import ENDS
from planner.fit.support import NEAR

SIZES = 90
SPAN = 100.0
"""Factor of sizes that a curve covers, down from where tokens per parameter would be too few for any law."""
LADDER = 48
"""Shapes from which costs and embeddings between them are smoothed."""
DEGREE = 3
"""Of the polynomial in ln N that smooths them, less where there are fewer shapes than it asks for."""
SHAPES_PER_DEGREE = 4
FRACTIONS = np.unique(np.concatenate([np.geomspace(2e-3, 1.0, 24), np.linspace(0.01, 1.0, 100)]))
"""Of the most specialist tokens possible."""


@dataclass(frozen=True)
class IsoFlop:
    """What one budget reaches at each size, the tokens split as is best there; arrays have shape (sizes,).

    Real shapes scatter about the ladder, in embeddings and FLOPs for a size: that is smoothed out here, and `plan allocate` keeps it. It
    does not go below the tokens per parameter that the runs cover either, and the curve does, so that the law's own optimum shows.
    """

    flops: float
    unique_spec: float
    params: Array
    """Non-embedding, ascending."""
    loss: Array
    """[nats/token], of the mean of ln L over resamples, which `plan allocate` minimises."""
    low: Array
    """90 % interval of the law's loss over resamples; the noise of a run and the drift outside the runs are not in it."""
    high: Array
    share_spec: Array
    """Share of specialist tokens in all tokens."""
    epochs_spec: Array
    inside: Any
    """Whether the runs cover it on every axis, compute and the least tokens per parameter included; boolean."""
    params_interval: tuple[float, float]
    """90 % interval of the best size over resamples, each with its own best split."""

    @property
    def best(self) -> int:
        """Number of the size with the least loss."""
        return int(np.argmin(self.loss))

    @property
    def at_end(self) -> bool:
        """Whether the least loss is at an end of the sizes: then it is no optimum."""
        return self.best in (0, len(self.params) - 1)


def iso_flops(law: FittedLaw, budgets: Sequence[float], unique_spec: float) -> list[IsoFlop]:
    """Find the best split at each size for several budgets, with no other limits.

    Args:
        law: the fitted law.
        budgets: budgets [FLOPs].
        unique_spec: distinct specialist tokens there are.

    Raises:
        DataError: a budget is too small for any size.
    """
    return [iso_flop(Problem.of(law, Request(flops, unique_spec))) for flops in budgets]


def iso_flop(problem: Problem) -> IsoFlop:
    """Find the best split at each size that a request allows, whatever sizes it asks for.

    Raises:
        DataError: budget, text, memory or the limit on the general loss allow no size.
    """
    flops, unique = problem.request.flops, problem.request.unique_spec
    plans = crossed(problem, _sizes(problem), FRACTIONS)
    found = search(problem, plans)
    expected = found.expected if problem.robust else found.guess
    of_size = [np.flatnonzero(plans.size == number) for number in np.unique(plans.size)]
    best = np.array([rows[expected[rows].argmin()] for rows in of_size])
    best = best[np.isfinite(expected[best])]
    if not len(best) and problem.retention is not None:
        problem.retention.refuse(plans, problem.min_tokens_stage, "")
    low, high = np.exp(np.quantile(found.resamples[:, best], ENDS, axis=0))
    params, spec = plans.params[best], plans.tokens_spec[best]
    factors = problem.law.support.factors(params, plans.tokens_pt[best], spec, plans.unique_spec[best], plans.flops[best])
    covered = [problem.trainable(plans.sizes[number], problem.min_tokens_per_param) for number in plans.size[best]]
    inside = (np.max(list(factors.values()), axis=0) <= NEAR) & covered
    return IsoFlop(flops, unique, params, np.exp(expected[best]), low, high, plans.share[best], spec / unique, inside, interval(found, plans.params))


def _sizes(problem: Problem) -> tuple[Size, ...]:
    """List sizes evenly in ln N, with the costs and embeddings that the ladder has about there."""
    request = problem.request
    asked = (*(request.params_range or ()), *request.params_among, *([request.params] if request.params else []))
    free = replace(problem, beyond=True, request=replace(request, params=None, params_range=None, params_among=()))
    smallest, most = free.size_range()
    least = max(min([most / SPAN, *asked]), smallest)
    if most <= least:
        raise DataError(f"{request.flops:.3g} FLOPs, or the text, are too few for the smallest model", remedy="give a larger budget or more text")
    params = np.geomspace(least, most, SIZES)
    if problem.recipe is None:
        return tuple(Size(float(value), None, 6.0 * value, None) for value in params)
    ladder = list(dict.fromkeys(problem.size(float(value)) for value in np.geomspace(least, most, LADDER)))
    log_known = np.log([size.params_non_embedding for size in ladder])
    middle = log_known.mean()

    def smooth(ratios: list[float]) -> Array:
        degree = min(DEGREE, len(ladder) // SHAPES_PER_DEGREE)  # a few shapes, which need not reach to the ends, bear no curve
        return np.exp(np.polyval(np.polyfit(log_known - middle, np.log(ratios), degree), np.log(params) - middle))

    cost = params * smooth([size.flops_per_token / size.params_non_embedding for size in ladder])
    total = params * smooth([(size.params_total or size.params_non_embedding) / size.params_non_embedding for size in ladder])
    spec_cost = smooth([size.spec_cost for size in ladder])
    columns = zip(params, total, cost, spec_cost, strict=True)
    sizes = [Size(float(size), float(whole), float(token), None, float(spec)) for size, whole, token, spec in columns]
    kept = [size for size in sizes if problem.trainable(size, problem.shortest)]
    if not kept:
        raise DataError(f"{request.flops:.3g} FLOPs are too few for any model of the recipe", remedy="give a larger budget")
    return tuple(kept)
