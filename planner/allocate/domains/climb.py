"""Split training under a limit on the general loss, in whole steps: what size, trunk and branches give each other, with the replay that each then needs.

A search divides what a trunk leaves on grids, and the replay that keeps a limit goes up in jumps beside them. Here a plan is moved as long as that gains,
in ever smaller steps: another size, some steps more or fewer of the trunk or of a branch, and one of them that takes what is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.allocate.domains.found import SPLIT, Found
from planner.allocate.domains.general_limit import branch_replay
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.rounding import FINE, better, cooled, made
from planner.allocate.domains.trade import MARGIN
from planner.arrays import Array

MOST_DOMAINS = 8
"""Domains up to which plans are moved."""
SCALES = (64, 16, 4, 1)
"""Steps moved at once, one after the other."""
NEAR_SCALES = (4,)
"""The same beside a plan of another request."""
SIZES = (0, -1, 1, -3, 3, -10, 10)
"""Sizes up or down."""
FEW_RESAMPLES = 60
"""Resamples under which moves are compared."""
MOST_MOVES = 30
"""Of one scale."""
GAIN = 1e-8
"""Share of itself by which the objective must fall for another move."""
LEFT_OVER = 0.97
"""Share of the budget under which what is left of it decides nothing."""
FILLS = 3
"""Times that what takes the rest is brought to it, whose replay changes with it."""


def climbed(problem: DomainsProblem, found: Found, nearby: bool = False) -> Found:
    """Return the best plan that moves lead to, or that itself.

    Args:
        problem: the domains, with a limit on the general loss.
        found: one trunk and its branches.
        nearby: whether the search began beside a plan of another request.
    """
    if not found.tokens_general > 0:  # without a trunk there is nothing to keep
        return found
    size, plan, share = int(found.size[0]), np.append(found.tokens_general, found.tokens_spec), found.shares
    unit = max(problem.step, problem.whole(found.tokens_spec.max() / FINE))
    like, idle = found, problem.spent(found) < LEFT_OVER * problem.request.flops
    for scale in NEAR_SCALES if nearby else SCALES:
        least = np.inf
        for _ in range(MOST_MOVES):
            sizes, plans, shares = _neighbours(problem, size, plan, scale * unit, not nearby, idle)
            spec = plans[:, 1:].T
            general = plans[:, 0] + spec * shares / (1 - shares)
            value = problem.value(problem.expected(sizes[None], general, spec, FEW_RESAMPLES, like, shares), MARGIN).sum(0)
            best = int(value.argmin())
            if not value[best] < least * (1 - GAIN):
                break
            least, size, plan, share = float(value[best]), int(sizes[best]), plans[best], shares[:, best]
        like = made(problem, found.name, size, float(plan[0]), plan[1:], share)
        found = better(problem, found, like, 0.0) or found
    return found


def _neighbours(problem: DomainsProblem, size: int, plan: Array, steps: float, crossed: bool, idle: bool) -> tuple[Any, Array, Array]:
    """Return a plan moved every way.

    Args:
        problem, size, plan: as for `climbed`: trunk and branches of the plan, shape (domains + 1,).
        steps: tokens by which one of them is longer or shorter.
        crossed: whether another size is tried with those too, or alone: in jumps of the replay one after the other may gain nothing.
        idle: whether some of the budget buys nothing.

    Returns:
        Numbers of sizes, shape (plans,), trunk and branches, shape (plans, domains + 1), and shares of replay, not a number where a plan is not allowed,
        shape (domains, plans). The plan itself comes first.
    """
    sizes = np.array([change for change in SIZES if 0 <= size + change < len(problem.ladder)])
    every = np.eye(len(plan))
    moves = [np.zeros(len(plan)), *(sign * item for item in every for sign in (1, -1))]
    takers = np.append(-1, np.flatnonzero(plan > 0))  # of what is left, or none
    if idle:  # scarce text binds then, which the trunk and what the branches replay share
        moves += [first + second for number, one in enumerate(every) for other in every[:number] for first in (one, -one) for second in (other, -other)]
        takers = takers[:1]
    change, move, taker = (item.reshape(-1) for item in np.meshgrid(sizes, np.arange(len(moves)), takers, indexing="ij"))
    if not crossed:
        some = (change == 0) | (move == 0)
        change, move, taker = change[some], move[some], taker[some]
    at, plans = size + change, np.where(plan > 0, plan + steps * np.array(moves)[move], 0.0)
    for _ in range(FILLS if crossed else FILLS - 1):
        plans, shares, left = _bounded(problem, at, plans)
        rows = np.flatnonzero((taker >= 0) & np.isfinite(left))
        which = taker[rows]
        cost = np.where(which == 0, 1.0, problem.spec_cost[which - 1, at[rows]] / (1 - shares[which - 1, rows]))
        plans[rows, which] += problem.whole(left[rows] / cost)
    plans, shares, left = _bounded(problem, at, plans)
    return at, plans, np.where(left >= 0, shares, np.nan)


def _bounded(problem: DomainsProblem, sizes: Any, plans: Array) -> tuple[Array, Array, Array]:
    """Return plans no longer than the text allows, with the replay that they need, shape (domains, plans), and what they leave of the budget [tokens].

    Where too few tokens are left for a stage, or for replay, these are not numbers.
    """
    trunk, spec = np.minimum(plans[:, 0], problem.whole(problem.general_tokens)), np.minimum(plans[:, 1:], problem.whole(problem.most_spec)).T
    least = problem.least_stage * (1 - 1e-9)
    good = (trunk >= least) & ((spec >= least) | (spec == 0)).all(0)
    share = np.full(spec.shape, np.nan)
    share[:, good] = branch_replay(problem, sizes[good][None], trunk[good][None], spec[:, good], 0.0)
    stages = spec / (1 - share)
    share[:, trunk + (stages - spec).max(0) > problem.general_tokens * (1 + 1e-9)] = np.nan
    left = problem.tokens(sizes) * (1 + 1e-9) - trunk * cooled(problem, SPLIT, spec) - (problem.spec_cost[:, sizes] * stages).sum(0)
    return np.concatenate([trunk[None], spec]).T, share, left
