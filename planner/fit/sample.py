"""The rows by which laws are chosen: a few thousand rank laws as well as all do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.data import FitData
from planner.laws import Points

MOST_ROWS = 5000
"""Most rows at random: fitted to these, a law of 13 parameters is off by a twentieth of a run's scatter. A fit with a choice among two-stage laws took
173 CPU-s by all of 20,000 rows, 54 by these."""
RARE = 50
"""Of every kind of rows at least `MOST_ROWS` / `RARE` are drawn, or all there are: of 19,378 rows, 16 of them with a specialist stage, 5,000 random ones
held 4 of those 16, and a law was chosen by the other rows."""


@dataclass(frozen=True)
class Sample:
    """Rows of a table, drawn at random where they are many."""

    drawn: Any
    """Boolean mask of the table's rows, shape (runs,)."""
    points: Points
    """Where the drawn runs are; N0 and D0 are those of all rows, so that parameters keep their meaning."""
    log_loss: Array
    """Their ln L, shape (drawn,)."""

    @classmethod
    def of(cls, data: FitData, seed: int) -> Sample:
        """Draw up to `MOST_ROWS` rows, then fill up rare kinds: rows within a factor of two of each other on an axis, or without tokens of a stage.

        Args:
            data: the table.
            seed: of the draw; the same runs under another convention of N give the same ones.
        """
        if data.count <= MOST_ROWS:
            return cls(np.ones(data.count, dtype=bool), data.points(data.reference), data.log_loss)
        place = np.random.default_rng([seed, 6]).permutation(data.count)
        drawn = place < MOST_ROWS
        replay = np.zeros(data.count) if data.replay_fraction is None else data.replay_fraction
        for values in (data.params_by["non_embedding"], data.tokens_pt, data.tokens_spec, data.unique_spec, data.epochs, replay):
            kinds = np.round(np.log2(np.where(values > 0, values, 2.0**-99)))
            for kind in np.unique(kinds[~drawn]):
                rows = np.flatnonzero(kinds == kind)
                drawn[rows[np.argsort(place[rows])[: MOST_ROWS // RARE]]] = True
        part = data.rows(drawn)
        return cls(drawn, part.points(data.reference), part.log_loss)

    @property
    def whole(self) -> bool:
        """Whether it is all rows."""
        return bool(self.drawn.all())
