"""The result of a search for many domains, and the names of the structures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array

SPLIT, INDEPENDENT, MIXED = "split training", "independent models", "one mixed model"


@dataclass(frozen=True)
class Found:
    """A plan for all domains, as a search returns it; arrays have shape (domains,)."""

    name: str
    size: Any
    """Numbers of sizes in the ladder."""
    tokens_pt: Array
    """General tokens that the domain's model has seen; in a mixed model, all tokens that count as general."""
    tokens_spec: Array
    tokens_general: float
    """General tokens of the trunk or of the mixed model; of all models together if each domain has its own."""
    flops: Array
    """FLOPs of each domain's own training: its branch, its model, or its part of the mix."""
    flops_general: float
    """FLOPs of the trunk, or of the general text of the mix."""
    replay: Array | None = None
    """Shares of replayed general text in the specialist stages; None without replay."""

    @property
    def plan(self) -> tuple[Any, Array, Array, Array]:
        """Return what the losses depend on: sizes, general and specialist tokens, shares of replay."""
        return self.size, self.tokens_pt, self.tokens_spec, self.shares

    @property
    def shares(self) -> Array:
        """Return shares of replay, 0 if there is none."""
        return np.zeros(len(self.tokens_spec)) if self.replay is None else self.replay

    @property
    def replayed(self) -> Array:
        """Replayed general tokens in the specialist stages, which are included in `tokens_pt`."""
        return self.tokens_spec * self.shares / (1 - self.shares)

    def tokens_of(self, price: Array) -> Array:
        """Return the tokens of each domain's own training: its branch, its model, its part of a mix, or a cooldown of the trunk.

        Args:
            price: training FLOPs of a general token, shape (domains,).
        """
        if self.name == INDEPENDENT:
            return self.tokens_pt + self.tokens_spec
        return np.where(self.tokens_spec > 0, self.tokens_spec + self.replayed, self.flops / price)

    @property
    def total_flops(self) -> float:
        """Return the FLOPs of all training."""
        return float(self.flops.sum()) + self.flops_general
