"""One law fitted to one set of rows: many starts, a status that says what to do, and resamples by trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.fit.solver import EDGE, ILL_CONDITIONED, Scale, condition_number, objective, solve
from planner.laws import Law, Points
from planner.laws.dual import Array

DRAWS = 512
"""Starts drawn, of which the best go to the solver."""
STARTS = 24
"""Starts that are solved."""
SCREENING_DELTA = 0.1
"""Huber's δ by which drawn starts are ranked: wide, so that far starts are told apart."""
AGREEMENT = 1e-3
"""Relative excess of the objective under which a start agrees with the best."""
WARM = 4
"""Solutions kept as starts for other fits of the same law."""


@dataclass(frozen=True)
class Estimate:
    """A law's best parameters on a set of rows."""

    law: Law
    theta: Array
    """Parameters, shape (parameters,)."""
    objective: float
    """Σ Huber of ln L."""
    status: str
    """Key of `solver.STATUS_ADVICE`."""
    starts: int
    """Starts that were solved."""
    starts_agree: int
    """Starts that ended within 0.1 % of the best objective."""
    condition: float
    """Condition number of the scaled normal equations."""
    at_bound: tuple[str, ...]
    """Parameters at an edge of their range."""
    solutions: Array
    """The best few solutions, shape (up to WARM, parameters), the best first."""


def estimate(
    law: Law, points: Points, log_loss: Array, random: np.random.Generator, *, starts: int = STARTS, warm: Array | None = None
) -> Estimate:
    """Fit a law.

    Args:
        law: the law.
        points: where the runs are, n of them.
        log_loss: ln L, shape (n,).
        random: for the starts.
        starts: drawn starts to solve.
        warm: further starts, shape (any, parameters).
    """
    weights = np.ones((1, len(log_loss)))
    drawn = Scale(law).draw(random, DRAWS)
    first = drawn[np.argsort(objective(law, drawn, points, log_loss, weights, SCREENING_DELTA))[:starts]]
    if warm is not None:
        first = np.vstack([warm, first])
    solution = solve(law, points, log_loss, first, weights)
    order = np.argsort(solution.objective)
    best = order[0]
    theta = solution.theta[best]
    share = Scale(law).share(theta)
    at_bound = tuple(p.name for p, where in zip(law.parameters, share, strict=True) if not EDGE < where < 1 - EDGE)
    condition = condition_number(law, points, theta, weights[0])
    status = "converged"
    if not solution.finished[best]:
        status = "max_iterations"
    elif at_bound:
        status = "at_bound"
    elif condition > ILL_CONDITIONED:
        status = "ill_conditioned"
    agree = int((solution.objective <= solution.objective[best] * (1 + AGREEMENT)).sum())
    return Estimate(law, theta, float(solution.objective[best]), status, len(first), agree, condition, at_bound, solution.theta[order[:WARM]])


def resample(law: Law, points: Points, log_loss: Array, cluster: Any, warm: Array, count: int, random: np.random.Generator) -> Array:
    """Fit a law to resamples of the trunks.

    Each resample weights every trunk by an independent exponential number, mean 1 (the fractional-random-weight bootstrap,
    arXiv 1808.08199). Whole-number weights would leave out the only trunk of a size in a third of the resamples.

    Args:
        law: the law.
        points: n runs.
        log_loss: ln L, shape (n,).
        cluster: number of each run's trunk, shape (n,).
        warm: solutions on all rows, shape (any, parameters): each resample starts from each.
        count: resamples.
        random: for the weights.

    Returns:
        Parameters, shape (count, parameters).
    """
    draws = random.exponential(size=(count, int(cluster.max()) + 1))
    weights = (draws / draws.mean(1, keepdims=True))[:, cluster]
    several = len(warm)
    solution = solve(law, points, log_loss, np.tile(warm, (count, 1)), np.repeat(weights, several, axis=0), iterations=100)
    best = solution.objective.reshape(count, several).argmin(1)
    result: Array = solution.theta.reshape(count, several, -1)[np.arange(count), best]
    return result
