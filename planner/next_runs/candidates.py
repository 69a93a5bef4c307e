"""The cells that a design may choose from: a grid over sizes, general, specialist and distinct tokens, both ends included.

The rules of a sweep apply (minimum steps, minimum tokens per parameter, most passes), and one that a sweep leaves to the flags of the runs table: a run
has at least ten times the warm-up steps, since no fit uses shorter runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.design.cells import Cell, Grid
from planner.design.spec import MIN_STEPS, MIN_TOKENS_PER_PARAMETER, SweepSpec
from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import FitData
from planner.fit.fitted import FittedLaw
from planner.flags import WARMUP_MULTIPLE
from planner.flops import flops_per_token
from planner.ladder import LARGEST, SMALLEST, TOLERANCE, shape_for
from planner.next_runs.cost import TreeCost, numbered
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.units import format_count

DEAREST = 0.25
"""Largest share of the budget for one run, trained alone: otherwise one trunk would leave no runs to compare with."""
TOKENS_PER_PARAMETER = 10.0
"""Tokens per parameter that must be affordable at the largest size tried."""
SIZE_SPAN = 32.0
"""Factor from the smallest size tried to the largest."""
LEVELS = {"sizes": 7, "tokens_pt": 6, "tokens_spec": 6, "unique_spec": 5}
"""Number of values on each axis, without zero."""
ONE_STAGE = 12
"""Number of token counts if runs have one stage, so that fewer axes are crossed."""


@dataclass(frozen=True)
class Setting:
    """Recipe, corpus and limits of the runs."""

    recipe: Recipe
    vocab: int
    """Vocabulary of the tokenizer."""
    unique_available: float
    """Distinct specialist tokens that the corpus has."""
    max_epochs: float
    """Most passes over the distinct specialist tokens."""
    eval_tokens: int = SweepSpec.eval_tokens
    """Held-out tokens per domain evaluated at each endpoint."""
    seed: int = 0
    """Seed of the runs."""
    general: bool = True
    """Whether runs have a general stage; for a law of one corpus and its repeats they have none."""
    special: bool = True
    """Whether runs have a specialist stage; for a law of sizes and tokens only they have none."""

    @property
    def least_steps(self) -> int:
        """Steps of the shortest run that a fit uses."""
        return max(MIN_STEPS, WARMUP_MULTIPLE * self.recipe.warmup_steps)

    @property
    def least_tokens(self) -> int:
        """Tokens of the shortest run that a fit uses."""
        return self.least_steps * self.recipe.tokens_per_step

    def shape(self, size: float) -> ModelShape:
        """Return the ladder's shape for a size."""
        return shape_for(size, family=self.recipe.family, vocab=self.vocab)

    def flops_per_token(self, size: float) -> float:
        """Return the training FLOPs of a token at a size."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlannerWarning)
            return flops_per_token(self.shape(size), self.recipe.seq_len)


@dataclass(frozen=True)
class Candidates:
    """Cells, with the quantities that a law and a tree need."""

    cells: tuple[Cell, ...]
    setting: Setting

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def cost(self) -> TreeCost:
        """Return the cost of sets of the cells."""
        return TreeCost(self.cells, self.setting.recipe, self.setting.vocab, self.setting.eval_tokens)

    @cached_property
    def params_by(self) -> dict[str, Array]:
        """Parameters under each convention of N, each of shape (n,)."""
        shapes = [self.setting.shape(cell.size) for cell in self.cells]
        counts = {"non_embedding": [shape.params_non_embedding for shape in shapes], "total": [shape.params_total for shape in shapes]}
        return {kind: np.array(values, dtype=float) for kind, values in counts.items()}

    @cached_property
    def tokens(self) -> tuple[Array, Array, Array]:
        """General, specialist and distinct specialist tokens in whole steps, each of shape (n,); distinct ones NaN without a specialist stage."""
        recipe = self.setting.recipe
        general = np.array([recipe.steps(cell.tokens_pt) for cell in self.cells], dtype=float) * recipe.tokens_per_step
        special = np.array([recipe.steps(cell.tokens_spec) for cell in self.cells], dtype=float) * recipe.tokens_per_step
        unique = np.array([cell.unique_spec if cell.tokens_spec and cell.unique_spec else np.nan for cell in self.cells])
        return general, special, unique

    @cached_property
    def group(self) -> Any:
        """Number of each cell's group with common noise, shape (n,): its trunk, or from scratch its stem, as in the runs table."""
        return numbered([(cell.size, cell.seed, None if cell.tokens_pt else cell.unique_spec) for cell in self.cells])[0]

    @property
    def rows(self) -> FitData:
        """Return the cells as rows of a table, with losses of zero."""
        return FitData([""] * len(self), self.params_by, *self.tokens, np.zeros(len(self)), self.cost.alone, self.group, None)

    def subset(self, chosen: Any) -> Candidates:
        """Return the cells of a boolean mask."""
        return Candidates(tuple(cell for cell, taken in zip(self.cells, chosen, strict=True) if taken), self.setting)


def least_budget(setting: Setting) -> float:
    """Return the FLOPs below which not even a run of the least size and tokens is allowed."""
    return setting.least_tokens * setting.flops_per_token(1.02 * SMALLEST) / DEAREST


