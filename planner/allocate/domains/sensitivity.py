"""How sharp the optimum of many domains is: plans within the tolerance, each resample's own best plan, and the regret of the recommendation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.resample_problems import best_in, resample_problems
from planner.allocate.domains.rounding import objective
from planner.allocate.domains.search_grid import Resolution, sizes_near
from planner.allocate.domains.split import divide, middle, trunks, without
from planner.fit.level import LEVEL, interval_of

WIDE, LOGITS = Resolution(0.1, 12, 0.24, 2), np.arange(-2.4, 2.41, 0.3)
"""Resolution of sizes and amounts, and offsets of the logit of the trunk's share, for the search of plans within the tolerance."""
EVALUATIONS = 6e4
"""Losses evaluated per grid here."""


@dataclass(frozen=True)
class Sensitivity:
    """The surroundings of a recommendation."""

    params_within: tuple[float, float] | None
    """Range of sizes of plans within the tolerance of the best; None if each domain has a size of its own."""
    share_within: tuple[float, float] | None
    """Range of the trunk's share of all training tokens in the same plans."""
    params_interval: tuple[float, float] | None
    """90 % interval of the best size over a dozen resamples, fewer for more than 50 domains, six from 100 on."""
    share_interval: tuple[float, float] | None
    regret_expected_percent: float | None
    """Excess of the recommendation's weighted loss over that of the resample's own best plan, mean over the same resamples [%]; None if there are required
    losses."""
    regret_90_percent: float | None
    """90 % quantile of that excess [%]."""


def sensitivity(problem: DomainsProblem, found: Found, margin: float) -> Sensitivity:
    """Evaluate the surroundings of a recommendation.

    Args:
        problem: the request under its laws.
        found: the recommendation.
        margin: by which required losses were tightened.
    """
    problem = replace(problem, evaluations=EVALUATIONS)
    params_within, share_within = _within(problem, found, margin)
    regrets, sizes, shares = [], [], []
    for drawn in resample_problems(problem):
        own, regret = best_in(drawn, found, margin)
        regrets.append(regret)
        sizes.append(float(problem.params[own.size[0]]))
        shares.append(_share(own.tokens_general, own.tokens_spec + own.replayed))
    one, required = found.name != INDEPENDENT, bool(np.isfinite(problem.max_loss).any())
    return Sensitivity(
        params_within, share_within, interval_of(sizes) if one else None, interval_of(shares) if one else None,
        None if required else float(np.mean(regrets)), None if required else float(np.quantile(regrets, LEVEL)),
    )  # fmt: skip


def _within(problem: DomainsProblem, found: Found, margin: float) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Return the ranges of sizes and of the trunk's share over plans within the tolerance, the recommendation included."""
    if found.name == INDEPENDENT:
        return None, None
    size, logit, guess = middle(problem, found)
    at, asked = trunks(problem, sizes_near(problem, size, WIDE), np.concatenate([[0.0], 1 / (1 + np.exp(-logit - LOGITS)), [1.0]]))
    divided = divide(problem, found.name, at, asked, guess, WIDE, margin, found, without(problem, found))
    own = objective(problem, found, margin)
    good = divided.value <= min(own, float(divided.value.min())) * (1 + problem.request.tolerance)
    share = _share(divided.trunk[good], (divided.tokens_pt - divided.trunk[:, None] + divided.tokens_spec)[good])
    params = np.append(problem.params[at[good]], problem.params[size])
    share = np.append(share, _share(found.tokens_general, found.tokens_spec + found.replayed))
    return (float(params.min()), float(params.max())), (float(share.min()), float(share.max()))


def _share(trunk: Any, stages: Any) -> Any:
    """Return the share of a trunk in all training tokens, with branches of shape (..., domains)."""
    return trunk / (trunk + stages.sum(-1))
