"""Split training under required losses, in whole steps: local search that trades steps between branches and trunk, also at nearby sizes.

The main search works on grids with fractions of steps; if a required loss binds, its plan is only as good as the rounding of one branch. Here whole
steps are moved as long as that helps, at every size in reach in parallel. A plan is a row: the branches' tokens, then the trunk's slack (the longest
affordable trunk minus the actual one; infinite without a trunk).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.allocate.domains.found import SPLIT, Found
from planner.allocate.domains.problem import EVERY, DomainsProblem
from planner.allocate.domains.rounding import better, cooled, made
from planner.arrays import Array

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Steps moved at once."""
ROUNDS = ((40, 1, 8, 12), (40, 5, 8, 6), (200, 5, 4, 2), (EVERY, 2, 2, 2))
"""For each round: resamples, most moves per size, how many of `STEPS`, and how many sizes go on."""
NEAR_ROUNDS = ((60, 4, 8, 1), (EVERY, 2, 1, 1))
"""The same near the best plan of another request."""
MOST_DOMAINS = 4
"""Most domains for which this is done."""
MARGIN = 1e-6
"""Share by which required losses are tightened, since a gain may outweigh the penalty of a much smaller miss."""
PART = 1e-3
"""Smallest move as a share of the longest branch, if no recipe defines a step."""
BINDS = 1e-3
"""Relative distance within which a required loss binds, so that its branch must follow the moves of others."""
SLOPE = 0.01
"""Share by which a branch, or the trunk, is lengthened to measure slopes."""


def traded(problem: DomainsProblem, found: Found, sizes: Any, start: Array, nearby: bool = False) -> Found:
    """Return the best plan that moves of whole steps lead to, or the given plan.

    Args:
        problem: the domains, without a limit on the general loss.
        found: one trunk and its branches.
        sizes: numbers of sizes to begin at, shape (rows,); some may come twice.
        start: whole steps of branches, and of the trunk, to begin with there, shape (rows, domains + 1).
        nearby: whether the search began near the best plan of another request.
    """
    sizes = np.append(sizes, found.size[0])
    start = np.concatenate([start, np.append(found.tokens_spec, found.tokens_general)[None]])
    slack = np.where(start[:, -1] > 0, np.maximum(_longest(problem, sizes, start[:, :-1]) - start[:, -1], 0.0), np.inf)
    start = np.concatenate([start[:, :-1], slack[:, None]], axis=1)
    like = found
    for most, rounds, steps, kept in NEAR_ROUNDS if nearby else ROUNDS:
        start, values = _improved(problem, like, sizes, start, _moves(problem, found, STEPS[:steps]), most, rounds)
        order = values.argsort()[:kept]
        order = order[np.isfinite(values[order])]
        sizes, start = sizes[order], start[order]
        if not len(order):
            return found
        trunk = float(_trunk(problem, sizes[:1], start[:1])[0])
        like = made(problem, SPLIT, int(sizes[0]), trunk, start[0, :-1], np.zeros(problem.count))
    best = found
    for at, plan, trunk in zip(sizes, start, _trunk(problem, sizes, start), strict=True):
        other = made(problem, SPLIT, int(at), float(trunk), plan[:-1], np.zeros(problem.count))
        best = better(problem, best, other, 0.0) or found
    return best


def _moves(problem: DomainsProblem, found: Found, steps: Sequence[int]) -> Array:
    """List the changes to a plan, shape (moves, domains + 1); no change comes first."""
    step = max(problem.step, problem.whole(PART * float(found.tokens_spec.max())) if problem.step == 1 else 0.0)
    every = np.eye(problem.count + 1)
    pairs = [one - other for one in every[:-1] for other in every[:-1] if one is not other]
    moves = [np.zeros(problem.count + 1), *(sign * count * item for item in every for count in steps for sign in (1, -1))]
    return step * np.array([*moves, *(count * pair for pair in pairs for count in steps)])


def _improved(problem: DomainsProblem, like: Found, sizes: Any, start: Array, moves: Array, most: int, rounds: int) -> tuple[Array, Array]:
    """Move steps in each row as long as that helps; return the resulting rows and their objective, shape (rows,)."""
    start, values, active = start.copy(), np.full(len(sizes), np.inf), np.arange(len(sizes))
    for _ in range(rounds):
        if not len(active):
            break
        at, rows = sizes[active], start[active]
        some = np.append(rows[:, :-1] > 0, np.ones((len(rows), 1), dtype=bool), axis=1)
        tried = rows[:, None] + np.where(some[:, None], moves, 0.0)
        loss, value = _valued(problem, like, at, tried, most)
        mended = tried + _mend(problem, like, at, rows, loss, most)
        tried, value = np.append(tried, mended, axis=1), np.append(value, _valued(problem, like, at, mended, most)[1], axis=1)
        best = value.argmin(1)
        values[active], start[active] = value.min(1), tried[np.arange(len(active)), best]
        active = active[(best > 0) & np.isfinite(values[active])]
    return start, values


