"""The best plan for a given share of specialist tokens, or for each of many, at its own best size; and why there may be none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from planner.allocate.bisection import bisect_log
from planner.allocate.optimum import CLOSE_BEHIND, FEW_RESAMPLES, MOST_RESAMPLES, Search, contends, harms, joined, leading, replaying, search
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import COARSEST, EVERY_SHAPE, FINEST, ROUNDING, Problem
from planner.arrays import Array
from planner.units import format_count, format_epochs

ASIDE = 1.7
"""Factor around the best shape within which every shape is tried: some cost less for their size than others."""
CLOSER = 12
"""Steps between the neighbours of the best size in a closer round, for sizes without shapes."""
ROUNDS = 5
"""Number of such rounds."""
HALVINGS = 40
"""Halvings of a step of the ladder, in ln N, to find the least size for which the passes suffice."""
SHARES = 41
"""Shares of specialist tokens in a profile."""
APART = 1 / (SHARES - 1)
"""Distance between those."""
FINER = 2.0 ** np.arange(-5, 8, 0.5)
"""Multiples of a small recommended share that the profile includes too: a straight line from 0 to the first share would pass far above the plan."""
FEWER = 1.2
"""Factor between amounts of specialist text without general text, if less than all of it may be better."""
AMOUNTS = 7
"""Amounts of it around the best so far."""
EVERYTHING = (math.inf,)
"""Stands for all of it that budget and passes allow."""


def closest_split(problem: Problem, share: float, sizes: tuple[Size, ...]) -> Search | None:
    """Search ever more closely around the best size for a share of specialist tokens.

    Args:
        problem: the request.
        share: of specialist tokens in all tokens.
        sizes: to begin with.

    Returns:
        The plans, some of which may exceed a limit on the general loss; None if none can be trained.
    """
    chosen = problem.request.sized
    tried = sizes if chosen else (*sizes, *_at_the_passes(problem, share, sizes), *_of_the_text(problem, share, sizes))
    alone = _amounts_alone(problem, tried) if share == 1 else EVERYTHING
    plans = _long_enough(problem, problem.split(tried, share, alone=alone))
    if not len(plans):
        return None
    found = search(problem, plans)
    if not np.isfinite(found.expected).any():
        return found
    if not chosen:
        found = _closest_size(problem, share, found, sizes, several=len(alone) > 1)
    if len(alone) > 1:
        best = found.plans.sizes[found.plans.size[found.best]]
        for reach in (FEWER, FEWER ** (1 / AMOUNTS)):
            found = _with(problem, found, share, (best,), _about(found, reach))
    return found


def _closest_size(problem: Problem, share: float, found: Search, sizes: tuple[Size, ...], several: bool) -> Search:
    """Extend a search of a share around its best size, and around its amount if several amounts of specialist text alone were tried."""
    if problem.recipe is not None:
        low, high = (problem.clipped(float(found.plans.params[found.best]) * factor) for factor in (1 / ASIDE, ASIDE))
        return _with(problem, found, share, problem.between(low, high, EVERY_SHAPE), _about(found, FEWER) if several else EVERYTHING)
    known = np.unique([size.params_non_embedding for size in (*sizes, *found.plans.sizes)])
    for number in range(ROUNDS):
        at = int(np.searchsorted(known, found.plans.params[found.best]))
        low, high = float(known[max(at - 1, 0)]), float(known[min(at + 1, len(known) - 1)])
        nearby = problem.between(low, high, max(FINEST, math.log(high / low) / CLOSER))
        known = np.unique([*known, *(size.params_non_embedding for size in nearby)])
        found = _with(problem, found, share, nearby, _about(found, FEWER**0.5**number) if several else EVERYTHING)
    return found


def profile(problem: Problem, sizes: tuple[Size, ...], near: float) -> tuple[Array, Array]:
    """Return the best loss for each possible share of specialist tokens, for a figure: shares and losses; finer below a small share `near`."""
    shares = np.linspace(0, 1, SHARES)
    if 0 < near < APART:
        shares = np.unique([*shares, *(share for share in near * FINER if share < APART)])
    if not problem.request.sized:
        # Far from the recommended share the passes may bind; the best size is then where they just suffice, and was not searched.
        sizes = tuple(dict.fromkeys((*sizes, *(size for share in shares for size in _at_the_passes(problem, float(share), sizes)))))
    parts = [problem.split(sizes, float(share), alone=_amounts_alone(problem, sizes) if share == 1 else EVERYTHING) for share in shares]
    number = np.repeat(np.arange(len(shares)), [len(part) for part in parts])
    plans = replaying(problem, reduce(Plans.beside, parts))
    if problem.robust:
        rows = np.flatnonzero(np.isfinite(plans.added))
        rows = rows[contends(problem, plans.rows(rows), FEW_RESAMPLES, CLOSE_BEHIND, number[rows])]
        plans, number = plans.rows(rows), number[rows]
    points, least = problem.points(plans), np.full(len(shares), np.inf)
    expected = problem.law.log_loss_resamples(points, MOST_RESAMPLES).mean(0) if problem.robust else problem.law.log_loss(points)
    np.minimum.at(least, number, expected + plans.added)
    found = np.isfinite(least)
    return shares[found], np.exp(least[found])


def _amounts_alone(problem: Problem, sizes: tuple[Size, ...]) -> Sequence[float]:
    """List amounts of specialist text to try without general text: all, or, if less may be better, one pass, more by a factor each, and all."""
    plans = problem.split(sizes, 1.0)
    least, most = max(problem.min_tokens_stage, min(problem.request.unique_spec, problem.max_tokens_spec)), problem.max_tokens_spec
    if not len(plans) or (problem.retention is None and not harms(problem, plans, "tokens_spec")):
        return EVERYTHING
    return [*np.exp(np.arange(math.log(least), math.log(most), math.log(FEWER))), math.inf]


def _about(found: Search, reach: float) -> Sequence[float]:
    """List amounts of specialist text around that of the best plan, which has no general text."""
    return list(float(found.plans.tokens_spec[found.best]) * np.geomspace(1 / reach, reach, AMOUNTS))


def _with(problem: Problem, found: Search, share: float, sizes: tuple[Size, ...], alone: Sequence[float] = EVERYTHING) -> Search:
    """Join a search with the best plans of other sizes, and of other amounts if there is no general text."""
    plans = _long_enough(problem, problem.split(sizes, share, alone=alone))
    near = leading(problem, plans) if len(plans) else None
    return joined(found, near) if near is not None and len(near.plans) else found


def _long_enough(problem: Problem, plans: Plans) -> Plans:
    return plans.rows(np.flatnonzero(plans.tokens_pt + plans.tokens_spec >= problem.min_tokens_stage * (1 - ROUNDING)))


def _at_the_passes(problem: Problem, share: float, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Return the size at which a share takes all allowed passes, or the shapes around it: larger ones take fewer."""
    if share in (0.0, 1.0):
        return ()
    ordered = sorted(sizes, key=lambda size: size.params_non_embedding)
    within = share * problem.tokens_at_each(ordered, share) <= problem.max_tokens_spec
    if within.all() or not within[-1]:
        return ()
    first = int(within.argmax())
    low, high = (ordered[max(number, 0)].params_non_embedding for number in (first - 1, first))
    if problem.recipe is not None:
        return problem.between(low, high, EVERY_SHAPE)
    _, high = bisect_log(low, high, lambda params: share * problem.tokens_at(problem.size(params), share) <= problem.max_tokens_spec, HALVINGS)
    return problem.between(high, high, FINEST)


