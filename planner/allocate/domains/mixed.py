"""One model trained on general text and the text of all domains, if no sweep has measured what early specialist text is worth.

For each domain, all text but its own then counts as general text. Under this assumption, regardless of the order of the text, a mixed model sees as much
of every domain's own text as split training at the same cost, and more other text: it cannot be worse, so its loss is a bound and not a forecast. If
general text is scarce, it may take more of a domain's text than is best for that domain, as general text for the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.allocate.domains.found import MIXED, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.rounding import better
from planner.allocate.domains.search_grid import CLOSER, COARSE, nodes, sizes_near, whole_steps
from planner.allocate.domains.waterfill import fill
from planner.arrays import Array

PARTS = np.geomspace(0.02, 1.0, 16)
"""Fractions of the tokens that budget and text allow, if the general text is limited: with little of it, using all may not help."""
FINALISTS = 6
"""Sizes of a grid that are compared in whole steps, under all resamples."""


def mixed(problem: DomainsProblem, margin: float = 0.0) -> Found | None:
    """Find the best mixed model, or None if the budget allows none."""
    best: Found | None = None
    size, share, part = 0, None, 1.0
    for stage in (COARSE, *CLOSER):
        sizes, parts = sizes_near(problem, size, stage), np.ones(1)
        if np.isfinite(problem.general_tokens):
            around = part * np.exp(stage.step * np.arange(-stage.around, stage.around + 1))
            parts = np.unique(np.minimum(1.0, PARTS if stage is COARSE else around))
        at = np.repeat(sizes, len(parts))
        most = _most(problem, sizes)
        total = np.outer(most, parts).ravel()
        if np.isfinite(problem.general_tokens):  # and the minimum for the size
            enough = _enough(problem, sizes)
            some = (enough > 0) & (enough < most)
            at, total = np.append(at, sizes[some]), np.append(total, enough[some])
        amounts = nodes(problem, total, share, stage)
        loss = problem.expected(at[:, None, None], total[:, None, None] - amounts, amounts, like=best)
        divided, value = _divide(amounts, problem.value(loss, margin), total, total - problem.general_tokens, problem.least_stage > 0)
        order = value.argsort()
        order = order[np.isfinite(value[order])]
        for row in order[np.sort(np.unique(at[order], return_index=True)[1])][:FINALISTS]:
            best = better(problem, best, _in_whole_steps(problem, int(at[row]), float(total[row]), divided[row]), margin)
        if best is None:
            break
        size, whole = int(best.size[0]), best.tokens_general + float(best.tokens_spec.sum())
        part, share = whole / float(_most(problem, best.size[:1])[0]), best.tokens_spec / whole
    return best


def _most(problem: DomainsProblem, size: Any) -> Array:
    """Return the most tokens that budget and text allow for numbers of sizes, without text too short for a stage."""
    stages = np.where(problem.most_spec >= problem.least_stage, problem.whole(problem.most_spec), 0.0)
    result: Array = np.minimum(problem.tokens(size), problem.whole(problem.general_tokens) + stages.sum())
    return result


def _enough(problem: DomainsProblem, size: Any) -> Array:
    """Return the minimum of tokens in total, in whole steps, for numbers of sizes."""
    return problem.enough(np.tile(size, (problem.count, 1)), 0.0).max(0)


def _divide(amounts: Array, value: Array, total: Array, least: Array, gap: bool) -> tuple[Array, Array]:
    """Divide totals among the domains, with at least as much specialist text as the general text does not cover.

    Args:
        amounts: of each domain, shape (batch, domains, nodes).
        value: of the same shape.
        total: all tokens, shape (batch,).
        least: minimum of specialist tokens among them.
        gap: as for `fill`.

    Returns:
        Amounts, shape (batch, domains), and their total value, infinite if there is no such division.
    """
    filled = fill(amounts, value, total, gap=gap)
    divided, result = filled.amount, filled.total.copy()
    short = np.flatnonzero((divided.sum(-1) < least * (1 - 1e-9)) & np.isfinite(result))
    if len(short):
        # A reward per token, equal for all and large enough that every domain takes more, makes them share the required amount optimally.
        steps, rises = np.diff(amounts[short]), np.diff(np.where(np.isfinite(value[short]), value[short], np.nan))
        slopes = np.where((steps > 1e-9 * total[short, None, None]) & np.isfinite(rises), rises / np.where(steps > 0, steps, 1.0), 0.0)
        pull = 2 * slopes.max((1, 2), initial=0.0)[:, None]
        forced = fill(amounts[short], value[short] - pull[..., None] * amounts[short], least[short], gap=gap)
        enough = forced.amount.sum(-1) >= least[short] * (1 - 1e-6)
        divided[short], result[short] = forced.amount, np.where(enough, (forced.value + pull * forced.amount).sum(-1), np.inf)
    return divided, result


def _in_whole_steps(problem: DomainsProblem, size: int, total: float, amounts: Array) -> Found:
    """Round a plan to whole steps."""
    price, spec = float(problem.price[size]), whole_steps(problem, amounts, total, most=problem.most_spec)
    room = float(np.clip(total - spec.sum(), 0.0, problem.general_tokens))
    general = float(whole_steps(problem, np.array(room), room))
    missing = float(_enough(problem, np.array([size]))[0]) - general - spec.sum()
    if 0 < missing:  # rounding fell below the minimum: the domain with the most text left makes it up
        longest = int(np.where(spec > 0, problem.most_spec - spec, -1.0).argmax())
        spec[longest] += np.ceil(missing / problem.step - 1e-9) * problem.step
    return Found(MIXED, np.full(problem.count, size), general + spec.sum() - spec, spec, general, price * spec, price * general)
