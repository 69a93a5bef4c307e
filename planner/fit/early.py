"""What a specialist token inside the general stage is worth, in tokens of the specialist stage.

A law is fitted to runs whose specialist text all comes after the general text. Specialist tokens inside the general stage count as tokens of a
specialist stage times one factor, the worth, which is fitted for each resample of the law: above 1 where mixing from the start teaches more than a
stage of its own, below 1 where it is partly forgotten. The distance of such runs from the law at that worth is kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.artifacts import check_numbers
from planner.fit.level import interval_of


@dataclass(frozen=True)
class Early:
    """The worth of early specialist tokens, under each resample of a law."""

    worth: float
    """Under the fitted parameters, mean over the members."""
    resamples: Array
    """Shape (resamples of all members,)."""
    off_percent: float
    """Root mean square distance of the runs from the law at that worth [% of the loss]."""
    rows: int
    """Runs it was fitted to."""
    low: float
    """Least share of early text among them."""
    high: float
    """Greatest share."""
    stages_off_percent: float | None = None
    """The same distance for runs with a specialist stage after the early text, which were not fitted; None without any."""

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 90 % interval of the worth over the resamples."""
        return interval_of(self.resamples)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "resamples": [float(f"{value:.6g}") for value in self.resamples]}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Early:
        """Read what `to_dict` returned; for use inside `artifacts.whole`.

        Raises:
            KeyError: something is missing.
            TypeError: a key that is not known.
            ValueError: a value that no fit has.
        """
        check_numbers(body, ("worth", "off_percent", "rows", "low", "high"), low=0.0, what="the early text")
        check_numbers(body, ("stages_off_percent",), low=0.0, optional=True, what="the early text")
        resamples = np.array(body["resamples"], dtype=float)
        if not (resamples.ndim == 1 and (resamples >= 0).all() and np.isfinite(resamples).all()):
            raise ValueError("resamples of the early text")
        return cls(**{**body, "resamples": resamples})
