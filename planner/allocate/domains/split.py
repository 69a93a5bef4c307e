"""Split training (arXiv 2603.19149): one trunk on general text, and from it one branch a domain. It costs c(N)·(D_pt + Σ D_k).

For every size and trunk the amounts D_k separate under a multiplier on FLOPs, so each pair is one problem of `waterfill`.
"""

from __future__ import annotations

import numpy as np

from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.stages import CLOSER, COARSE, SPLIT, Found, Stage, near, nodes, whole_steps
from planner.allocate.domains.waterfill import fill
from planner.laws.dual import Array

LOGITS = np.linspace(-4.8, 4.8, 13)
"""Of the share of the trunk in all tokens, in a coarse grid; no trunk and nothing but a trunk stand beside them."""
UNIFORM = "equal specialist compute for every domain"
NO_GENERAL = "no general text"


def split(problem: DomainsProblem, name: str = SPLIT, margin: float = 0.0, quick: bool = False) -> Found | None:
    """Find the best split training, or None where the budget allows none.

    Args:
        problem: the domains.
        name: SPLIT, or what binds it further: UNIFORM or NO_GENERAL; or MIXED, whose stages are one.
        margin: by which required losses are tightened.
        quick: whether the coarse search is enough.
    """
    best: Found | None = None
    size, logit, share, room = 0, 0.0, None, 0.0
    for stage in (COARSE,) if quick else (COARSE, *CLOSER):
        sizes = near(problem, size, stage)
        shares = _shares(logit, stage) if name != NO_GENERAL else np.zeros(1)
        at = np.repeat(sizes, len(shares))
        total = problem.request.flops / problem.price[at]
        trunk = np.minimum(np.tile(shares, len(sizes)) * total, problem.general_tokens)
        if name == UNIFORM:
            amounts = _equal(problem.most_spec, total - trunk)[..., None]
            amounts = np.where(amounts < problem.least_stage, 0.0, amounts)
        else:
            amounts = nodes(problem, total - trunk, share, stage)
        loss = problem.expected(at[:, None, None], trunk[:, None, None], amounts, like=best.plan if best else None)
        filled = fill(amounts, problem.value(loss, margin), total - trunk, gap=problem.least_stage > 0)
        if not np.isfinite(filled.total).any():
            break
        row = int(filled.total.argmin())
        size, room = int(at[row]), float(total[row] - trunk[row])
        part = np.clip(trunk[row] / total[row], 1e-9, 1 - 1e-9)
        logit = float(np.clip(np.log(part / (1 - part)), LOGITS[0], LOGITS[-1]))
        best = _found(problem, name, size, float(trunk[row]), filled.amount[row])
        share = filled.amount[row] / room if room > 0 else None
    return best


def _shares(logit: float, stage: Stage) -> Array:
    """Return shares of the trunk to look at, no trunk and nothing else among them."""
    # The first of the closer stages spans the step of the coarse grid to either side.
    wide = (LOGITS[1] - LOGITS[0]) / (CLOSER[0].step * CLOSER[0].around)
    middle = logit + wide * stage.step * np.arange(-stage.around, stage.around + 1) if stage.stride else LOGITS
    return np.concatenate([[0.0], 1 / (1 + np.exp(-middle)), [1.0]])


def _equal(most: Array, room: Array) -> Array:
    """Give every row the same, or the most that it can take where that is less, so that it adds up to the room, shape (batch, rows)."""
    ascending = np.sort(most)
    before = np.concatenate([[0.0], np.cumsum(ascending)[:-1]])
    levels = (room[:, None] - before) / np.arange(len(most), 0, -1)
    enough = levels <= ascending
    level = np.where(enough.any(1), np.take_along_axis(levels, enough.argmax(1)[:, None], 1)[:, 0], np.inf)
    return np.minimum(most, level[:, None])


def _found(problem: DomainsProblem, name: str, size: int, trunk: float, amounts: Array) -> Found:
    """Round to whole steps; the trunk takes what is left over."""
    price, total = float(problem.price[size]), problem.request.flops / float(problem.price[size])
    spec = whole_steps(problem, amounts, total)
    if trunk > 0:
        trunk = float(np.clip(total - spec.sum(), 0.0, problem.general_tokens))
    trunk = float(whole_steps(problem, np.array(trunk), min(total - spec.sum(), problem.general_tokens)))
    numbers, pt = np.full(problem.count, size), np.full(problem.count, trunk)
    return Found(name, numbers, pt, spec, trunk, price * spec, price * trunk)
