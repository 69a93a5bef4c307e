"""Split training (arXiv 2603.19149): one trunk on general text, and from it one branch per domain. It costs c(N)·(D_pt + Σ D_k).

Given size and trunk, the amounts D_k separate under a multiplier on FLOPs, so each pair is one `waterfill` problem. Under a limit on the general loss
each branch is longer, and costs more, by the replay that keeps the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.allocate.domains import climb
from planner.allocate.domains.found import MIXED, SPLIT, Found
from planner.allocate.domains.general_limit import branch_replay
from planner.allocate.domains.problem import EVALUATIONS, EVERY, MILD, MOST, PENALTY, DomainsProblem
from planner.allocate.domains.rounding import better, cooldown, cooled, realise
from planner.allocate.domains.search_grid import CLOSER, CLOSER_OF_MANY, COARSE, MANY_DOMAINS, NEARBY, Resolution, nodes, sizes_near
from planner.allocate.domains.trade import MARGIN, MOST_DOMAINS, traded
from planner.allocate.domains.waterfill import fill
from planner.arrays import Array

LOGITS = np.linspace(-4.8, 4.8, 13)
"""Logits of the trunk's share of all tokens in a coarse grid, in addition to no trunk and nothing but a trunk."""
UNIFORM = "equal specialist compute for every domain"
NO_GENERAL = "no general text"
FINALISTS, MOST_FINALISTS = 6, 600
"""Sizes of a grid that are compared under all resamples, and the most of sizes times domains."""
REQUIRED = 2
"""Nodes added in turn at the amount where a domain reaches its required loss."""
WHOLE = Resolution(0.01, 25, 0.12, 2)
"""Sizes and trunks from which the local search in whole steps starts."""
CLOSE = 0.04
"""Range of sizes, in ln N, around the best plan of another request."""
BESIDE = (1.0, 0.995, 0.99, 0.98, 0.95, 0.9)
"""Shares of scarce general text for a trunk, since some of it must be left for replay."""
LEAST_LOGIT = -9.0
"""Smallest logit of an existing trunk around which a finer grid is placed."""


def split(
    problem: DomainsProblem, name: str = SPLIT, margin: float = 0.0, quick: bool = False,
    start: Found | None = None, resolutions: tuple[Resolution, ...] = NEARBY, climbs: bool = True,
) -> Found | None:  # fmt: skip
    """Find the best split training, or None if the budget allows none.

    Args:
        problem: the domains.
        name: SPLIT, or a restricted form of it, UNIFORM or NO_GENERAL; or MIXED, which has a single stage.
        margin: by which required losses are tightened.
        quick: whether the coarse search is enough.
        start: the best plan of a request that differs little, to search around; None to search the whole range.
        resolutions: of the grids around it.
        climbs: whether to finish with a local search in whole steps under a limit on the general loss.
    """
    best, kept, bare = start, start, None if start is None else without(problem, start)
    size, logit, share = (0, 0.0, None) if start is None else middle(problem, start)
    closer = CLOSER if problem.count <= MANY_DOMAINS else CLOSER_OF_MANY
    # With required losses, search the whole range again, with the few resamples calibrated to all of them at the best plan so far.
    again = (COARSE,) if np.isfinite(problem.max_loss).any() and problem.count <= MANY_DOMAINS else ()
    trading = bool(again) and problem.count <= MOST_DOMAINS and name == SPLIT and not quick and not problem.request.limited
    for resolution in resolutions if start else (COARSE,) if quick else (COARSE, *again, *closer):
        sizes = sizes_near(problem, size, resolution)
        at, shares = trunks(problem, sizes, np.zeros(1) if name == NO_GENERAL else _shares(logit, resolution))
        found, bare = look(problem, name, at, shares, share if resolution.stride else None, resolution, margin, best, bare)
        best, kept = better(problem, best, found, margin, MILD), better(problem, kept, found, 0.0)
        if best is None:
            break
        size, logit, share = middle(problem, best)
    found = better(problem, kept, best, 0.0)
    if found is not None and problem.request.limited and problem.count <= climb.MOST_DOMAINS and climbs and not quick:
        return climb.climbed(problem, found, start is not None)
    if found is None or not trading:
        return found
    return traded(problem, found, *(_beside(problem, found) if start else _starts(problem, found)), start is not None)


