"""Under a limit on the general loss: the plans between those of a grid that just keep it with a share of replay at which what replay costs bends.

After more general tokens there is more to lose, so that for one size and one amount of specialist text the best plan often has as many general tokens
as such a share lets it have. A grid of general tokens steps over them, and its best plan then depends on where its steps happen to lie.
"""

from __future__ import annotations

import numpy as np

from planner.allocate.plans import Plans
from planner.allocate.replay_cost import SHARES
from planner.allocate.retention import Retention

HALVINGS = 5
"""Of the step between two plans of a grid, in ln of the general tokens."""


def bends(retention: Retention, plans: Plans, least_stage: float) -> Plans:
    """Return, between neighbours of one size and amount of specialist text, the plans with the most general tokens that such shares let keep the limit.

    Args:
        retention: the limit.
        plans: with the least replay that keeps it, in any order.
        least_stage: tokens that a general stage has at the least.
    """
    assert plans.replay is not None
    order = np.lexsort((plans.tokens_pt, plans.tokens_spec, plans.size))
    lower, upper = order[:-1], order[1:]
    neighbours = (plans.size[lower] == plans.size[upper]) & (plans.tokens_spec[lower] == plans.tokens_spec[upper]) & (plans.tokens_pt[lower] > 0)
    most = retention.replays[-1]
    found = []
    for share in sorted({most, *(share for share in SHARES if share < most)}):
        with np.errstate(invalid="ignore"):
            between = np.flatnonzero(neighbours & (plans.replay[lower] <= share) & ~(plans.replay[upper] <= share))
        found.append((between, np.full(len(between), share)))
    rows, shares = (np.concatenate(column) for column in zip(*found, strict=True))
    made, high = plans.rows(lower[rows]), plans.tokens_pt[upper[rows]]
    low = made.tokens_pt
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        keeps = retention.keeps(made.with_general(middle), shares, least_stage)
        low, high = np.where(keeps, middle, low), np.where(keeps, high, middle)
    return made.with_general(low, shares).rows(np.flatnonzero(low > made.tokens_pt))
