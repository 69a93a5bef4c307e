"""Under a limit on the general loss the best plan often sits at a kink of the piecewise-linear cost of replay; a coarse grid misses these plans.

After more general tokens there is more to lose, so for one size and amount of specialist text the best plan often has just the general tokens for which
a share of replay at a kink keeps the limit. A grid steps over them, and its best plan would depend on where its points happen to lie. The same holds for
plans with the minimum of tokens for their size, where more general tokens mean fewer specialist ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from planner.allocate.plans import Plans
from planner.allocate.replay_cost import SHARES
from planner.allocate.retention import Retention

HALVINGS = 5
"""Halvings of the step between two plans of a grid, in ln of the general tokens."""
ROUNDING = 1e-9
"""Share by which the tokens of a plan may differ from the minimum."""


def kinks(retention: Retention, plans: Plans, least_stage: float, shortest: float) -> Plans:
    """Return, between neighbours of a grid, the plans with the most general tokens for which replay at a kink keeps the limit.

    Neighbours have the same size, and the same amount of specialist text or the minimum of total tokens for the size.

    Args:
        retention: the limit.
        plans: with the least replay that keeps it, in any order.
        least_stage: minimum of tokens of a general stage.
        shortest: minimum of tokens per parameter of a plan.
    """
    fewest = np.abs((plans.tokens_pt + plans.tokens_spec) / (shortest * plans.params) - 1) < ROUNDING
    found = _between(retention, plans, plans.tokens_spec, least_stage, 0.0)
    return found.beside(_between(retention, plans.rows(fewest), np.zeros(int(fewest.sum())), least_stage, 1.0))


def _between(retention: Retention, plans: Plans, line: Any, least_stage: float, falls: float) -> Plans:
    """Return such plans between neighbours on lines along which specialist tokens fall by `falls` per additional general token."""
    assert plans.replay is not None
    order = np.lexsort((plans.tokens_pt, line, plans.size))
    lower, upper = order[:-1], order[1:]
    neighbours = (plans.size[lower] == plans.size[upper]) & (line[lower] == line[upper]) & (plans.tokens_pt[lower] > 0)
    most = retention.replays[-1]
    found = []
    for share in sorted({most, *(share for share in SHARES if share < most)}):
        with np.errstate(invalid="ignore"):
            between = np.flatnonzero(neighbours & (plans.replay[lower] <= share) & ~(plans.replay[upper] <= share))
        found.append((between, np.full(len(between), share)))
    rows, shares = (np.concatenate(column) for column in zip(*found, strict=True))
    made, high = plans.rows(lower[rows]), plans.tokens_pt[upper[rows]]
    low = made.tokens_pt
    for _ in range(HALVINGS if len(rows) else 0):
        middle = np.sqrt(low * high)
        keeps = retention.keeps(_with_general_tokens(made, middle, falls), shares, least_stage)
        low, high = np.where(keeps, middle, low), np.where(keeps, high, middle)
    return replace(_with_general_tokens(made, low, falls), replay=shares).rows(np.flatnonzero(low > made.tokens_pt))


def _with_general_tokens(plans: Plans, tokens_pt: Any, falls: float) -> Plans:
    """Change the general tokens of plans, and the specialist tokens along the line."""
    return replace(plans, tokens_pt=tokens_pt, tokens_spec=plans.tokens_spec - falls * (tokens_pt - plans.tokens_pt), replay=None)
