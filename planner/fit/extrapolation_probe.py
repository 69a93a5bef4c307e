"""Hypothetical runs beyond the most expensive ones, at which laws are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.arrays import Array
from planner.fit.data import FitData
from planner.fit.estimate import Estimate
from planner.fit.support import Support
from planner.laws import Points, Reference

FACTOR = 2.0
"""Factor in size and in tokens."""
DEAREST = 0.75
"""Quantile of the FLOPs from which a run is among the most expensive."""


@dataclass(frozen=True)
class ExtrapolationProbe:
    """The most expensive runs, made larger."""

    runs: FitData
    """The larger runs; their losses are those of the runs that they are made from."""
    distance: Array
    """How far they lie outside all runs [log units], shape (runs,)."""

    @classmethod
    def of(cls, data: FitData, *, repeated: bool = False) -> ExtrapolationProbe:
        """Double size, general, specialist and distinct tokens of the most expensive quarter of the runs.

        Args:
            data: the runs.
            repeated: whether to double only the specialist tokens instead, as twice the passes over the same text.
        """
        dear = data.rows(data.flops >= np.quantile(data.flops, DEAREST))
        more = 1.0 if repeated else FACTOR
        sizes = {kind: more * values for kind, values in dear.params_by.items()}
        general, special, unique = more * dear.tokens_pt, FACTOR * dear.tokens_spec, more * dear.unique_spec
        larger = replace(dear, params_by=sizes, tokens_pt=general, tokens_spec=special, unique_spec=unique)
        distance = Support.of(data).distance(sizes["non_embedding"], general, special, unique)
        return cls(larger, distance)

    def log_loss(self, estimate: Estimate, params_kind: str, reference: Reference) -> Array:
        """Forecast ln L of them, shape (runs,); NaN where the law cannot be computed so far out."""
        return log_loss_there(estimate, self.runs.under(params_kind).points(reference))


def log_loss_there(estimate: Estimate, points: Points) -> Array:
    """Forecast ln L at points beyond the runs of a fit, shape (points,); NaN where the law cannot be computed so far out."""
    try:
        with np.errstate(all="ignore"):
            return estimate.log_loss(points)
    except Exception:  # a user's formula may raise anything
        return np.full(points.count, np.nan)
