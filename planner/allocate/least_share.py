"""The least share of something with which each of many rows keeps a limit: between the last of some shares that fails and the first that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.laws.dual import Array

PARTS = 1000
"""Shares are told apart to one in so many: a stage is planned with 41.3 % of replay, not with 41.27."""


def least_share(over: Callable[[Any, Array], Array], shares: Sequence[float], most: Array, closely: bool = True) -> Array:
    """Return the least share with which each row keeps the limit, not a number where none does, shape (rows,).

    Args:
        over: from the numbers of some rows and a share for each to by how much they pass the limit; at most 0 is kept.
        shares: to try, ascending. Where none of them keeps the limit none is found, unless the greatest that a row may have does.
        most: the greatest share that each row may have, below 0 for a row that may not even have none, shape (rows,).
        closely: whether to look between the shares, or to return the first of them that keeps the limit.
    """
    last = np.floor(np.clip(most, -1.0, 1.0) * PARTS + 1e-9).astype(int)
    fails, keeps = np.full(len(last), -1), np.full(len(last), -1)
    for share in shares:
        rows = np.flatnonzero((keeps < 0) & (fails < last))
        if len(rows):
            _try(over, rows, np.minimum(round(share * PARTS), last[rows]), fails, keeps)
    while closely and len(rows := np.flatnonzero(keeps - fails > 1)):
        _try(over, rows, (fails[rows] + keeps[rows]) // 2, fails, keeps)
    return np.where(keeps >= 0, keeps / PARTS, np.nan)


def _try(over: Callable[[Any, Array], Array], rows: Any, part: Any, fails: Any, keeps: Any) -> None:
    """Ask rows about a share each, in parts, and note whether it fails or keeps."""
    good = over(rows, part / PARTS) <= 0
    keeps[rows[good]], fails[rows[~good]] = part[good], part[~good]