def candidates(
    setting: Setting, flops: float, *, unique_target: float, smallest: float = 0.0, sizes: Sequence[float] | None = None,
    tokens_pt: Sequence[float] | None = None, tokens_spec: Sequence[float] | None = None, unique_spec: Sequence[float] | None = None,
) -> Candidates:  # fmt: skip
    """Cross the axes and keep the cells that the rules of a sweep and the budget allow.

    Args:
        setting: recipe, corpus and limits.
        flops: the budget; no single run may take more than `DEAREST` of it.
        unique_target: distinct specialist tokens of the target; included in the values tried if the corpus has as many.
        smallest: least size to try by default, if the budget pays for one twice as large [non-embedding parameters].
        sizes: non-embedding parameters to try, by default spread below the largest that the budget pays for.
        tokens_pt: general tokens to try.
        tokens_spec: specialist tokens to try.
        unique_spec: distinct specialist tokens to try.

    Raises:
        DataError: the budget pays for no run, or the rules leave no cell; the message names the least budget that works.
    """
    dearest = DEAREST * flops
    if (least := least_budget(setting)) > flops:
        raise DataError(f"{flops:.3g} FLOPs pay for no run that a fit could use", remedy=f"give at least {least:.2g} FLOPs")
    step = setting.recipe.tokens_per_step
    chosen_sizes = list(sizes) if sizes else _sizes(setting, dearest, smallest)
    middle = float(np.exp(np.log(chosen_sizes).mean()))
    most = max(dearest / setting.flops_per_token(middle), 2 * setting.least_tokens)
    passes = setting.max_epochs * setting.unique_available
    whole = max(setting.least_tokens, MIN_TOKENS_PER_PARAMETER * min(chosen_sizes))
    if setting.general and setting.special:  # either stage may be much shorter than the run
        shortest = max(MIN_STEPS * step, 0.1 * whole)
        general = [0.0, *_spread(0.5 * whole, most, LEVELS["tokens_pt"], step)]
        special = [0.0, *_spread(shortest, min(most, passes), LEVELS["tokens_spec"], step)]
    else:
        general = _spread(whole, most, ONE_STAGE, step) if setting.general else [0.0]
        special = _spread(whole, min(most, passes), ONE_STAGE, step) if setting.special else [0.0]
    general = list(tokens_pt) if tokens_pt and setting.general else general
    special = list(tokens_spec) if tokens_spec and setting.special else special
    distinct = list(unique_spec) if unique_spec else _distinct(setting, special, unique_target) if setting.special else [unique_target]
    grid = Grid(tuple(chosen_sizes), tuple(general), tuple(special), tuple(distinct), (setting.seed,))
    name = "next"
    spec = SweepSpec(name, Path(), Path(), None, (grid,), setting.recipe, max_flops_per_run=dearest, max_epochs=setting.max_epochs)
    try:
        cells, _ = spec.cells(setting.vocab, setting.unique_available)
    except InputError as error:
        what = f"no candidate can be trained with {flops:.3g} FLOPs: {error.message}"
        raise DataError(what, remedy="give more FLOPs, or other sizes and tokens") from error
    return long_enough(cells, setting)


def least_size(law: FittedLaw) -> float:
    """Return the least size of runs to add to those of a law: the geometric mean of its smallest and largest size.

    Smaller runs are cheap, but inform about a large model only if the law's form holds, which is what larger runs would test.
    """
    return math.sqrt(law.support.low["params"] * law.support.high["params"])


def long_enough(cells: Sequence[Cell], setting: Setting) -> Candidates:
    """Keep the cells that a fit uses: those with at least ten times the warm-up steps.

    Raises:
        DataError: there are none.
    """
    kept = tuple(cell for cell in cells if setting.recipe.steps(cell.tokens_pt) + setting.recipe.steps(cell.tokens_spec) >= setting.least_steps)
    if not kept:
        raise DataError(
            f"no run has the {format_count(setting.least_tokens)} tokens that a fit needs (ten times the warm-up)",
            remedy="give more FLOPs or tokens, or a recipe with a shorter warm-up",
        )
    return Candidates(kept, setting)


def _sizes(setting: Setting, dearest: float, smallest: float) -> list[float]:
    """Spread sizes below the largest that one run can afford with TOKENS_PER_PARAMETER, rounded unless the ladder's shape is too far from that."""
    tried = np.geomspace(1.02 * SMALLEST, LARGEST, 400)
    tokens = np.maximum(TOKENS_PER_PARAMETER * tried, setting.least_tokens)
    affordable = [size for size, count in zip(tried, tokens, strict=True) if count * setting.flops_per_token(float(size)) <= dearest]
    largest = max(affordable, default=1.02 * SMALLEST)
    found: dict[ModelShape, float] = {}
    least = max(largest / SIZE_SPAN, min(smallest, largest / 2), 1.02 * SMALLEST)
    for size in np.geomspace(least, largest, LEVELS["sizes"]):
        rounded = max(float(f"{size:.2g}"), SMALLEST)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlannerWarning)
            shape = setting.shape(rounded)
        if abs(shape.params_non_embedding / rounded - 1) > TOLERANCE:
            rounded = float(shape.params_non_embedding)
        if rounded >= SMALLEST:
            found.setdefault(shape, rounded)
    return list(found.values())


def _distinct(setting: Setting, special: Sequence[float], target: float) -> list[float]:
    """Spread distinct tokens from a few passes in the shortest stage to all available, including the target's own amount."""
    positive = [tokens for tokens in special if tokens > 0] or [target]
    high = min(setting.unique_available, max(positive))
    low = min(min(positive) / min(4.0, setting.max_epochs), high)
    found = [float(f"{value:.3g}") for value in np.geomspace(low, high, LEVELS["unique_spec"])]
    found = [min(value, setting.unique_available) for value in found]
    if low < target <= high:
        # Replace the nearest value: close neighbours add little.
        found[int(np.argmin([abs(math.log(value / target)) for value in found]))] = target
    return sorted(set(found))


def _spread(low: float, high: float, count: int, step: int) -> list[float]:
    """Return geometrically spaced values in whole steps."""
    if high <= low:
        return [float(max(1, round(high / step)) * step)]
    return sorted({float(max(1, round(value / step)) * step) for value in np.geomspace(low, high, count)})