def _starts(problem: DomainsProblem, found: Found) -> tuple[Any, Array]:
    """Return starting points of the local search in whole steps: numbers of sizes, and the best branches and trunk of each, shape (rows, domains + 1)."""
    size, logit, share = middle(problem, found)
    at, shares = trunks(problem, sizes_near(problem, size, WHOLE), _shares(logit, WHOLE))
    sizes: list[Any] = []
    rows: list[Array] = []
    for bare in (True, False) if cooldown(problem) else (None,):
        divided = divide(problem, found.name, at, shares, share, WHOLE, MARGIN, found, bare)
        order = divided.value.argsort()
        order = order[np.isfinite(divided.value[order])]
        best = order[np.unique(at[order], return_index=True)[1]]
        spec, trunk = problem.whole(divided.tokens_spec[best]), problem.whole(divided.trunk[best])
        # Rounded down, a branch may have too few tokens for its size.
        spec = np.where(spec > 0, np.maximum(spec, problem.enough(at[best][None], trunk[None]).T), spec)
        if bare:  # plans in which every domain has a stage need no cooldown
            some = (spec == 0).any(1)
            best, spec, trunk = best[some], spec[some], trunk[some]
        sizes, rows = [*sizes, at[best]], [*rows, np.concatenate([spec, trunk[:, None]], axis=1)]
    return np.concatenate(sizes), np.concatenate(rows)


def _beside(problem: DomainsProblem, found: Found) -> tuple[Any, Array]:
    """Return starting points near the best plan of another request: its branches and trunk, at sizes close to its own."""
    sizes = np.flatnonzero(np.abs(np.log(problem.params / problem.params[found.size[0]])) <= CLOSE)
    return sizes, np.tile(np.append(found.tokens_spec, found.tokens_general), (len(sizes), 1))


def trunks(problem: DomainsProblem, sizes: Any, shares: Array) -> tuple[Any, Array]:
    """Cross sizes with shares of the trunk, and with the shortest trunk and all general text, which shares may miss."""
    at, every = np.repeat(sizes, len(shares)), np.tile(shares, len(sizes))
    if len(shares) == 1:
        return at, every
    total = problem.tokens(sizes)
    beside = BESIDE if problem.request.limited and np.isfinite(problem.general_tokens) else (1.0,)
    for tokens in (problem.least_stage, *(problem.general_tokens * share for share in beside)):
        inside = (tokens > 0) & (tokens < total)
        at, every = np.append(at, sizes[inside]), np.append(every, tokens / total[inside])
    return at, every


def look(
    problem: DomainsProblem, name: str, at: Any, shares: Array, guess: Array | None, resolution: Resolution, margin: float, like: Found | None,
    bare: bool | None,
) -> tuple[Found | None, bool | None]:  # fmt: skip
    """Find the best of some sizes and trunks, and whether domains have no stage in it, if that matters.

    Args:
        problem: the domains.
        name: as for `split`.
        at: numbers of sizes, shape (batch,).
        shares: of the trunk in all tokens, shape (batch,).
        guess: as for `nodes`.
        resolution: of the grid.
        margin: by which required losses are tightened.
        like: a plan close to these.
        bare: as for `divide`.
    """

    def best(bare: bool | None) -> Found | None:
        divided = divide(problem, name, at, shares, guess, resolution, margin, like, bare)

        def first(penalty: float) -> Found | None:
            for row in _order(problem, at, divided, margin, penalty):
                trunk, spec = float(divided.trunk[row]), divided.tokens_spec[row]
                found = realise(problem, name, int(at[row]), trunk, spec, divided.tokens_pt[row] - trunk + spec, margin)
                if found is not None and np.isfinite(problem.losses(found)).all():
                    return found
            return None

        hard = first(PENALTY)
        # A plan that narrowly misses a required loss ranks last under that penalty, but a finer grid may reach it.
        return better(problem, hard, first(MILD), margin, MILD) if hard is not None and np.isfinite(problem.max_loss).any() else hard

    found = best(bare)
    if bare is not None or found is None or not without(problem, found):
        return found, bare
    # If some domains have no stage, which takes a cooldown of the trunk: either pay it from the start, or give all a stage.
    found = better(problem, found, better(problem, best(True), best(False), margin, MILD), margin, MILD)
    return found, None if found is None else without(problem, found)


