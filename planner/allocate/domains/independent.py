"""A separate model for every domain, with its own trunk, size and split: how to divide the budget among them.

V_k(F), the least loss of domain k for F FLOPs over sizes and splits, is tabulated for all domains together; `waterfill` then divides the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from planner.allocate.domains.climb import MOST_DOMAINS
from planner.allocate.domains.climb_each import climbed_each, own_budgets
from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.general_limit import branch_replay, model_replay
from planner.allocate.domains.problem import EVERY, MILD, MOST, PENALTY, DomainsProblem
from planner.allocate.domains.rounding import FEW_RESAMPLES, OFFSETS, beside, better, objective
from planner.allocate.domains.search_grid import CLOSER, COARSE, MANY_DOMAINS, NEARBY, Resolution, sizes_around, sizes_near, whole_steps
from planner.allocate.domains.waterfill import fill
from planner.allocate.replay_cost import cost
from planner.allocate.retention import REPLAYS as SHARES
from planner.arrays import Array

REPLAYS = np.array(SHARES)
FINER_REPLAYS = np.interp(np.arange(0, len(REPLAYS) - 0.75, 0.25), np.arange(len(REPLAYS)), REPLAYS)
"""A finer grid, for the shortest general stage, where nothing else compensates for the steps between them."""
BUDGETS = 28
REQUIRED, ROUNDS = 7, 3
"""Budgets inserted between those that bracket a required loss, and how often."""
STEEPER = 10.0
"""Factor per round on the penalty for a required loss that no plan of a table reaches."""
MOST_PLANS = 3_000_000
"""Most plans in one block of a grid."""
SPLITS = np.concatenate([[0.0], np.geomspace(3e-3, 1.0, 13)])
"""Fractions of the most specialist tokens that a budget and the passes allow, in a coarse grid."""
ENDS = np.array([0.0, 1.0])
GENERAL = np.array([1.0, 0.7, 0.45, 0.3, 0.2, 0.12, 0.07, 0.04, 0.02])
"""Fractions of the general text that a budget allows, since less of it may keep a limit on the general loss."""

LOST = 0.01
"""If rounding to whole steps makes a plan worse by more than this share, no rounded plan near it keeps the limit: continue around the unrounded plan."""


def independent(problem: DomainsProblem, margin: float = 0.0, quick: bool = False, start: Found | None = None, climbs: bool = True) -> Found | None:
    """Find the best independent models, or None if the budget is too small for one per domain.

    Args:
        problem: the domains.
        margin: by which required losses are tightened.
        quick: whether the coarse search is enough.
        start: the best models of a request that differs little, to search around; None to search the whole range.
        climbs: whether to finish with a local search in whole steps under a limit on the general loss.
    """
    count, flops, required = problem.count, problem.request.flops, bool(np.isfinite(problem.max_loss).any())
    best = kept = start
    if start is None:
        thin = 2 if problem.request.limited and count > MANY_DOMAINS else 1
        general = GENERAL[::thin] if problem.request.limited else np.ones(1)
        grid = _budgets(problem), sizes_near(problem, 0, COARSE), SPLITS[::thin], general
        budgets, sizes, splits, general = (np.tile(values, (count, 1)) for values in grid)
    else:
        budgets, sizes, splits, general = _around(problem, start, own_budgets(problem, start), NEARBY[0])
    for number, following in enumerate((*(NEARBY[1:] if start else CLOSER), None)):
        table: Sequence[Any] = _tables(problem, budgets, sizes, splits, general, best)
        less = replace(problem, evaluations=problem.evaluations * REQUIRED / budgets.shape[1])
        for _ in range((ROUNDS if count <= MANY_DOMAINS else 1) if required else 0):
            more = _required(problem, budgets, table[0], margin)
            added = _tables(less, more, sizes, splits, general, best)
            order = np.concatenate([budgets, more], axis=1).argsort(1, kind="stable")
            budgets, *table = (np.take_along_axis(np.concatenate(pair, axis=1), order, 1) for pair in zip((budgets, *table), (more, *added), strict=True))
        loss, at, pt, spec = table
        mild = MILD * STEEPER**number
        value = problem.value(loss, margin, _penalty(problem, loss, margin, mild))
        filled = fill(budgets[None], value[None], np.array([flops]))
        if not np.isfinite(filled.total[0]):
            break
        each, rows = filled.amount[0], np.arange(count)
        node = np.abs(np.log(budgets / each[:, None])).argmin(1)
        # A size tabulated for a larger budget may have too few tokens with this one.
        short = problem.tokens_each(each, at[rows, node]) < problem.least_ratio * problem.params[at[rows, node]]
        lower = np.maximum(node - 1, 0)
        node = np.where(short & np.isfinite(value[rows, lower]), lower, node)
        found = _at_budgets(problem, each, budgets[rows, node], at[rows, node], pt[rows, node], spec[rows, node], margin)
        best, kept = better(problem, best, found, margin, mild), better(problem, kept, found, 0.0)
        if quick or following is None or best is None:
            break
        # Continue around the best plan so far, with its own division of the budget.
        middle, each = best, np.maximum(own_budgets(problem, best), 1e-300)
        if problem.request.limited and filled.total[0] < (1 - LOST) * objective(problem, best, margin, mild):
            middle, each = Found(INDEPENDENT, at[rows, node], pt[rows, node], spec[rows, node], 0.0, filled.amount[0], 0.0), filled.amount[0]
        budgets, sizes, splits, general = _around(problem, middle, each, following)
        if required and following is CLOSER[0] and count <= MANY_DOMAINS:  # with the budget it gives back, other models may be of quite different size
            sizes = np.concatenate([sizes, np.tile(sizes_near(problem, 0, COARSE), (count, 1))], axis=1)
    found = better(problem, kept, best, 0.0)
    if found is None or quick or not climbs or not problem.request.limited or count > MOST_DOMAINS:
        return found
    return climbed_each(problem, found, own_budgets(problem, found), start is not None)


def _around(problem: DomainsProblem, found: Found, each: Array, resolution: Resolution) -> tuple[Array, Any, Array, Array]:
    """Return the grid around models with `each` FLOPs: budgets, sizes, shares of specialist and of general text, each (domains, any)."""
    factors = np.exp(resolution.step * np.arange(-resolution.around, resolution.around + 1))
    share = found.tokens_spec / np.minimum(problem.most_spec, found.tokens_pt / _cost(problem, found.size) + found.tokens_spec)
    splits = np.concatenate([np.tile(ENDS, (problem.count, 1)), np.minimum(share[:, None] * factors, 1.0)], axis=1)
    general = np.ones((problem.count, 1))
    if problem.request.limited:
        room = np.clip(problem.tokens_each(each, found.size) - _cost(problem, found.size) * found.tokens_spec, 1e-300, problem.general_tokens)
        general = np.concatenate([general, np.minimum((found.tokens_pt / room)[:, None] * factors, 1.0)], axis=1)
    budgets = np.minimum(each[:, None] * factors, problem.request.flops)
    if np.isfinite(problem.max_loss).any() and problem.count <= MANY_DOMAINS:  # budget freed by a required loss may be much for others
        budgets = np.sort(np.concatenate([budgets, np.tile(_budgets(problem)[::3], (problem.count, 1))], axis=1), axis=1)
    return budgets, sizes_around(problem, found.size, resolution), np.sort(splits, axis=1), general


def _tables(problem: DomainsProblem, budgets: Array, sizes: Any, splits: Array, general: Array, like: Found | None) -> tuple[Array, Any, Array, Array]:
    """Tabulate as `_table`, in blocks of budgets: under a limit a grid of many domains would not fit in memory."""
    plans = problem.count * sizes.shape[1] * (splits.shape[1] + 2) * (general.shape[1] + (len(REPLAYS) if problem.request.limited else 0))
    each = int(np.clip(MOST_PLANS // plans, 1, budgets.shape[1]))
    blocks = [budgets[:, start : start + each] for start in range(0, budgets.shape[1], each)]
    less = replace(problem, evaluations=problem.evaluations / len(blocks))
    found = [_table(less, block, sizes, splits, general, like) for block in blocks]
    loss, at, pt, spec = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return loss, at, pt, spec


def _penalty(problem: DomainsProblem, loss: Array, margin: float, mild: float) -> Array:
    """Return the penalty of missing each domain's required loss in a table of losses, shape (domains, 1): mild if no entry reaches it.

    A size between those of the grid may reach it at little cost; the steep penalty would sacrifice all other domains for a narrow miss.
    """
    reached = (loss <= problem.max_loss[:, None] * (1 - margin)).any(1, keepdims=True)
    return np.where(reached, PENALTY, mild)


def _required(problem: DomainsProblem, budgets: Array, loss: Array, margin: float) -> Array:
    """Return budgets between the last that misses each domain's required loss and the first that reaches it, shape (domains, REQUIRED).

    Without them the whole step to the next budget would be taken from the other domains.
    """
    required, rows = np.isfinite(problem.max_loss), np.arange(problem.count)
    high = (loss <= problem.max_loss[:, None] * (1 - margin)).argmax(1)
    first, last = (np.log(budgets[rows, np.where((high > 0) & required, number, -1)]) for number in (high - 1, high))
    result: Array = np.exp(np.linspace(first, last, REQUIRED, axis=1))
    return result


def _table(problem: DomainsProblem, budgets: Array, sizes: Any, splits: Array, general: Array, like: Found | None) -> tuple[Array, Any, Array, Array]:
    """Tabulate the least loss of every domain for its budgets, with the size, the general and the specialist tokens that reach it.

    Args:
        problem: the domains.
        budgets: FLOPs, shape (domains, budgets).
        sizes: numbers of sizes of the ladder, shape (domains, sizes).
        splits: shares of the most specialist tokens, shape (domains, splits).
        general: shares of the general tokens that remain, shape (domains, shares).
        like: as for `expected`.
    """
    total, cost = problem.tokens_each(budgets[:, :, None], sizes[:, None, :]), np.take_along_axis(problem.spec_cost, sizes, 1)[:, None, :]
    most = np.minimum(problem.most_spec[:, None, None], total / cost)[..., None]
    spec = most * splits[:, None, None, :]
    # A grid of shares misses exactly one pass and the shortest stage.
    amounts = [problem.unique[:, None, None, None], np.array(problem.least_stage)]
    if np.isfinite(problem.general_tokens):  # and, after all general text, the minimum for the size and the rest of the budget
        for amount in (problem.enough(sizes, problem.general_tokens)[:, None, :], (total - problem.general_tokens) / cost):
            amounts.append(np.maximum(amount, problem.least_stage)[..., None])
    more = [np.minimum(np.broadcast_to(amount, most.shape), most) for amount in amounts]
    spec = np.concatenate([spec, *more], axis=-1)[..., None]
    pt = total[..., None, None] - cost[..., None, None] * spec
    pt = np.where(pt > 1e-9 * total[..., None, None], np.minimum(pt, problem.general_tokens), 0.0) * general[:, None, None, None, :]
    if problem.request.limited:  # and the shortest general stage, plus the tokens of each share of replay
        replayed = spec * (REPLAYS / (1 - REPLAYS))
        pt = np.concatenate([pt, np.minimum(problem.least_stage + replayed, pt.max(-1, keepdims=True))], axis=-1)
    every = [item.reshape(*budgets.shape, -1) for item in np.broadcast_arrays(sizes[:, None, :, None, None], pt, spec)]
    if problem.request.limited:  # with only that general stage, the specialist stage gets the rest
        stages = np.maximum(total - problem.least_stage, 0.0)[..., None] / cost[..., None]
        spec = np.minimum(stages * (1 - FINER_REPLAYS), problem.most_spec[:, None, None, None])
        least = np.minimum(problem.least_stage + spec * (FINER_REPLAYS / (1 - FINER_REPLAYS)), problem.general_tokens)
        pairs = np.broadcast_arrays(sizes[:, None, :, None], least, spec)
        every = [np.concatenate([first, item.reshape(*budgets.shape, -1)], axis=2) for first, item in zip(every, pairs, strict=True)]
    at, pt, spec = (item.reshape(problem.count, -1) for item in every)
    bare = loss = problem.expected(at, pt, spec, like=like)
    if problem.request.limited:
        loss = _dearer(problem, at, pt, spec, loss, budgets.shape[1])
    chosen = loss.reshape(*budgets.shape, -1).argmin(-1)[..., None]
    bare, loss, at, pt, spec = (np.take_along_axis(item.reshape(*budgets.shape, -1), chosen, -1)[..., 0] for item in (bare, loss, at, pt, spec))
    if np.isfinite(problem.max_loss).any():  # an error from few resamples at a required loss would sacrifice the other domains
        shown = problem.expected(at, pt, spec, EVERY if problem.count <= MANY_DOMAINS else MOST // 3)
        loss = np.where(np.isfinite(loss), shown * loss / np.where(np.isfinite(bare), bare, 1.0), np.inf)
    return loss, at, pt, spec


def _dearer(problem: DomainsProblem, at: Any, pt: Array, spec: Array, loss: Array, budgets: int) -> Array:
    """Raise the losses of plans by the cost of the replay that keeps the limit, infinite if none does, shape (domains, plans).

    The least replay is searched closely only for plans that may then be the best of their domain and budget: not for those already behind without replay.
    Plans are ordered by budget, the same number for each.
    """
    rough = model_replay(problem, at, pt, spec, asked=np.isfinite(loss), closely=False)
    dear = loss * np.exp(np.nan_to_num(cost(rough), nan=np.inf))
    best = np.repeat(dear.reshape(problem.count, budgets, -1).min(-1), loss.shape[1] // budgets, axis=1)
    near = (loss <= best) & np.isfinite(rough)
    return np.where(near, loss * np.exp(cost(model_replay(problem, at, pt, spec, asked=near))), dear)


def _budgets(problem: DomainsProblem) -> Array:
    """Return budgets from that of the smallest trainable model to the whole budget."""
    trained = problem.price * np.maximum(problem.least_ratio.min() * problem.params, problem.least_stage)
    least = float((trained + problem.weights.min() * problem.inference).min())
    flops = problem.request.flops
    return np.geomspace(min(max(least, 1e-3 * flops / problem.count), flops), flops, BUDGETS)


def _at_budgets(problem: DomainsProblem, each: Array, tabulated: Array, size: Any, pt: Array, spec: Array, margin: float) -> Found | None:
    """Scale the splits of the nearest tabulated budgets to the given budgets, in whole steps."""
    total, before, cost = problem.tokens_each(each, size), problem.tokens_each(tabulated, size), _cost(problem, size)
    # Specialist text keeps its share of the budget, but at least the minimum of a stage; general text takes its share of the rest, if it had any.
    part = pt / np.clip(before - cost * spec, 1e-300, problem.general_tokens)
    used_up = np.isclose(before - cost * spec, problem.general_tokens, rtol=1e-9)
    scaled = np.where(used_up, (total - problem.general_tokens) / cost, spec * total / np.maximum(before, 1e-300))
    # If all general text leaves budget over, the best stage length does not depend on the budget.
    scaled = np.where((pt > 0) & (before - cost * spec > problem.general_tokens) & ~used_up, spec, scaled)
    kept = np.maximum(np.minimum(scaled, problem.most_spec), problem.least_stage)
    spec = np.where(spec > 0, np.where(pt > 0, np.minimum(kept, total / cost), np.minimum(total / cost, problem.most_spec)), 0.0)
    spec = whole_steps(problem, np.where(spec > 0, np.maximum(spec, problem.enough(size, problem.general_tokens)), 0.0), total, cost, problem.most_spec)
    # If the general stage is then below its minimum, the specialist stage gives tokens back.
    missing = np.ceil((problem.least_stage - (total - cost * spec)) / cost / problem.step - 1e-9) * problem.step
    spec = np.where((pt > 0) & (missing > 0) & (spec - missing >= problem.least_stage), spec - missing, spec)
    room = np.clip(total - cost * spec, 0.0, problem.general_tokens)
    room = np.where(part > 1 - 1e-6, room, part * room)
    pt = np.where(pt > 0, whole_steps(problem, room, room), 0.0)
    if problem.request.limited:
        return _kept(problem, size, pt, spec, total, margin)
    return Found(INDEPENDENT, size, pt, spec, float(pt.sum()), problem.price[size] * (pt + cost * spec), 0.0)


def _kept(problem: DomainsProblem, size: Any, pt: Array, spec: Array, total: Array, margin: float) -> Found | None:
    """Choose for every domain the best whole steps close to its plan that keep the limit on the general loss; None if a domain has none.

    Args:
        problem: the domains.
        size: numbers of sizes, shape (domains,), like all that follow.
        pt: general tokens, including replay.
        spec: specialist tokens.
        total: general tokens that each domain's budget pays for.
        margin: by which required losses are tightened.
    """
    step, cost = problem.step, _cost(problem, size)[:, None]
    most = np.minimum(total, problem.general_tokens)[:, None]
    stages = beside(problem, spec)
    near, whole = np.tile(stages, 5), problem.whole(pt[:, None]) + step * np.repeat(OFFSETS[:5], len(OFFSETS))
    # The shortest general stage with the replay that it then needs, and the longest that fits, may lie outside the neighbouring steps.
    replay = branch_replay(problem, size[:, None], problem.least_stage, stages, 0.0)
    shortest = problem.whole(problem.least_stage + stages * replay / (1 - replay) + problem.step)
    longest = problem.whole(np.minimum(total[:, None] - cost * stages, most))
    # Without a specialist stage all tokens may be general.
    near = np.hstack([near, stages, stages, np.zeros_like(most)])
    whole = np.hstack([np.maximum(np.hstack([whole, np.nan_to_num(shortest), longest]), 0.0), problem.whole(most)])
    share = model_replay(problem, size[:, None], whole, near, 0.0)
    # Replayed tokens count as general tokens, and cost as much as those of the specialist stage.
    replayed = near * share / (1 - share)
    used = whole - replayed + cost * (near + replayed)
    allowed = np.isfinite(share) & (used <= total[:, None] * (1 + 1e-9)) & (whole <= problem.general_tokens * (1 + 1e-9))
    loss = problem.expected(size[:, None], whole, near, FEW_RESAMPLES, replay=np.where(allowed, share, np.nan))
    chosen = problem.value(loss, margin).argmin(1)[:, None]
    if not np.isfinite(np.take_along_axis(loss, chosen, 1)).all():
        return None
    pt, spec, share, used = (np.take_along_axis(item, chosen, 1)[:, 0] for item in (whole, near, share, used))
    return Found(INDEPENDENT, size, pt, spec, float(pt.sum()), problem.price[size] * used, 0.0, share)


def _cost(problem: DomainsProblem, size: Any) -> Array:
    """Return the cost of a token of each domain's stage relative to a general one at its size."""
    result: Array = problem.spec_cost[np.arange(problem.count), size]
    return result
