"""The rows by which laws are chosen: what a law is worth shows on some thousands as well as on all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.fit.data import FitData
from planner.laws import Points
from planner.laws.dual import Array

MOST = 5000
"""Rows, at most: a law of 13 parameters errs on so many by a twentieth of what a run scatters. By all of 100,000 a choice among two-stage laws took
about 20 minutes."""


@dataclass(frozen=True)
class Sample:
    """Rows of a table, drawn at random where they are many."""

    drawn: Any
    """Boolean mask of the table's rows, shape (runs,)."""
    points: Points
    """Where the drawn runs are; N0 and D0 are those of all rows, so that parameters mean the same."""
    log_loss: Array
    """Their ln L, shape (drawn,)."""

    @classmethod
    def of(cls, data: FitData, seed: int) -> Sample:
        """Draw up to `MOST` rows.

        Args:
            data: the table.
            seed: of the draw; tables of as many rows give the same ones.
        """
        drawn = np.random.default_rng([seed, 6]).permutation(data.count) < MOST
        part = data if drawn.all() else data.rows(drawn)
        return cls(drawn, part.points(data.reference), part.log_loss)

    @property
    def whole(self) -> bool:
        """Whether it is all rows."""
        return bool(self.drawn.all())
