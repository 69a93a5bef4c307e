"""The cost of adding a cell to a tree: only the steps that no other cell has paid for.

For each size and seed the trunk is as long as its longest user needs, each stem likewise, and every tip has its own cooldown. So the cost of a set of
cells is a sum of maxima, equal to `Tree.flops_total` of the tree built from them, evaluation included.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.design.cells import Cell
from planner.design.tree import cooldown_steps
from planner.flops import FORWARD_SHARE, flops_per_token
from planner.ladder import shape_for
from planner.recipe import Recipe


class TreeCost:
    """Costs of sets of cells, all taken from one list of n cells; a set is a boolean mask of shape (n,)."""

    def __init__(self, cells: Sequence[Cell], recipe: Recipe, vocab: int, eval_tokens: int) -> None:
        """Prepare the steps of every cell.

        Args:
            cells: the cells to choose from.
            recipe: of the runs.
            vocab: vocabulary of the tokenizer.
            eval_tokens: held-out tokens per domain evaluated at each endpoint.
        """
        count = len(cells)
        self.trunk, trunk_keys = numbered([(cell.size, cell.seed) for cell in cells])
        """Number of each cell's trunk, shape (n,)."""
        self.stem, stem_keys = numbered([(cell.size, cell.seed, recipe.steps(cell.tokens_pt), cell.unique_spec, cell.replay_fraction) for cell in cells])
        """Number of each cell's stem, shape (n,); a zero-shot cell has one of length zero."""
        self._trunks, self._stems = len(trunk_keys), len(stem_keys)
        self.need, self.stop, self.tip = np.zeros(count), np.zeros(count), np.zeros(count)
        token = np.array([flops_per_token(shape_for(cell.size, family=recipe.family, vocab=vocab), recipe.seq_len) for cell in cells])
        for number, cell in enumerate(cells):
            general = recipe.steps(cell.tokens_pt)
            if cell.tokens_spec == 0:
                self.tip[number] = cooldown_steps(recipe, general)
                self.need[number] = general - self.tip[number]
            else:
                special = recipe.steps(cell.tokens_spec / (1 - cell.replay_fraction))
                self.tip[number] = cooldown_steps(recipe, special)
                self.need[number], self.stop[number] = general, special - self.tip[number]
        self.per_step: Array = token * recipe.tokens_per_step
        """FLOPs of an optimiser step of each cell's size, shape (n,)."""
        self._evaluation = 2 * eval_tokens * FORWARD_SHARE * token
        self.alone: Array = self.per_step * (self.need + self.stop + self.tip) + self._evaluation
        """FLOPs of each cell trained by itself, evaluation included, shape (n,)."""

    def marginal(self, chosen: Any) -> Array:
        """Return the FLOPs that each cell would add to the tree of the chosen ones, shape (n,)."""
        trunk, stem = self._lengths(chosen)
        steps = np.maximum(self.need - trunk[self.trunk], 0) + np.maximum(self.stop - stem[self.stem], 0) + self.tip
        result: Array = self.per_step * steps + self._evaluation
        return result

    def total(self, chosen: Any) -> float:
        """Return the FLOPs of the tree of the chosen cells, evaluation included."""
        trunk, stem = self._lengths(chosen)
        per_trunk, per_stem = np.zeros(self._trunks), np.zeros(self._stems)
        per_trunk[self.trunk], per_stem[self.stem] = self.per_step, self.per_step
        return float(trunk @ per_trunk + stem @ per_stem + (self.per_step * self.tip + self._evaluation)[chosen].sum())

    def _lengths(self, chosen: Any) -> tuple[Array, Array]:
        """Return the steps of every trunk and every stem of the chosen cells."""
        trunk, stem = np.zeros(self._trunks), np.zeros(self._stems)
        np.maximum.at(trunk, self.trunk[chosen], self.need[chosen])
        np.maximum.at(stem, self.stem[chosen], self.stop[chosen])
        return trunk, stem


def numbered(keys: Sequence[Hashable]) -> tuple[Any, list[Hashable]]:
    """Number keys by their first appearance; return each one's number, shape (keys,), and the distinct keys."""
    distinct = list(dict.fromkeys(keys))
    number = {key: place for place, key in enumerate(distinct)}
    return np.array([number[key] for key in keys], dtype=int), distinct
