"""Sizes that could be trained, and plans of many sizes as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from planner.allocate.replay_cost import cost
from planner.arrays import Array
from planner.flops import TRAINING_OVER_FORWARD
from planner.ladder import shape_for
from planner.method import Method
from planner.shapes import ModelShape


@dataclass(frozen=True)
class Size:
    """A model that could be trained."""

    params_non_embedding: float
    params_total: float | None
    """With embeddings; None if the law comes from a table without a recipe."""
    flops_per_token: float
    """Training FLOPs of a token in the general stage, exact for a shape, else 6·N."""
    shape: ModelShape | None
    """None if the law comes from a table without a recipe."""
    spec_cost: float = 1.0
    """FLOPs of a token of the specialist stage divided by those of a general one: adapters differ in cost from full training."""
    training_over_forward: float = TRAINING_OVER_FORWARD
    """FLOPs of a general token divided by those of a token that the trained model reads or writes, which needs all weights whatever was trained."""

    def flops_inference(self, tokens: float) -> float:
        """Return the FLOPs of reading and writing some tokens."""
        return tokens * self.flops_per_token / self.training_over_forward


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
    replay: Array | None = None
    """Share of general text in the specialist stage; NaN if no share keeps the limit on the general loss, None without a limit."""

    @property
    def added(self) -> Array:
        """What replay adds to ln L; infinite for a plan that exceeds the limit."""
        return np.zeros(len(self)) if self.replay is None else np.nan_to_num(cost(self.replay), nan=np.inf)

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
        token, spec_cost = (np.array(values)[self.size] for values in zip(*((size.flops_per_token, size.spec_cost) for size in self.sizes), strict=True))
        result: Array = (self.tokens_pt + spec_cost * self.tokens_spec) * token
        return result

    def rows(self, chosen: Any) -> Plans:
        """Return some of the plans, by a mask or by number."""
        every = (self.size, self.params, self.tokens_pt, self.tokens_spec, self.unique_spec)
        size, params, pt, spec, unique = (values[chosen] for values in every)
        return Plans(size, params, pt, spec, unique, self.sizes, None if self.replay is None else self.replay[chosen])

    def beside(self, other: Plans) -> Plans:
        """Append other plans with the same `sizes`."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("size", "params", "tokens_pt", "tokens_spec", "unique_spec")]
        size, params, pt, spec, unique = (np.concatenate(pair) for pair in pairs)
        replay = None if self.replay is None or other.replay is None else np.concatenate([self.replay, other.replay])
        return Plans(size, params, pt, spec, unique, self.sizes, replay)

    def __len__(self) -> int:
        return len(self.params)


@lru_cache(maxsize=32768)
def shaped(params_non_embedding: float, family: str, vocab: int, seq_len: int, method: Method) -> Size:
    """Realise a size as the nearest shape."""
    return sized(shape_for(params_non_embedding, family=family, vocab=vocab), seq_len, method)


@lru_cache(maxsize=32768)
def sized(shape: ModelShape, seq_len: int, method: Method) -> Size:
    """Describe a shape that is trained by a method as a size."""
    full, general, special = (way.flops_per_token(shape, seq_len) for way in (Method(), method.general, method))
    return Size(shape.params_non_embedding, shape.params_total, general, shape, special / general, TRAINING_OVER_FORWARD * (general / full))
