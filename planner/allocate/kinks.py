"""Under a limit on the general loss: the plans between those of a grid that just keep it with a share of replay at which what replay costs bends.

After more general tokens there is more to lose, so that for one size and one amount of specialist text the best plan often has as many general tokens
as such a share lets it have. A grid of general tokens steps over them, and its best plan then depends on where its steps happen to lie. So it does of
plans with as few tokens as a size may have, in which more general tokens are fewer specialist ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from planner.allocate.plans import Plans
from planner.allocate.replay_cost import SHARES
from planner.allocate.retention import Retention

HALVINGS = 5
"""Of the step between two plans of a grid, in ln of the general tokens."""
ROUNDING = 1e-9
"""Share by which the tokens of a plan may differ from the fewest."""


def kinks(retention: Retention, plans: Plans, least_stage: float, shortest: float) -> Plans:
    """Return, between neighbours of a grid, the plans with the most general tokens that such shares let keep the limit.

    Neighbours are of one size, and of one amount of specialist text or of as few tokens in all as the size may have.

    Args:
        retention: the limit.
        plans: with the least replay that keeps it, in any order.
        least_stage: tokens that a general stage has at the least.
        shortest: tokens for each parameter that a plan has at the least.
    """
    fewest = np.abs((plans.tokens_pt + plans.tokens_spec) / (shortest * plans.params) - 1) < ROUNDING
    found = _between(retention, plans, plans.tokens_spec, least_stage, 0.0)
    return found.beside(_between(retention, plans.rows(fewest), np.zeros(int(fewest.sum())), least_stage, 1.0))


def _between(retention: Retention, plans: Plans, line: Any, least_stage: float, falls: float) -> Plans:
    """Return such plans between neighbours on a line each, along which specialist tokens fall so much for each general one more."""
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
    """Give plans other general tokens, and the specialist ones that go with them."""
    return replace(plans, tokens_pt=tokens_pt, tokens_spec=plans.tokens_spec - falls * (tokens_pt - plans.tokens_pt), replay=None)
