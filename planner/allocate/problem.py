"""What is asked of the allocator, and the plans that a budget allows: every size at hand times every amount of specialist text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from planner.allocate.request import Request
from planner.design.spec import MIN_STEPS, MIN_TOKENS_PER_PARAMETER
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.flops import TRAINING_OVER_FORWARD, flops_per_token
from planner.ladder import LARGEST, SMALLEST, shape_for
from planner.laws.dual import Array
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.units import format_count

SIZES = 48
SPAN = 3000.0
"""How far below the largest sensible size the search begins."""


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

    def __len__(self) -> int:
        return len(self.params)


@dataclass(frozen=True)
class Problem:
    """A request under a law: sizes, costs and limits."""

    law: FittedLaw
    request: Request
    recipe: Recipe | None
    vocab: int | None

    @classmethod
    def of(cls, law: FittedLaw, request: Request) -> Problem:
        """Make a problem; recipe and vocabulary are those that the law was measured with."""
        for member in law.members:
            if member.law.target != "spec":
                raise InputError(f"the law {member.law.name} is of the {member.law.target} loss", remedy="give a law of the specialist loss")
            if member.law.repeats:
                raise InputError(
                    f"the law {member.law.name} is of one corpus and its repeats, and knows no general stage",
                    remedy="give a law of two stages, or of one without repeats",
                )
        recipe = law.source.get("recipe")
        if not recipe and any(member.params_kind == "total" for member in law.members):
            raise InputError(
                "the law counts embeddings in N, and without a recipe no size's embeddings are known", remedy="fit with --params-kind non_embedding"
            )
        return cls(law, request, Recipe.from_mapping(recipe) if recipe else None, law.source.get("vocab_size"))

    @property
    def max_tokens_spec(self) -> float:
        """Most specialist tokens with repeats; none where the law does not know them."""
        return 0.0 if self.one_stage else self.max_epochs * self.request.unique_spec

    @property
    def one_stage(self) -> bool:
        """Whether the law knows only sizes and tokens."""
        return self.law.members[0].law.stages == 1

    @property
    def max_epochs(self) -> float:
        """Most passes."""
        return self.request.max_epochs or max(1.0, self.law.support.high["epochs_spec"])

    @property
    def min_tokens_per_param(self) -> float:
        """Least tokens per parameter of a size that is searched: what the runs cover, since the law has not seen shorter ones."""
        return max(MIN_TOKENS_PER_PARAMETER, self.law.support.low["tokens_per_param"])

    @property
    def min_tokens_stage(self) -> float:
        """Least tokens of a stage that is more than a transient."""
        return MIN_STEPS * self.recipe.tokens_per_step if self.recipe else 0.0

    def size(self, params_non_embedding: float) -> Size:
        """Realise a size."""
        if self.recipe is None or self.vocab is None:
            return Size(params_non_embedding, None, 6.0 * params_non_embedding, None)
        # A realised size may lie just outside the ladder that it was asked from.
        asked = min(max(params_non_embedding, SMALLEST), LARGEST) if 0.9 * SMALLEST < params_non_embedding < 1.1 * LARGEST else params_non_embedding
        shape = shape_for(asked, family=self.recipe.family, vocab=self.vocab)
        return Size(shape.params_non_embedding, shape.params_total, flops_per_token(shape, self.recipe.seq_len), shape)

    def tokens(self, size: Size) -> float:
        """Return the training tokens that the budget gives a size, once its inference is paid; negative where that takes more than all."""
        return self.request.flops / size.flops_per_token - self.request.inference_tokens / TRAINING_OVER_FORWARD

    def tokens_at(self, size: Size, share: float) -> float:
        """Return the training tokens of a size at a share of specialist tokens, which the general text may limit further."""
        general = self.request.general_tokens or math.inf
        return min(self.tokens(size), general / (1 - share) if share < 1 else math.inf)

    def sizes(self) -> tuple[Size, ...]:
        """List the sizes to search: those asked for, or a ladder down from where tokens per parameter would be too few.

        Raises:
            DataError: the budget is too small for the sizes asked for, or for any.
        """
        asked = (self.request.params,) if self.request.params is not None else self.request.params_among
        if asked:
            sizes = [self.size(params) for params in asked]
            trainable = [size for size in sizes if self.tokens(size) >= max(MIN_TOKENS_PER_PARAMETER * size.params_non_embedding, self.min_tokens_stage)]
            if not trainable:
                self._refuse(min(sizes, key=lambda size: size.params_non_embedding))
            return tuple(trainable)
        least, most = self._range()
        found: dict[Any, Size] = {}
        for value in np.geomspace(least, most, SIZES):
            size = self.size(float(value))
            if self.tokens(size) >= max(self.min_tokens_per_param * size.params_non_embedding, self.min_tokens_stage):
                found[size.shape or size.params_non_embedding] = size
        if not found:
            self._refuse(self.size(least))
        return tuple(found.values())

    def _range(self) -> tuple[float, float]:
        """Return the least and the largest size to search."""
        most = math.sqrt(self.request.flops / (6 * self.min_tokens_per_param))
        least = most / SPAN
        if self.recipe is not None:
            least, most = max(least, SMALLEST), min(most, LARGEST)
        if self.request.params_range:
            low, high = self.request.params_range
            most = max(low, min(most, high))
            least = min(most, max(least, low))
        return least, max(least, most)

    def _refuse(self, size: Size) -> NoReturn:
        """Say that the budget is too small for a size, the smallest there is, and what budget would do."""
        inference = self.request.inference_tokens / TRAINING_OVER_FORWARD
        paid = f", {inference * size.flops_per_token:.2g} of them for inference," if inference else ""
        needed = max(MIN_TOKENS_PER_PARAMETER * size.params_non_embedding, self.min_tokens_stage)
        raise DataError(
            f"{self.request.flops:.3g} FLOPs{paid} are too few to train {format_count(size.params_non_embedding)} parameters",
            remedy=f"give at least {(needed + inference) * size.flops_per_token:.2g} FLOPs or a smaller --params",
        )

    def plans(self, sizes: tuple[Size, ...], fractions: Array) -> Plans:
        """Cross sizes with fractions of the specialist tokens that they could take, with none, and with what a grid misses: one pass, the shortest stage.

        Args:
            sizes: the sizes.
            fractions: of the most specialist tokens that budget and passes allow, each in (0, 1].
        """
        rows: list[tuple[int, float, float]] = []
        general_tokens = self.request.general_tokens or math.inf
        for number, size in enumerate(sizes):
            total = self.tokens(size)
            rows.append((number, min(total, general_tokens), 0.0))
            most = min(total, self.max_tokens_spec)
            for spec in (*(fraction * most for fraction in fractions), min(self.min_tokens_stage, most), min(self.request.unique_spec, most)):
                general = min(total - spec, general_tokens) if total - spec > 1e-9 * total else 0.0
                if spec > 0 and spec >= self.min_tokens_stage and (general == 0 or general >= self.min_tokens_stage):
                    rows.append((number, general, spec))
        return self._make(rows, sizes)

    def split(self, sizes: tuple[Size, ...], share: float) -> Plans:
        """Return the plans with one share of specialist tokens; sizes for which it would take too many passes are left out."""
        rows = []
        for number, size in enumerate(sizes):
            total = self.tokens_at(size, share)
            if share * total <= self.max_tokens_spec and (share == 0 or share * total >= self.min_tokens_stage):
                rows.append((number, (1 - share) * total, share * total))
        return self._make(rows, sizes)

    def realise(self, size: Size, tokens_pt: float, tokens_spec: float) -> Plans:
        """Round one plan to what will be trained: whole optimiser steps of the recipe."""
        if self.recipe is not None:
            step = self.recipe.tokens_per_step
            tokens_pt, tokens_spec = self.recipe.steps(tokens_pt) * step, self.recipe.steps(tokens_spec) * step
        else:
            tokens_pt, tokens_spec = round(tokens_pt), round(tokens_spec)
        return self._make([(0, float(tokens_pt), float(tokens_spec))], (size,))

    def _make(self, rows: list[tuple[int, float, float]], sizes: tuple[Size, ...]) -> Plans:
        number = np.array([row[0] for row in rows], dtype=int)
        params = np.array([sizes[row[0]].params_non_embedding for row in rows], dtype=float)
        pt, spec = np.array([row[1] for row in rows], dtype=float), np.array([row[2] for row in rows], dtype=float)
        return Plans(number, params, pt, spec, np.full(len(rows), float(self.request.unique_spec)), sizes)
