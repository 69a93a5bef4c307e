"""Split training under required losses, in whole steps: what branches give each other and the trunk, at sizes nearby too.

A search works in parts of steps and on grids, and where a required loss binds its plan is as good as the rounding of one branch. Here whole steps are
moved as long as that gains, at every size in reach side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.allocate.domains.found import Found
from planner.allocate.domains.problem import EVERY, DomainsProblem
from planner.allocate.domains.whole import better, cooled, made
from planner.laws.dual import Array

REACH, NEARBY = 0.17, 0.04
"""In ln N, of a whole search and of one that begins beside a plan of another request."""
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Moved at once."""
ROUNDS = ((40, 4, 8, 6), (40, 12, 8, 2), (200, 8, 8, 2), (EVERY, 4, 4, 2))
"""Resamples, moves at most of each size, how many of `STEPS`, and how many sizes go on, of one look after the other."""
NEAR_ROUNDS = ((100, 8, 8, 1), (EVERY, 3, 3, 1))
"""The same beside a plan of another request."""
MOST_DOMAINS = 4
"""Domains up to which steps are moved."""
MARGIN = 1e-6
"""By which required losses are tightened: a gain may outweigh a penalty for a miss far smaller than that."""
PART = 1e-3
"""Of the longest branch that is moved at least, where no recipe says how long a step is."""


def traded(problem: DomainsProblem, found: Found, nearby: bool = False) -> Found:
    """Return the best plan that moves of whole steps lead to from one of a search, or that itself.

    Args:
        problem: the domains, without a limit on the general loss.
        found: one trunk and its branches.
        nearby: whether the search began beside a plan of another request.
    """
    size = int(found.size[0])
    if problem.count > MOST_DOMAINS or not np.isfinite(problem.max_loss).any():
        return found
    sizes = np.flatnonzero(np.abs(np.log(problem.params / problem.params[size])) <= (NEARBY if nearby else REACH))
    slack = max(0.0, float(_longest(problem, found, found.size[:1], found.tokens_spec[None])[0]) - found.tokens_general)
    start = np.tile(np.append(found.tokens_spec, slack), (len(sizes), 1))
    for most, rounds, steps, kept in NEAR_ROUNDS if nearby else ROUNDS:
        start, values = _moved(problem, found, sizes, start, _moves(problem, found, STEPS[:steps]), most, rounds)
        order = values.argsort()[:kept]
        order = order[np.isfinite(values[order])]
        sizes, start = sizes[order], start[order]
    best = found
    for at, plan in zip(sizes, start, strict=True):
        trunk = float(_longest(problem, found, np.array([at]), plan[None, :-1])[0] - plan[-1])
        other = made(problem, found.name, int(at), trunk, plan[:-1], np.zeros(problem.count))
        best = better(problem, best, other, 0.0) or found
    return best


def _moves(problem: DomainsProblem, found: Found, steps: Sequence[int]) -> Array:
    """List what is added to the branches, and to what the trunk is shorter than it may be, shape (moves, domains + 1); nothing comes first."""
    step = max(problem.step, problem.whole(PART * float(found.tokens_spec.max())) if problem.step == 1 else 0.0)
    every = np.eye(problem.count + 1)
    branches = every[:-1][found.tokens_spec > 0]
    singles = np.concatenate([branches, every[-1:]] if found.tokens_general else [branches])
    pairs = [(one, other) for one in branches for other in branches if one is not other]
    moves = [np.zeros(problem.count + 1), *(sign * count * item for item in singles for count in steps for sign in (1, -1))]
    moves += [count * (one - other) for one, other in pairs for count in steps]
    return step * np.array(moves)


def _moved(problem: DomainsProblem, found: Found, sizes: Any, start: Array, moves: Array, most: int, rounds: int) -> tuple[Array, Array]:
    """Move steps at each size as long as that gains; return what is there then, as in `_moves`, shape (sizes, domains + 1), and what it comes to."""
    some, start, values, active = found.tokens_spec > 0, start.copy(), np.full(len(sizes), np.inf), np.arange(len(sizes))
    limit = np.where(some, problem.whole(problem.most_spec), 0.0) * (1 + 1e-9)
    for _ in range(rounds):
        if not len(active):
            break
        tried = start[active, None] + moves
        at, (spec, slack) = np.repeat(sizes[active], len(moves)), np.split(tried.reshape(-1, problem.count + 1), [problem.count], axis=1)
        trunk = _longest(problem, found, at, spec) - slack[:, 0]
        least = problem.least_stage * (1 - 1e-9)
        allowed = ((spec <= limit) & ((spec >= least) | ~some) & (spec >= 0)).all(1) & (slack[:, 0] >= 0)
        allowed &= trunk >= (least if found.tokens_general else 0.0)
        loss = problem.expected(at, np.where(allowed, trunk, np.nan), spec.T, most, None if most == EVERY else found)
        value = np.where(allowed, problem.value(loss, MARGIN).sum(0), np.inf).reshape(len(active), -1)
        best = value.argmin(1)
        values[active], start[active] = value.min(1), tried[np.arange(len(active)), best]
        active = active[(best > 0) & np.isfinite(values[active])]
    return start, values


def _longest(problem: DomainsProblem, found: Found, sizes: Any, spec: Array) -> Array:
    """Return the general tokens that branches leave, less than none where they cost too much, shape (plans,)."""
    total = problem.tokens(sizes)
    left = total - (problem.spec_cost[:, sizes].T * spec).sum(1)
    if not found.tokens_general:
        return np.where(left >= -1e-9 * total, 0.0, -1.0)
    result: Array = problem.whole(np.minimum(left / cooled(problem, found.name, found.tokens_spec), problem.general_tokens))
    return result
