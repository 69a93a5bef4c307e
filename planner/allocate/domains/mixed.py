"""One model trained on general text and the text of all domains, where no sweep has measured what early specialist text is worth.

For each domain, whatever is not its own text then counts as general text. Under that, and whatever the order of the text, a mixed model sees as
much of every domain's own text as split training at the same cost, and more other text before it: it cannot come out behind, so its loss is a
bound and not a forecast.
"""

from __future__ import annotations

import numpy as np

from planner.allocate.domains.found import MIXED, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.stages import CLOSER, COARSE, near, nodes, whole_steps
from planner.allocate.domains.waterfill import fill
from planner.laws.dual import Array

PARTS = np.geomspace(0.02, 1.0, 16)
"""Of what budget and text allow, where the general text is limited: with little of it, not all of that can be of use."""


def mixed(problem: DomainsProblem, margin: float = 0.0) -> Found | None:
    """Find the best mixed model, or None where the budget allows none."""
    best: Found | None = None
    size, share, part = 0, None, 1.0
    for stage in (COARSE, *CLOSER):
        sizes, parts = near(problem, size, stage), np.ones(1)
        if np.isfinite(problem.general_tokens):
            around = part * np.exp(stage.step * np.arange(-stage.around, stage.around + 1))
            parts = np.unique(np.minimum(1.0, PARTS if stage is COARSE else around))
        at = np.repeat(sizes, len(parts))
        most = np.minimum(problem.tokens(at), problem.general_tokens + problem.most_spec.sum())
        total = most * np.tile(parts, len(sizes))
        amounts = nodes(problem, total, share, stage)
        loss = problem.expected(at[:, None, None], total[:, None, None] - amounts, amounts, like=best)
        filled = fill(amounts, problem.value(loss, margin), total, gap=problem.least_stage > 0)
        value = np.where(total - filled.amount.sum(-1) <= problem.general_tokens * (1 + 1e-9), filled.total, np.inf)
        if not np.isfinite(value).any():
            break
        row = int(value.argmin())
        size, part, share = int(at[row]), float(np.tile(parts, len(sizes))[row]), filled.amount[row] / total[row]
        best = _found(problem, size, float(total[row]), filled.amount[row])
    return best


def _found(problem: DomainsProblem, size: int, total: float, amounts: Array) -> Found:
    """Round to whole steps."""
    price, spec = float(problem.price[size]), whole_steps(problem, amounts, total, most=problem.most_spec)
    room = float(np.clip(total - spec.sum(), 0.0, problem.general_tokens))
    general = float(whole_steps(problem, np.array(room), room))
    return Found(MIXED, np.full(problem.count, size), general + spec.sum() - spec, spec, general, price * spec, price * general)
