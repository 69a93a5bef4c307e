"""Sizes that could be trained, and plans of many sizes as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.laws.dual import Array
from planner.shapes import ModelShape


@dataclass(frozen=True)
class Size:
    """A model that could be trained."""

    params_non_embedding: float
    params_total: float | None
    """With embeddings; None where the law comes from a table without a recipe."""
    flops_per_token: float
    """Training, exact for a shape, else 6·N."""
    shape: ModelShape | None
    """None where the law comes from a table without a recipe."""


@dataclass(frozen=True)
class Plans:
    """Plans as flat arrays, each of shape (plans,)."""

    size: Any
    """Number of the size in `sizes`."""
    params: Array
    """Non-embedding."""
    tokens_pt: Array
    tokens_spec: Array
    unique_spec: Array
    sizes: tuple[Size, ...]

    @property
    def share(self) -> Array:
        """Share of specialist tokens."""
        result: Array = self.tokens_spec / (self.tokens_pt + self.tokens_spec)
        return result

    @property
    def params_by(self) -> dict[str, Array]:
        """Parameters under each convention."""
        total = np.array([size.params_total or np.nan for size in self.sizes])[self.size]
        return {"non_embedding": self.params, "total": total}

    @property
    def flops(self) -> Array:
        """Training FLOPs."""
        result: Array = (self.tokens_pt + self.tokens_spec) * np.array([size.flops_per_token for size in self.sizes])[self.size]
        return result

    def rows(self, chosen: Array) -> Plans:
        """Return some of the plans, by a mask or by number."""
        every = (self.size, self.params, self.tokens_pt, self.tokens_spec, self.unique_spec)
        size, params, pt, spec, unique = (values[chosen] for values in every)
        return Plans(size, params, pt, spec, unique, self.sizes)

    def __len__(self) -> int:
        return len(self.params)


@lru_cache(maxsize=32768)
def shaped(params_non_embedding: float, family: str, vocab: int, seq_len: int) -> Size:
    """Realise a size as the nearest shape."""
    return sized(shape_for(params_non_embedding, family=family, vocab=vocab), seq_len)


@lru_cache(maxsize=32768)
def sized(shape: ModelShape, seq_len: int) -> Size:
    """Describe a shape as a size."""
    return Size(shape.params_non_embedding, shape.params_total, flops_per_token(shape, seq_len), shape)