def without(problem: DomainsProblem, found: Found) -> bool | None:
    """Tell whether a plan pays a cooldown of the trunk for domains without a stage; None if that costs nothing, or if the plan is all trunk."""
    if found.name == MIXED or not cooldown(problem) or not found.tokens_spec.any():
        return None
    return bool(cooled(problem, found.name, found.tokens_spec) > 1)


def _order(problem: DomainsProblem, at: Any, divided: Divided, margin: float, penalty: float) -> Any:
    """List the plans to round, most promising first: the best of each size, a few of them ranked under all resamples, then those without branches or with
    the longest trunks.

    Under the few resamples of a grid sizes may be off by 2e-4; under a limit not every plan has whole steps that keep it.
    """
    order = divided.value.argsort()
    order = order[np.isfinite(divided.value[order])]
    first = order[np.sort(np.unique(at[order], return_index=True)[1])][:FINALISTS]
    if len(first) > 1 and problem.count * len(first) <= MOST_FINALISTS and problem.evaluations >= EVALUATIONS:
        most = EVERY if problem.count <= MANY_DOMAINS else MOST // 3
        loss = problem.expected(at[first], divided.tokens_pt[first].T, divided.tokens_spec[first].T, most, replay=_shares_of(divided)[first].T)
        first = first[problem.value(loss, margin, penalty).sum(0).argsort()]
    if not problem.request.limited or not len(order):
        return first
    bare = order[(divided.tokens_spec[order] == 0).all(1)][:FINALISTS]
    return np.concatenate([first, bare, order[divided.trunk[order].argsort()[::-1]][:FINALISTS]])


def _shares_of(divided: Divided) -> Array:
    """Return the shares of replay in the branches, shape (batch, domains)."""
    replayed = divided.tokens_pt - divided.trunk[:, None]
    return replayed / np.maximum(replayed + divided.tokens_spec, 1e-300)


@dataclass(frozen=True)
class Divided:
    """The best division of the branches for each of some sizes and trunks."""

    value: Array
    """Objective; infinite if nothing is allowed, shape (batch,)."""
    trunk: Array
    """General tokens, shape (batch,)."""
    tokens_spec: Array
    """Shape (batch, domains)."""
    tokens_pt: Array
    """General tokens that each domain's model has seen, shape (batch, domains)."""


def divide(
    problem: DomainsProblem, name: str, at: Any, shares: Array, guess: Array | None, resolution: Resolution, margin: float, like: Found | None,
    bare: bool | None,
) -> Divided:  # fmt: skip
    """Divide the budget that each trunk leaves among the domains.

    Args:
        problem, name, at, shares, guess, resolution, margin, like: as for `look`.
        bare: True to pay the cooldown of the trunk for domains without a stage in advance, False to require a stage of every domain, None to ignore
            the cooldown.
    """
    total, cost = problem.tokens(at), problem.spec_cost[:, at].T
    trunk = np.minimum(shares * total, problem.general_tokens)
    # In units of general tokens; tokens of a branch may cost more or less.
    room = np.maximum(total - trunk * (1 + cooldown(problem) if bare else 1), 0.0)
    if name == UNIFORM:
        amounts = _equal(problem.most_spec * cost, room) / cost
        amounts = np.where(amounts < problem.least_stage, 0.0, amounts)[..., None]
    else:
        amounts = nodes(problem, room[:, None] / cost, guess, resolution, problem.enough(at[None, :], trunk).T)
    most = None

    def tried(amounts: Array) -> tuple[Array, Array, Array]:
        share = np.zeros(amounts.shape)
        if problem.request.limited:
            share = branch_replay(problem, at[:, None, None], trunk[:, None, None], amounts)
            share[trunk[:, None, None] + share / (1 - share) * amounts > problem.general_tokens] = np.nan
        stages = amounts / (1 - np.nan_to_num(share))
        loss = problem.expected(at[:, None, None], trunk[:, None, None] + stages - amounts, amounts, most, like, share)
        return amounts, stages, np.where(amounts == 0, np.inf, loss) if bare is False else loss

    if np.isfinite(problem.max_loss).any():
        most = problem.few(amounts.size)  # the same for all nodes
    amounts, stages, loss = tried(amounts)
    for _ in range(REQUIRED if np.isfinite(problem.max_loss).any() else 0):
        added = tried(_reaching(problem, amounts, loss, margin))
        every = [np.concatenate(pair, axis=-1) for pair in zip((amounts, stages, loss), added, strict=True)]
        order = every[0].argsort(-1, kind="stable")
        amounts, stages, loss = (np.take_along_axis(item, order, -1) for item in every)
    value = problem.value(loss, margin)
    if problem.request.limited:  # with replay, a larger amount may make a shorter stage
        order = stages.argsort(-1, kind="stable")
        amounts, stages, value = (np.take_along_axis(item, order, -1) for item in (amounts, stages, value))
    filled = fill(stages * cost[..., None], value, room, gap=problem.least_stage > 0)
    lengths = filled.amount / cost
    spec = _along(stages, amounts, lengths) if problem.request.limited else lengths
    return Divided(filled.total, trunk, spec, trunk[:, None] + lengths - spec)


