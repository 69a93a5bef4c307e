"""The least share with which each of many rows keeps a limit, searched between the last of some shares that fails and the first that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.arrays import Array

PARTS = 1000
"""Resolution of shares, 1 / PARTS: a stage is planned with 41.3 % of replay, not with 41.27 %."""
AT_ONCE = 4000
"""Most evaluations in one call: a call has a fixed cost, however few they are."""
HALVED = 3
"""Every HALVED-th try is at the middle between the ends."""


def least_share(over: Callable[[Any, Array], Array], shares: Sequence[float], most: Array, closely: bool = True) -> Array:
    """Return the least share with which each row keeps the limit, NaN if none does, shape (rows,).

    Args:
        over: from the numbers of some rows and a share for each to the excess over the limit; 0 or less keeps it.
        shares: to try, ascending; a row that keeps the limit with none of them, nor with its greatest share, gets NaN.
        most: the greatest allowed share of each row, below 0 if not even a share of 0 is allowed, shape (rows,).
        closely: whether to search between the shares, or to return the first of them that keeps the limit.
    """
    last = np.floor(np.clip(most, -1.0, 1.0) * PARTS + 1e-9).astype(int)
    ends = _Ends(over, last)
    parts, rows = np.array([round(share * PARTS) for share in shares]), np.flatnonzero(last >= 0)
    if len(rows) * len(parts) <= AT_ONCE:
        ends.ask_all(rows, np.minimum(parts[:, None], last[rows]))
    else:
        for part in parts:
            rows = np.flatnonzero((ends.keeps < 0) & (ends.fails < last))
            if len(rows):
                ends.ask(rows, np.minimum(part, last[rows]))
    tries = 0
    while closely and len(rows := np.flatnonzero(ends.keeps - ends.fails > 1)):
        low, high = ends.fails[rows], ends.keeps[rows]
        if len(rows) * (high - low).max() <= AT_ONCE:
            ends.ask_all(rows, np.minimum(low + np.arange(1, (high - low).max())[:, None], high - 1))
            break
        # Regula falsi, with the middle at times, since on a curved function it converges from one end only.
        ends.ask(rows, ends.between(rows, by_line=tries % HALVED != HALVED - 1))
        tries += 1
    return np.where(ends.keeps >= 0, ends.keeps / PARTS, np.nan)


class _Ends:
    """For each row the last share (in parts) that fails and the first that keeps, -1 for none, and their excess over the limit."""

    def __init__(self, over: Callable[[Any, Array], Array], last: Any) -> None:
        self._over = over
        self.fails, self.keeps = np.full(len(last), -1), np.full(len(last), -1)
        self._above, self._below = np.full(len(last), np.nan), np.full(len(last), np.nan)

    def ask(self, rows: Any, part: Any) -> None:
        """Evaluate one share for each row, in parts, and note whether it fails or keeps."""
        found = self._over(rows, part / PARTS)
        good = found <= 0
        for which, ends, values in ((good, self.keeps, self._below), (~good, self.fails, self._above)):
            ends[rows[which]], values[rows[which]] = part[which], found[which]

    def ask_all(self, rows: Any, parts: Any) -> None:
        """Evaluate several shares for each row at once, in parts, ascending, shape (shares, rows); note the first that keeps and the one before it."""
        if not parts.size:
            return
        found = self._over(np.tile(rows, len(parts)), parts.reshape(-1) / PARTS).reshape(parts.shape)
        good = found <= 0
        first = np.where(good.any(0), good.argmax(0), len(parts))
        for which, at, ends, values in ((first < len(parts), first, self.keeps, self._below), (first > 0, first - 1, self.fails, self._above)):
            some = np.flatnonzero(which)
            ends[rows[some]], values[rows[some]] = parts[at[some], some], found[at[some], some]

    def between(self, rows: Any, *, by_line: bool) -> Any:
        """Choose a share, in parts, between the ends of each row."""
        low, high, way = self.fails[rows], self.keeps[rows], np.full(len(rows), 0.5)
        if by_line:
            with np.errstate(invalid="ignore"):
                way = self._above[rows] / (self._above[rows] - self._below[rows])
            way = np.where(np.isfinite(way), way, 0.5)
        return np.clip(np.ceil(low + way * (high - low)).astype(int), low + 1, high - 1)
