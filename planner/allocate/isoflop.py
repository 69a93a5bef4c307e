"""Iso-FLOP curves: the best loss of a budget at each model size, and how sure the law is of the best size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.allocate.optimum import coarse, interval
from planner.allocate.problem import Problem, Request
from planner.fit.fitted import LEVEL, FittedLaw
from planner.laws.dual import Array

NEAR = 1.2
"""Factor outside the runs up to which a plan counts as inside."""


@dataclass(frozen=True)
class IsoFlop:
    """What one budget reaches at each size, the tokens split as is best there; arrays have shape (sizes,)."""

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
    """Whether runs cover it, their compute included; boolean."""
    params_interval: tuple[float, float]
    """90 % interval of the best size over resamples, each with its own best split. Its ends are sizes that were searched."""

    @property
    def best_params(self) -> float:
        """Size of the least loss."""
        return float(self.params[np.argmin(self.loss)])

    @property
    def best_loss(self) -> float:
        """The least loss [nats/token]."""
        return float(self.loss.min())


def iso_flops(law: FittedLaw, budgets: Sequence[float], unique_spec: float) -> list[IsoFlop]:
    """Find the best split at each size for several budgets.

    Args:
        law: the fitted law.
        budgets: training budgets [FLOPs].
        unique_spec: distinct specialist tokens there are.

    Raises:
        DataError: a budget allows no plan.
    """
    return [_curve(Problem.of(law, Request(flops, unique_spec))) for flops in budgets]


def _curve(problem: Problem) -> IsoFlop:
    found = coarse(problem)
    plans = found.plans
    of_size = [np.flatnonzero(plans.size == number) for number in range(len(plans.sizes))]
    best = np.array([rows[found.expected[rows].argmin()] for rows in of_size])
    best = best[np.argsort(plans.params[best])]
    low, high = np.exp(np.quantile(found.resamples[:, best], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))
    spec, unique = plans.tokens_spec[best], plans.unique_spec[best]
    distance = problem.law.support.distance(plans.params[best], plans.tokens_pt[best], spec, unique)
    return IsoFlop(
        problem.request.flops, problem.request.unique_spec, plans.params[best], np.exp(found.expected[best]), low, high, plans.share[best],
        spec / unique, distance <= np.log(NEAR), interval(found, plans.params, LEVEL),
    )  # fmt: skip