def _of_the_text(problem: Problem, share: float, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Return sizes up to the largest for which the text of a share suffices, if that is below the largest size."""
    text = problem.max_tokens_spec if share == 1 else problem.general_tokens / (1 - share)
    most = text / problem.shortest
    if most >= max(size.params_non_embedding for size in sizes):
        return ()
    return problem.between(problem.clipped(0.0), problem.clipped(most), COARSEST)


def why_none(problem: Problem, share: float, sizes: tuple[Size, ...]) -> str:
    """Say why no plan of a share of specialist tokens can be trained."""
    unique, least = float(problem.request.unique_spec), problem.min_tokens_stage
    kind = "specialist" if share else "general"
    if share == 1:
        # Budget that the passes do not use may stay unspent: only a stage that is too short is impossible.
        if max(problem.tokens_at(size, share) for size in sizes) >= least:
            too = f"a {kind} stage too short to train" if problem.max_tokens_spec < least else f"fewer than {problem.shortest:g} per parameter"
            needed = math.ceil(100 * max(least, problem.shortest * min(size.params_non_embedding for size in sizes)) / unique) / 100
            return f"{format_epochs(problem.max_epochs)}, {format_count(problem.max_tokens_spec)} tokens, would be {too}; {needed:g} would suffice"
    elif share > 0:
        epochs = share * min(problem.tokens_at(size, share) for size in sizes) / unique
        if epochs > problem.max_epochs:
            return f"would take {format_epochs(epochs)} or more; at most {problem.max_epochs:.3g} are allowed"
    tokens = [problem.tokens_at(size, share) for size in sizes]
    few = all(total < problem.shortest * size.params_non_embedding for total, size in zip(tokens, sizes, strict=True))
    if few and max(tokens) * min(part for part in (share, 1 - share) if part) >= least:
        return f"it would have fewer than {problem.shortest:g} tokens per parameter"
    return f"its {kind} stage would be too short to train"