def _reaching(problem: DomainsProblem, amounts: Array, loss: Array, margin: float) -> Array:
    """Return the amounts with which domains just reach their required losses, between the neighbouring nodes, shape (batch, domains, 1).

    Without them the whole step to the next node would be taken from the other domains, which may lose their stages. Losses are convex in the logarithm
    of the amount, so the interpolated amount reaches the loss. A domain without a required loss gets the last node again.
    """
    limit = (problem.max_loss * (1 - margin))[:, None]
    high = np.argmax(loss <= limit, axis=-1)[..., None]  # the first that reaches it
    low = np.maximum(high - 1, 0)
    (x0, y0), (x1, y1) = ([np.take_along_axis(item, at, -1) for item in (amounts, loss)] for at in (low, high))
    between = (y0 > limit) & (y1 <= limit) & np.isfinite(y0) & (x0 > 0)
    with np.errstate(all="ignore"):
        result: Array = np.where(between, x0 * (x1 / x0) ** np.where(between, (y0 - limit) / (y0 - y1), 0.0), amounts[..., -1:])
    return result


def middle(problem: DomainsProblem, found: Found) -> tuple[int, float, Array | None]:
    """Return the centre of the next finer grid: number of the size, logit of the trunk's share, and each domain's part of what the trunk leaves."""
    size, trunk = int(found.size[0]), found.tokens_general
    total = float(problem.tokens(size))
    part = np.clip(trunk / total, 1e-9, 1 - 1e-9)
    left = total - trunk * cooled(problem, found.name, found.tokens_spec)
    logit = float(np.clip(np.log(part / (1 - part)), LEAST_LOGIT if trunk > 0 else LOGITS[0], LOGITS[-1]))
    return size, logit, found.tokens_spec * problem.spec_cost[:, size] / left if left > 0 else None


def _shares(logit: float, resolution: Resolution) -> Array:
    """Return shares of the trunk to try, including no trunk and nothing but trunk."""
    # The first of the closer resolutions spans the step of the coarse grid to either side.
    wide = (LOGITS[1] - LOGITS[0]) / (CLOSER[0].step * CLOSER[0].around)
    middle = logit + wide * resolution.step * np.arange(-resolution.around, resolution.around + 1) if resolution.stride else LOGITS
    return np.concatenate([[0.0], 1 / (1 + np.exp(-middle)), [1.0]])


def _equal(most: Array, room: Array) -> Array:
    """Give every row the same amount, capped at its most, so that the sum is the room; most and result (batch, rows)."""
    ascending = np.sort(most)
    before = np.cumsum(ascending, axis=1) - ascending
    levels = (room[:, None] - before) / np.arange(most.shape[1], 0, -1)
    enough = levels <= ascending
    level = np.where(enough.any(1), np.take_along_axis(levels, enough.argmax(1)[:, None], 1)[:, 0], np.inf)
    return np.minimum(most, level[:, None])


def _along(stages: Array, amounts: Array, length: Array) -> Array:
    """Interpolate specialist tokens for stages of some lengths, shape (batch, domains), between nodes on the last axis."""
    node = np.clip((stages <= length[..., None]).sum(-1) - 1, 0, stages.shape[-1] - 2)[..., None]
    (x0, y0), (x1, y1) = ([np.take_along_axis(item, node + one, -1)[..., 0] for item in (stages, amounts)] for one in (0, 1))
    result: Array = y0 + np.clip((length - x0) / np.where(x1 > x0, x1 - x0, 1.0), 0.0, 1.0) * (y1 - y0)
    return result
