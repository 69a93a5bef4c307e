"""What a domain's own text is worth inside one model of the whole mix, where sweeps have measured early specialist text.

A mixed model is then read as split training off a trunk of its general text, with every domain's own tokens times that worth. The other domains'
text counts for nothing in the forecast; what it would be if that text counted as general text is let into the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.fit.level import Z
from planner.laws.dual import Array

if TYPE_CHECKING:
    from planner.allocate.domains.problem import DomainsProblem
    from planner.allocate.domains.stages import Found


SEVERAL = 0.04
"""How far two mixes of three domains came out from such forecasts, in ln L, root mean square (0.7 and 5.2 %: sweeps/three/NOTES.md)."""


@dataclass(frozen=True)
class MixWorth:
    """Worth of a token of a domain's own text in a mix, in tokens of a specialist stage; arrays have shape (domains,)."""

    value: Array
    low: Array
    high: Array
    """90 % interval."""
    off: Array
    """How far the runs that it was fitted to lie from their law, in ln L."""
    measured: tuple[bool, ...]
    """Whether the domain's own law has measured it; else it is that of the laws that have."""
    greatest: float
    """Share of early text that runs had at the most."""

    def covers(self, found: Found) -> bool:
        """Whether every law has measured the worth, and at shares of early text as great as the plan's: it does not carry to greater ones."""
        special = float(found.tokens_spec.sum())
        return all(self.measured) and special <= self.greatest * (found.tokens_general + special)

    @classmethod
    def of(cls, problem: DomainsProblem) -> MixWorth | None:
        """Collect what the laws have measured; None where no law has."""
        laws = [domain.law.early for domain in problem.request.domains]
        known = [early for early in laws if early is not None]
        if not known:
            return None
        ends = np.array([early.interval for early in known])
        others = np.mean([early.worth for early in known]), ends[:, 0].min(), ends[:, 1].max(), max(early.off_percent for early in known)
        rows = np.array([others if early is None else (early.worth, *early.interval, early.off_percent) for early in laws])
        greatest = max(early.high for early in known)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] / 100, tuple(early is not None for early in laws), greatest)


@dataclass(frozen=True)
class MixDoubt:
    """What a mix leaves open beyond what its laws do, in ln L; arrays have shape (domains,)."""

    worth: Array
    """Standard deviation by the worth, and by what mixing several domains does beside it: all domains go together."""
    off: Array
    """Standard deviation of a run about its law."""
    general: Array
    """Change if the other domains' text counted as general text; 0 where that would not lower the loss."""

    @classmethod
    def of(cls, problem: DomainsProblem, found: Found) -> MixDoubt:
        """Measure it at one plan; nothing where nothing is mixed."""
        mix, none = problem.mix, np.zeros(problem.count)
        if mix is None:
            return cls(none, none, none)

        def log_loss(worth: Array, pt: Array) -> Array:
            result = np.empty(problem.count)
            for law, members in problem.groups:
                params = {"non_embedding": problem.params[found.size[members]], "total": problem.params_total[found.size[members]]}
                spec = (worth * found.tokens_spec)[members]
                result[members] = law.log_loss(law.points(params, pt[members], spec, problem.unique[members]))
            return result

        others = found.tokens_pt + found.tokens_spec.sum() - found.tokens_spec
        worth = np.hypot((log_loss(mix.high, found.tokens_pt) - log_loss(mix.low, found.tokens_pt)) / (2 * Z), SEVERAL)
        general = np.minimum(log_loss(mix.value, others) - log_loss(mix.value, found.tokens_pt), 0.0)
        return cls(worth, mix.off, general)
