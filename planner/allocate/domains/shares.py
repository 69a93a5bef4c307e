"""Split training with a given share of specialist tokens in all training tokens: none, a half, a tenth.

The domains divide them as in the recommended plan, or by their text if that plan has none; a domain whose part would be too short for a stage leaves it
to the others and uses the trunk after a cooldown. The size is the best for that share.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from planner.allocate.domains.found import Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.rounding import cooldown, realise
from planner.allocate.domains.search_grid import CLOSER, CLOSER_OF_MANY, COARSE, MANY_DOMAINS, sizes_near
from planner.arrays import Array

SHARES = {"no specialisation": 0.0, "50/50": 0.5, "90/10": 0.1}
"""By name of the arm: share of specialist tokens in all training tokens, as for one domain."""
EVALUATIONS = 3e4
"""Losses evaluated per grid here."""


def of_share(problem: DomainsProblem, name: str, like: Found) -> Found | None:
    """Find the best plan of a share in SHARES, or None if no size allows it.

    Args:
        problem: the domains, without required losses or limits on the general loss.
        name: of the share.
        like: the recommended plan, which determines how the specialist tokens are divided.
    """
    problem, share = replace(problem, evaluations=EVALUATIONS), SHARES[name]
    parts = like.tokens_spec if like.tokens_spec.any() else problem.unique
    parts = parts / parts.sum()
    size: int | None = None
    for stage in (COARSE, *(CLOSER if problem.count <= MANY_DOMAINS else CLOSER_OF_MANY)[:2]):
        at = sizes_near(problem, size or 0, stage)
        trunk, spec, allowed = _divided(problem, at, share, parts)
        # In whole steps, as it will be: with scarce general text, part of a step may decide whether a size has enough tokens.
        loss = problem.expected(at, problem.whole(trunk), problem.whole(spec))
        value = np.where(allowed, problem.value(loss, 0.0).sum(0), np.inf)
        if not np.isfinite(value).any():
            break
        size = int(at[value.argmin()])
    if size is None:
        return None
    trunk, spec, _ = _divided(problem, np.array([size]), share, parts)
    return realise(problem, name, size, float(trunk[0]), spec[:, 0], spec[:, 0], 0.0)


def _divided(problem: DomainsProblem, at: Any, share: float, parts: Array) -> tuple[Array, Array, Any]:
    """Return the trunk, shape (sizes,), the specialist tokens, shape (domains, sizes), and for which sizes the passes suffice."""
    cost, total = problem.spec_cost[:, at], problem.tokens(at)
    parts = np.repeat(parts[:, None], len(at), axis=1)
    for _ in range(problem.count + 1):
        again = cooldown(problem) * ((parts == 0).any(0) & (share > 0))
        tokens = total / ((1 - share) * (1 + again) + share * (parts * cost).sum(0))
        tokens = np.minimum(tokens, problem.general_tokens / (1 - share))
        spec = share * parts * tokens
        short = (spec > 0) & (spec < problem.least_stage)
        if not short.any():
            break
        # A part too short for a stage goes to the others.
        parts = np.where(short, 0.0, parts)
        parts = parts / np.maximum(parts.sum(0), 1e-300)
    return (1 - share) * tokens, spec, (spec <= problem.most_spec[:, None] * (1 + 1e-9)).all(0) & ((share == 0) | (spec > 0).any(0))
