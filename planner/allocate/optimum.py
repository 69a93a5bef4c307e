"""The best plan under uncertainty: the one with the least expected regret over the law's resamples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.allocate.problem import Plans, Problem, Size
from planner.laws.dual import Array

FRACTIONS = np.unique(np.concatenate([np.geomspace(2e-3, 1.0, 24), np.linspace(0.05, 1.0, 24)]))
"""Of the most specialist tokens possible; finer where they are few."""
REFINED_SIZES, REFINED_AMOUNTS = 41, 31
"""Sizes and amounts of text around the best of the coarse search."""
NEIGHBOURS = 3
"""Sizes of the coarse search to either side of the best between which it goes on: real shapes cost a little more or less for their size than others."""
MOST_RESAMPLES = 120
"""Of each member, in a search; forecasts use all."""
TOLERANCE = 0.005
"""Plans whose loss is within this share of the best count as equally good."""


@dataclass(frozen=True)
class Search:
    """What the law says of a set of plans."""

    plans: Plans
    expected: Array
    """Mean of ln L over resamples, shape (plans,): least where the expected regret is least."""
    guess: Array
    """ln L of the fitted parameters, shape (plans,)."""
    resamples: Array
    """ln L, shape (resamples, plans)."""

    @property
    def best(self) -> int:
        """Number of the plan with the least expected regret."""
        return int(np.argmin(self.expected))

    @property
    def best_guess(self) -> int:
        """Number of the plan that the fitted parameters prefer."""
        return int(np.argmin(self.guess))


def search(problem: Problem, plans: Plans) -> Search:
    """Evaluate plans under every resample."""
    points = problem.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
    resamples = problem.law.log_loss_resamples(points, MOST_RESAMPLES)
    return Search(plans, resamples.mean(0), problem.law.log_loss(points), resamples)


def coarse(problem: Problem) -> Search:
    """Search the whole range."""
    return search(problem, problem.plans(problem.sizes(), FRACTIONS))


def refine(problem: Problem, found: Search, number: int) -> Search:
    """Search closely around one plan of a coarse search."""
    plans = found.plans
    size = plans.sizes[plans.size[number]]
    sizes: dict[Any, Size] = {size.shape or size.params_non_embedding: size}
    if problem.request.params is None and not problem.request.params_among:
        near = [item.params_non_embedding for item in plans.sizes]
        at = near.index(size.params_non_embedding)
        for value in np.geomspace(near[max(0, at - NEIGHBOURS)], near[min(len(near) - 1, at + NEIGHBOURS)], REFINED_SIZES):
            item = problem.size(float(value))
            sizes[item.shape or item.params_non_embedding] = item
    fractions = np.array([1.0])
    if plans.tokens_spec[number] > 0:
        fraction = plans.tokens_spec[number] / min(problem.tokens(size), problem.max_tokens_spec)
        fractions = np.unique(np.minimum(1.0, np.geomspace(fraction * 0.8, fraction * 1.25, REFINED_AMOUNTS)))
    return search(problem, problem.plans(tuple(sizes.values()), fractions))


def joined(first: Search, second: Search) -> Search:
    """Put two searches together."""
    a, b = first.plans, second.plans
    plans = Plans(
        np.concatenate([a.size, b.size + len(a.sizes)]), np.concatenate([a.params, b.params]), np.concatenate([a.tokens_pt, b.tokens_pt]),
        np.concatenate([a.tokens_spec, b.tokens_spec]), np.concatenate([a.unique_spec, b.unique_spec]), a.sizes + b.sizes,
    )  # fmt: skip
    pairs = ((first.expected, second.expected), (first.guess, second.guess))
    expected, guess = (np.concatenate(pair) for pair in pairs)
    return Search(plans, expected, guess, np.concatenate([first.resamples, second.resamples], axis=1))


def interval(found: Search, values: Array, level: float) -> tuple[float, float]:
    """Return the interval over resamples of a quantity of each resample's own best plan."""
    chosen = values[found.resamples.argmin(1)]
    low, high = np.quantile(chosen, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def within(found: Search, values: Array, tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Return the range of a quantity over all plans within a tolerance of the best."""
    good = found.expected <= found.expected.min() + np.log1p(tolerance)
    return float(values[good].min()), float(values[good].max())


def profile(problem: Problem, sizes: tuple[Size, ...], count: int = 41) -> tuple[Array, Array]:
    """Return the best loss for each share of specialist tokens that is possible: shares and losses, for a figure."""
    shares, losses = [], []
    for share in np.linspace(0, 1, count):
        plans = problem.split(sizes, float(share))
        if len(plans):
            points = problem.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
            shares.append(float(share))
            losses.append(float(np.exp(problem.law.log_loss(points).min())))
    return np.array(shares), np.array(losses)
