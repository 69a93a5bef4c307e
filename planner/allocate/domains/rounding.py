"""A plan of split training in whole optimiser steps, within the budget and the limits."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.allocate.domains.found import MIXED, Found
from planner.allocate.domains.general_limit import branch_replay
from planner.allocate.domains.problem import PENALTY, DomainsProblem
from planner.allocate.domains.search_grid import whole_steps
from planner.allocate.request import LEFT_OVER
from planner.arrays import Array

OFFSETS = np.array([0, 1, -1, -2, -4, -8, -16, -32, -64, -128])
"""Steps by which a branch may be longer or shorter than planned, since its replay changes in jumps."""
FINE = 2000
"""A step there is at least 1 / FINE of the branch, so that the shortest of `OFFSETS` is a few per cent shorter."""
FEW_RESAMPLES = 24
"""Resamples for comparing these."""
ROUNDS = 4
"""Rounds in which a trunk gives up the steps that its branches take beyond the plan."""


def objective(problem: DomainsProblem, found: Found, margin: float, penalty: float = PENALTY) -> float:
    """Return the objective of a plan under all resamples; infinite if it cannot be trained."""
    return float(problem.value(problem.losses(found)[:, None], margin, penalty).sum())


def better(problem: DomainsProblem, first: Found | None, second: Found | None, margin: float, penalty: float = PENALTY) -> Found | None:
    """Return the better of two plans, the first if they are equal; None if neither can be trained."""
    values = [np.inf if found is None else objective(problem, found, margin, penalty) for found in (first, second)]
    if not np.isfinite(values).any():
        return None
    return second if values[1] < values[0] else first


def realise(problem: DomainsProblem, name: str, size: int, trunk: float, spec: Array, stages: Array, margin: float) -> Found | None:
    """Round a plan to whole steps; None if nothing close to it keeps the limits.

    Args:
        problem: the domains.
        name: of the structure.
        size: number of the size.
        trunk: general tokens before the branches.
        spec: specialist tokens of each domain, shape (domains,).
        stages: the same with replay.
        margin: by which required losses are tightened.
    """
    if problem.request.limited:
        return _limited(problem, name, size, trunk, spec, stages, margin)
    total, cost, planned = float(problem.tokens(size)), problem.spec_cost[:, size], spec
    spec = whole_steps(problem, planned, total, cost, problem.most_spec)
    length, least = _rest(problem, name, trunk, total - float((cost * spec).sum()), spec), min(problem.least_stage, problem.general_tokens)
    if (spec < problem.enough(np.full(problem.count, size), length)).any():  # branches rounded up may take from the trunk what the size needs
        spec = problem.whole(planned)
        length = _rest(problem, name, trunk, total - float((cost * spec).sum()), spec)
    if 0 < length < least:  # rounding left less than the shortest trunk: the longest branch gives it back
        longest, missing = int(spec.argmax()), (least - length) * cooled(problem, name, spec)
        spec[longest] -= problem.whole(missing / cost[longest]) + problem.step
        length = _rest(problem, name, trunk, total - float((cost * spec).sum()), spec)
    found = made(problem, name, size, length, spec, np.zeros(problem.count))
    # By some laws a longer trunk raises the loss of models that repeat much: the planned one is then better, and some of the budget is left over.
    shorter = problem.whole(max(trunk, least))
    if not 0 < shorter < LEFT_OVER * length or (spec < problem.enough(np.full(problem.count, size), shorter)).any():
        return found
    return better(problem, found, made(problem, name, size, shorter, spec, np.zeros(problem.count)), margin)


def _limited(problem: DomainsProblem, name: str, size: int, trunk: float, spec: Array, stages: Array, margin: float) -> Found | None:
    """Round under a limit on the general loss: branches close to the plan with the replay that they need, and a trunk as long as that allows."""
    total, cost = float(problem.tokens(size)), problem.spec_cost[:, size]
    least = problem.least_stage * (1 - 1e-9)
    length = problem.whole(max(trunk, problem.least_stage)) if trunk > 0 else 0.0
    for _ in range(ROUNDS):
        spec, share = _nearby(problem, size, length, spec, stages, margin)
        used = float((cost * spec / (1 - share)).sum())
        over = length * cooled(problem, name, spec) + used - total
        if np.isnan(share).any() or length <= 0:
            return None
        if over <= 1e-9 * total:
            break
        if (shorter := length - problem.whole(over) - problem.step) >= least:
            length = shorter
            continue
        if length < least:
            return None
        # The trunk is at its minimum: the longest branch gives up instead, and no other takes it.
        stages = spec / (1 - share) - problem.step
        stages[stages.argmax()] -= over / cost[stages.argmax()]
    else:
        return None
    found = made(problem, name, size, length, spec, share)
    longer = min(_rest(problem, name, length, total - used, spec), problem.whole(problem.general_tokens - (spec * share / (1 - share)).max()))
    share = branch_replay(problem, size, longer, spec[:, None], 0.0)[:, 0]
    stages = spec / (1 - share)
    room = float((cost * stages).sum()) + longer * cooled(problem, name, spec) <= total * (1 + 1e-9)
    if np.isnan(share).any() or not room or longer + (stages - spec).max() > problem.general_tokens * (1 + 1e-9):
        return found
    return better(problem, found, made(problem, name, size, longer, spec, share), margin)


def _nearby(problem: DomainsProblem, size: int, trunk: float, spec: Array, stages: Array, margin: float) -> tuple[Array, Array]:
    """Choose for every domain the best whole steps close to its plan whose stage is hardly longer, with the replay that keeps the limit."""
    near = np.concatenate([beside(problem, spec), np.zeros((problem.count, 1))], axis=1)
    share = branch_replay(problem, size, trunk, near, 0.0)
    lengths = near / (1 - share)
    allowed = (lengths <= stages[:, None] + problem.step) & (trunk + lengths - near <= problem.general_tokens * (1 + 1e-9))
    share, lengths = np.where(allowed, share, np.nan), np.where(allowed, lengths, near)
    loss = problem.expected(size, trunk + lengths - near, near, FEW_RESAMPLES, replay=share)
    value = problem.value(loss, margin)
    # Dropping a stage may look better only because the cooldown is not counted here: allow it only if no stage keeps the limit.
    stays = (np.isfinite(value) & (near > 0)).any(1, keepdims=True)
    value[(near == 0) & stays] = np.inf
    chosen = value.argmin(1)[:, None]
    return tuple(np.take_along_axis(item, chosen, 1)[:, 0] for item in (near, share))  # type: ignore[return-value]


def beside(problem: DomainsProblem, spec: Array) -> Array:
    """Return whole steps close to the specialist tokens of each domain, 0 if too few for a stage, shape (domains, offsets)."""
    near = problem.whole(spec)[:, None] + np.maximum(problem.step, problem.whole(spec / FINE))[:, None] * OFFSETS
    enough = (spec[:, None] > 0) & (near >= problem.least_stage * (1 - 1e-9))
    return np.where(enough, np.minimum(near, problem.whole(problem.most_spec)[:, None]), 0.0)


def cooldown(problem: DomainsProblem) -> float:
    """Return the share of a trunk that is trained once more for its own cooldown beside the branches."""
    recipe = problem.problems[0].recipe
    return recipe.cooldown_fraction if recipe else 0.0


def cooled(problem: DomainsProblem, name: str, spec: Array) -> Any:
    """Return the factor by which a cooldown raises the cost of a trunk, for branches of shape (domains, ...).

    Domains without a stage of their own use the trunk after a cooldown, which is trained once beside the branches.
    """
    return 1.0 + cooldown(problem) * ((name != MIXED) & (spec == 0).any(0) & (spec > 0).any(0))


def _rest(problem: DomainsProblem, name: str, trunk: float, room: float, spec: Array) -> float:
    """Return the whole steps of general text that the budget has room for, 0 without a trunk."""
    return problem.whole(float(np.clip(room / cooled(problem, name, spec), 0.0, problem.general_tokens))) if trunk > 0 else 0.0


def made(problem: DomainsProblem, name: str, size: int, trunk: float, spec: Array, replay: Array) -> Found:
    """Convert a plan of whole steps to a `Found`, with its cost; arguments as for `realise`, and the share of replay of each branch, shape (domains,)."""
    price, numbers = float(problem.price[size]), np.full(problem.count, size)
    stages = spec / (1 - replay)
    flops = price * problem.spec_cost[:, size] * stages
    flops[spec == 0] += price * trunk * (cooled(problem, name, spec) - 1) / max(1, int((spec == 0).sum()))
    return Found(name, numbers, trunk + stages - spec, spec, trunk, flops, price * trunk, replay if problem.request.limited else None)
