"""Split training under a limit on the general loss, in whole steps: local search over size, trunk and branches, with the replay that each then needs.

The main search divides the budget on grids, but the replay that keeps a limit jumps between their points. Here a plan is changed as long as that helps,
in ever smaller moves: another size, some steps more or fewer for the trunk or a branch, and one of them that takes the rest of the budget.
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
"""Most domains for which this is done."""
SCALES = (64, 16, 4, 1)
"""Steps per move, tried in turn."""
NEAR_SCALES = (4,)
"""The same near the best plan of another request."""
SIZES = (0, -1, 1, -3, 3, -10, 10)
"""Sizes up or down."""
FEW_RESAMPLES = 60
"""Resamples for comparing moves."""
MOST_MOVES = 30
"""Most moves per scale."""
GAIN = 1e-8
"""Relative decrease of the objective needed for another move."""
LEFT_OVER = 0.97
"""Share of the budget: if a plan spends less, budget is not what limits it."""
FILLS = 3
"""Iterations to let one part take the rest of the budget, since its replay changes with it."""


def climbed(problem: DomainsProblem, found: Found, nearby: bool = False) -> Found:
    """Return the best plan that moves lead to, or the plan itself.

    Args:
        problem: the domains, with a limit on the general loss.
        found: one trunk and its branches.
        nearby: whether the search began near the best plan of another request.
    """
    if not found.tokens_general > 0:  # without a trunk there is no general loss to keep
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
    """Return a plan and all its neighbours by one move.

    Args:
        problem, size, plan: as for `climbed`: trunk and branches of the plan, shape (domains + 1,).
        steps: tokens by which one of them is longer or shorter.
        crossed: whether changes of size and tokens are combined: since replay jumps, one after the other may not help.
        idle: whether some of the budget is left over.

    Returns:
        Numbers of sizes, shape (plans,), trunk and branches, shape (plans, domains + 1), and shares of replay, NaN if a plan is not allowed,
        shape (domains, plans). The plan itself comes first.
    """
    sizes = np.array([change for change in SIZES if 0 <= size + change < len(problem.ladder)])
    every = np.eye(len(plan))
    moves = [np.zeros(len(plan)), *(sign * item for item in every for sign in (1, -1))]
    takers = np.append(-1, np.flatnonzero(plan > 0))  # who takes the rest, or none
    if idle:  # scarce text binds then, shared by the trunk and the replay of the branches
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
    """Clip plans to the available text; return them with the replay that they need, shape (domains, plans), and the tokens that the budget has left.

    Replay and rest are NaN if too few tokens are left for a stage, or for replay.
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
