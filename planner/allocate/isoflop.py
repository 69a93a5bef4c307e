"""Iso-FLOP curves: the best loss of a budget at each model size, with the uncertainty of the best size."""

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
"""Range of sizes of a curve, as a factor below the size at which tokens per parameter become too few for any law."""
LADDER = 48
"""Shapes to which costs and embeddings are smoothed."""
DEGREE = 3
"""Degree of the smoothing polynomial in ln N; lower if there are too few shapes."""
SHAPES_PER_DEGREE = 4
FRACTIONS = np.unique(np.concatenate([np.geomspace(2e-3, 1.0, 24), np.linspace(0.01, 1.0, 100)]))
"""Fractions of the most specialist tokens possible."""


@dataclass(frozen=True)
class IsoFlop:
    """Best loss of one budget at each size, with the best split of tokens there; arrays have shape (sizes,).

    Real shapes scatter around the ladder in embeddings and FLOPs; here that is smoothed out, unlike in `plan allocate`. The curve also extends below the
    fewest tokens per parameter of the runs, where `plan allocate` stops, so that the law's own optimum shows.
    """

    flops: float
    unique_spec: float
    params: Array
    """Non-embedding, ascending."""
    loss: Array
    """exp of the mean of ln L over resamples, which `plan allocate` minimises [nats/token]."""
    low: Array
    """90 % interval of the law's loss over resamples, without run noise and drift outside the runs."""
    high: Array
    share_spec: Array
    """Share of specialist tokens in all tokens."""
    epochs_spec: Array
    inside: Any
    """Whether the runs cover it on every axis, including compute and tokens per parameter; boolean."""
    params_interval: tuple[float, float]
    """90 % interval of the best size over resamples, each with its own best split."""

    @property
    def best(self) -> int:
        """Number of the size with the least loss."""
        return int(np.argmin(self.loss))

    @property
    def at_end(self) -> bool:
        """Whether the least loss is at an end of the sizes, and so not an optimum."""
        return self.best in (0, len(self.params) - 1)


def iso_flops(law: FittedLaw, budgets: Sequence[float], unique_spec: float) -> list[IsoFlop]:
    """Find the best split at each size for several budgets, without other limits.

    Args:
        law: the fitted law.
        budgets: budgets [FLOPs].
        unique_spec: distinct specialist tokens available.

    Raises:
        DataError: a budget is too small for any size.
    """
    return [iso_flop(Problem.of(law, Request(flops, unique_spec))) for flops in budgets]


def iso_flop(problem: Problem) -> IsoFlop:
    """Find the best split at each size that the limits of a request allow, ignoring the sizes it asks for.

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
    """List sizes evenly in ln N, with the smoothed costs and embeddings of the ladder."""
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
        degree = min(DEGREE, len(ladder) // SHAPES_PER_DEGREE)  # a few shapes, which may not reach the ends, do not support a curve
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
