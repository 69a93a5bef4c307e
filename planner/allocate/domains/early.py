"""What a domain's own text is worth inside one model of the whole mix, where sweeps have measured early specialist text.

A mixed model is then treated as split training from a trunk of its general text, with every domain's own tokens multiplied by that worth. The other
domains' text counts for nothing in the forecast; the interval includes the loss if that text counted as general text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.allocate.domains.found import Found
from planner.allocate.domains.request import Domain
from planner.arrays import Array


@dataclass(frozen=True)
class MixWorth:
    """Worth of a token of a domain's own text in a mix, in tokens of a specialist stage; arrays have shape (domains,)."""

    value: Array
    low: Array
    high: Array
    """90 % interval."""
    off: Array
    """Scatter around their law of the runs that it was fitted to, in ln L."""
    measured: tuple[bool, ...]
    """Whether it comes from the domain's own law; else from the laws that have measured it."""
    greatest: float
    """Largest share of early text in any run."""

    def covers(self, found: Found) -> bool:
        """Whether every law has measured the worth, at shares of early text as large as the plan's: it does not carry to larger ones."""
        special = float(found.tokens_spec.sum())
        return all(self.measured) and special <= self.greatest * (found.tokens_general + special)

    @classmethod
    def of(cls, domains: Sequence[Domain]) -> MixWorth | None:
        """Collect what the laws have measured; None if none has."""
        laws = [domain.law.early for domain in domains]
        known = [early for early in laws if early is not None]
        if not known:
            return None
        ends = np.array([early.interval for early in known])
        others = np.mean([early.worth for early in known]), ends[:, 0].min(), ends[:, 1].max(), max(early.off_percent for early in known)
        rows = np.array([others if early is None else (early.worth, *early.interval, early.off_percent) for early in laws])
        greatest = max(early.high for early in known)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] / 100, tuple(early is not None for early in laws), greatest)