def _valued(problem: DomainsProblem, like: Found, sizes: Any, plans: Array, most: int) -> tuple[Array, Array]:
    """Return losses of plans [nats/token], shape (rows, plans, domains), and the objective, infinite if a plan is not allowed, shape (rows, plans).

    Args:
        problem: the domains.
        like: a plan close to these, at which the means over few resamples are calibrated.
        sizes: shape (rows,).
        plans: shape (rows, plans, domains + 1), the first of each row its start.
        most: resamples.
    """
    at, flat = np.repeat(sizes, plans.shape[1]), plans.reshape(-1, problem.count + 1)
    some = np.repeat(plans[:, 0, :-1] > 0, plans.shape[1], axis=0)
    spec, trunk, least = flat[:, :-1], _trunk(problem, at, flat), problem.least_stage * (1 - 1e-9)
    limit = np.where(some, problem.whole(problem.most_spec), 0.0) * (1 + 1e-9)
    allowed = ((spec <= limit) & ((spec >= least) | ~some) & (spec >= 0)).all(1) & (flat[:, -1] >= 0)
    allowed &= trunk >= np.where(np.isfinite(flat[:, -1]), least, 0.0)
    loss = problem.expected(at, np.where(allowed, trunk, np.nan), spec.T, most, like)
    value = np.where(allowed, problem.value(loss, MARGIN).sum(0), np.inf)
    return loss.T.reshape(*plans.shape[:2], -1), value.reshape(plans.shape[:2])


def _mend(problem: DomainsProblem, like: Found, sizes: Any, start: Array, loss: Array, most: int) -> Array:
    """Return what to add to plans so that branches whose required loss binds get the whole steps they need, by their slopes at the start.

    Moves of a few branches cannot follow a required loss, which trades branch steps for trunk steps at its own rate. Steps that one branch takes from the
    trunk make others need more, hence a linear system.

    Args:
        problem, like, sizes, most: as for `_valued`.
        start: shape (rows, domains + 1).
        loss: of the plans to correct, the first of which is the start, as `_valued` returns it.
    """
    spec, trunk = start[:, :-1], _trunk(problem, sizes, start)
    further, longer = (problem.step * np.ceil(SLOPE * item / problem.step + 1) for item in (spec, trunk))
    both = np.append((spec + further).T, spec.T, axis=1)
    aside = problem.expected(np.append(sizes, sizes), np.append(trunk, trunk + longer), both, most, like).T
    required, asked = np.isfinite(problem.max_loss), np.where(np.isfinite(problem.max_loss), problem.max_loss, 0.0) * (1 - MARGIN)
    with np.errstate(invalid="ignore"):
        own, general = (aside[: len(sizes)] - loss[:, 0]) / further, (aside[len(sizes) :] - loss[:, 0]) / longer[:, None]
    binds = required & (spec > 0) & (loss[:, 0] > asked * (1 - BINDS)) & (own < 0) & np.isfinite(own + general)
    own, general = np.where(binds, own, 1.0), np.where(binds, general, 0.0)
    # A trunk limited by the available text gives nothing up.
    gives = (trunk > 0) & (_longest(problem, sizes, spec) < problem.whole(problem.general_tokens))
    taken = gives[:, None] * problem.spec_cost[:, sizes].T / cooled(problem, SPLIT, spec.T)[:, None]
    missing = np.where(binds[:, None] & np.isfinite(loss), asked - np.where(np.isfinite(loss), loss, 0.0), 0.0) / own[:, None]
    with np.errstate(all="ignore"):
        all_taken = (taken[:, None] * missing).sum(-1) / (1 - (taken * general / own).sum(-1))[:, None]
        more = np.ceil((missing + all_taken[..., None] * (general / own)[:, None]) / problem.step - 1e-6) * problem.step
    return np.append(more, np.zeros((*more.shape[:2], 1)), axis=2)


def _trunk(problem: DomainsProblem, sizes: Any, plans: Array) -> Array:
    """Return the general tokens of plans of shape (plans, domains + 1); negative if the branches cost too much."""
    longest = _longest(problem, sizes, plans[:, :-1])
    result: Array = np.where(np.isfinite(plans[:, -1]), longest - plans[:, -1], np.minimum(longest, 0.0))
    return result


def _longest(problem: DomainsProblem, sizes: Any, spec: Array) -> Array:
    """Return the general tokens that branches of shape (plans, domains) leave; negative if they cost too much."""
    total = problem.tokens(sizes)
    left = total * (1 + 1e-9) - (problem.spec_cost[:, sizes].T * spec).sum(1)
    result: Array = problem.whole(np.minimum(left / cooled(problem, SPLIT, spec.T), problem.general_tokens))
    return result
