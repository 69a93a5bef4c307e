"""The target region: the plans that may turn out best at the target budget, and what is at stake between them.

The weight of a plan is the share of the law's resamples under which its loss is within a tolerance of that resample's own best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.allocate.optimum import coarse
from planner.allocate.plans import Plans
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import InputError
from planner.fit.fitted import FittedLaw
from planner.laws import Points
from planner.next_runs.belief import ParameterDraws

CRITERIA = {
    "V": "mean variance of the contrasts of ln L between the plans of the region and the recommendation, and a tenth of that of its own forecast",
    "I": "mean variance of the forecasts of ln L over the region",
    "D": "geometric mean variance of the law's parameters",
}
FORECAST_WEIGHT = 0.1
"""Weight of the recommendation's own forecast in "V": the contrasts decide the plan, but alone would leave its loss unmeasured."""
MOST_PLANS = 150
"""Most plans of the region that are kept, those with the largest weights."""
CHANCES = 1500
"""Draws of the true parameters for estimating expected regret."""


@dataclass(frozen=True)
class Target:
    """Plans at the target budget."""

    plans: Plans
    """The region."""
    weights: Array
    """Shape (plans,), summing to 1."""
    best: int
    """Number of the present recommendation: least expected regret."""

    @classmethod
    def of(cls, law: FittedLaw, request: Request, general: FittedLaw | None = None) -> Target:
        """Find the region.

        Args:
            law: a fit, or a prior.
            request: the target budget, distinct text and limits; plans within its tolerance of the best count as equally good.
            general: the law of the general loss, if that is limited.

        Raises:
            DataError: the budget allows no plan.
        """
        found = coarse(Problem.of(law, request, general))
        return cls.among(found.plans, found.resamples, found.best, request.tolerance)

    @classmethod
    def among(cls, plans: Plans, resamples: Array, best: int, tolerance: float) -> Target:
        """Take the region from given plans.

        Args:
            plans: all candidates.
            resamples: their ln L, shape (resamples, plans).
            best: number of the recommended one.
            tolerance: share of the best loss within which plans count as equally good.
        """
        least = resamples.min(1, keepdims=True)
        share = (resamples <= least + np.log1p(tolerance)).mean(0)
        kept = np.argsort(-share, kind="stable")[:MOST_PLANS]
        kept = np.sort(np.union1d(kept[share[kept] > 0], [best]))
        return cls(plans.rows(kept), share[kept] / share[kept].sum(), int(np.searchsorted(kept, best)))

    def log_loss(self, draws: ParameterDraws) -> Array:
        """Return ln L of the plans, including the cost of replay, shape (draws, plans)."""
        return draws.log_loss(self._points(draws)) + self.plans.added

    def slopes(self, draws: ParameterDraws) -> Array:
        """Return the slopes of ln L of the plans, shape (draws, plans, parameters)."""
        return draws.slopes(self._points(draws))

    def _points(self, draws: ParameterDraws) -> Points:
        plans = self.plans
        return draws.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)

    def weight(self, slopes: Array, criterion: str) -> Array | None:
        """Return Σ w·l·lᵀ over the contrasts or forecasts of a criterion, shape (draws, parameters, parameters); None for the determinant.

        Raises:
            InputError: no such criterion.
        """
        if criterion not in CRITERIA:
            raise InputError(f"--criterion {criterion!r} is not known", remedy=f"choose one of {', '.join(CRITERIA)}")
        if criterion == "D":
            return None
        own = slopes[:, self.best]
        counted = slopes if criterion == "I" else slopes - own[:, None]
        total: Array = (counted * self.weights[:, None]).transpose(0, 2, 1) @ counted
        if criterion == "V":
            total = total + FORECAST_WEIGHT * own[:, :, None] * own[:, None, :]
        return total


def deviation(target: Target, slopes: Array, covariance: Array) -> Array:
    """Return the standard deviation of the recommendation's ln L, shape (draws,).

    Args:
        target: the region.
        slopes: of its plans, shape (draws, plans, parameters).
        covariance: of the parameters, shape (draws, parameters, parameters).
    """
    own = slopes[:, target.best]
    return np.sqrt(np.einsum("kp,kpq,kq->k", own, covariance, own))


def expected_regret(log_loss: Array, slopes: Array, before: Array, after: Array) -> Array:
    """Return the expected regret, in ln L, of the plan chosen after the runs, shape (draws,).

    True parameters are drawn around each draw of the law. The runs reveal the part of the deviation that they remove from the covariance; the plan with
    the least loss by what is then known is chosen, and its excess loss under the true parameters is the regret. This is linear in the parameters, so
    rough if nothing has been fitted.

    Args:
        log_loss: of the plans, shape (draws, plans).
        slopes: of the plans, shape (draws, plans, parameters).
        before: covariance before the runs, shape (draws, parameters, parameters).
        after: covariance after them, of the same shape.
    """
    random = np.random.default_rng(0)
    chances = random.normal(size=(2, CHANCES, before.shape[1]))
    found = []
    for middle, slope, whole, left in zip(log_loss, slopes, before, after, strict=True):
        told = middle + chances[0] @ _root(whole - left).T @ slope.T
        truth = told + chances[1] @ _root(left).T @ slope.T
        chosen = told.argmin(1)
        found.append(float((truth[np.arange(CHANCES), chosen] - truth.min(1)).mean()))
    return np.array(found)


def _root(covariance: Array) -> Array:
    """Return a matrix R with R·Rᵀ = covariance; rounding may have left eigenvalues a little below zero."""
    values, vectors = np.linalg.eigh(covariance)
    result: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return result
