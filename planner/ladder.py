"""From a requested size to a shape: depth and width along a smooth ladder from 1e4 to 1e12 non-embedding parameters.

Width over depth rises from about 16 at 2e4 to about 130 at 1e11, as in published families (arXiv 2001.08361 finds loss nearly
flat in this ratio). Head width is 16, 32, 64 or 128; above 3e9 parameters eight key heads serve all query heads
(arXiv 2305.13245); the feed-forward width, near 8/3 of the hidden width (arXiv 2002.05202), takes up what rounding leaves over.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError, PlannerWarning
from planner.shapes import ModelShape

Array: TypeAlias = NDArray[np.float64]
BLOCK = 256
"""Consecutive sizes whose shapes are cached together, where a range has as many."""
AT_ONCE, MOST_BLOCKS = 32, 4096
"""Most blocks that are found together, and that are cached."""
FINE = 5e-4
"""Step in ln N up to which all shapes of a range are found, even those nearest to hardly more than one size."""
HIDDEN = 1e-5
"""Step in ln N below which no shape hides between two others."""
ASIDE = 1.06
"""A shape with exactly the requested size may be the nearest to another size only: it is looked for within this factor."""
SMALLEST = 1e4
LARGEST = 1e12
ROUNDING = 1e-12
GAP = 1.11
"""Upper limit of the factor between the sizes of any shape and the next."""
TOLERANCE = 0.05
"""Share by which the realised size may miss the request without a warning."""
_RATIOS = np.array([[4.0, 6.0, 8.0, 10.0, 12.0], [12.0, 34.0, 64.0, 110.0, 170.0]])
"""log10 of the size, and hidden width over layers; interpolated linearly in the logarithms."""
TIED_BELOW = 1e9
"""Size under which the output shares the embedding, unless stated otherwise [non-embedding parameters]."""
GROUPED_ABOVE = 3e9
"""Size from which eight key heads are shared by the query heads [non-embedding parameters]."""


def shape_for(params_non_embedding: float, *, family: str, vocab: int) -> ModelShape:
    """Return the shape nearest to a size, or the one of exactly that size, if the ladder has it.

    Args:
        params_non_embedding: requested size.
        family: "qwen3" or "llama".
        vocab: rows of the embedding table.

    Raises:
        InputError: the request is not a number from 1e4 to 1e12.
    """
    # A size computed as an exponential may lie outside by its last digit.
    if not (math.isfinite(params_non_embedding) and (1 - ROUNDING) * SMALLEST <= params_non_embedding <= (1 + ROUNDING) * LARGEST):
        raise InputError(
            f"a model of {params_non_embedding:g} non-embedding parameters is outside the ladder", remedy="ask for a size from 1e4 to 1e12"
        )
    shape = _nearest(float(params_non_embedding), family, vocab)
    miss = shape.params_non_embedding / params_non_embedding - 1
    if abs(miss) > TOLERANCE:
        warnings.warn(
            f"{params_non_embedding:.4g} non-embedding parameters were requested and the nearest {family} shape has "
            f"{shape.params_non_embedding:.4g} ({miss:+.1%})",
            PlannerWarning,
            stacklevel=2,
        )
    return shape


def shapes_at(sizes: Array, *, family: str, vocab: int) -> tuple[ModelShape, ...]:
    """Return the distinct shapes nearest to many sizes, in the order of the sizes; as `shape_for` one by one, and far quicker.

    Args:
        sizes: non-embedding parameters, each from 1e4 to 1e12.
        family: "qwen3" or "llama".
        vocab: rows of the embedding table.
    """
    return _distinct(_rows(sizes, family), family, vocab)


def shapes_between(low: float, high: float, step: float, *, family: str, vocab: int) -> tuple[ModelShape, ...]:
    """Return the distinct shapes nearest to two sizes and to sizes between them, in order; with a step up to `FINE`, to every size between them.

    The sizes between are whole multiples of the step in ln N, so that calls for overlapping ranges share cached shapes.

    Args:
        low: non-embedding parameters, from 1e4.
        high: the same, up to 1e12.
        step: in ln N.
        family: "qwen3" or "llama".
        vocab: rows of the embedding table.
    """
    first, last = math.ceil(math.log(low) / step), math.floor(math.log(high) / step)
    if last - first < BLOCK and step > FINE:
        return shapes_at(np.array([low, *np.exp(step * np.arange(first, last + 1)), high]), family=family, vocab=vocab)
    outer = _rows(np.array([low, high]), family)
    blocks = _blocks(step, range((first - 1) // BLOCK, last // BLOCK + 1), family)
    inside = [rows[(starts <= last) & (ends >= first)] for starts, ends, rows in blocks]
    return _distinct(np.vstack([outer[:1], *inside, outer[1:]]), family, vocab)


_known: dict[tuple[float, int, str], tuple[Any, Any, Any]] = {}
"""Blocks of shapes that were asked for before."""


def _blocks(step: float, numbers: range, family: str) -> list[tuple[Any, Any, Any]]:
    """Return, for each block of `BLOCK` consecutive steps, the first and the last step of each stretch of one shape, and the shapes as rows.

    Blocks that are not known yet are found together: it is the calls that take long, not their sizes.
    """
    if missing := [number for number in numbers if (step, number, family) not in _known]:
        if len(_known) > MOST_BLOCKS:
            _known.clear()
            missing = list(numbers)
        for first in range(missing[0], missing[-1] + 1, AT_ONCE):
            _known.update(_found(step, range(first, min(first + AT_ONCE, missing[-1] + 1)), family))
    return [_known[step, number, family] for number in numbers]


def _found(step: float, numbers: range, family: str) -> dict[tuple[float, int, str], tuple[Any, Any, Any]]:
    """Find successive blocks; see `_blocks`."""
    steps = np.arange(numbers.start * BLOCK, numbers.stop * BLOCK)
    rows = _rows(np.exp(step * steps), family)
    starts = np.flatnonzero(np.append(True, (rows[1:] != rows[:-1]).any(axis=1)) | (steps % BLOCK == 0))
    first, last, shapes = steps[starts], steps[np.append(starts[1:], len(steps)) - 1], rows[starts]
    if step <= FINE:
        sizes, hidden = _hidden(np.exp(step * np.append(steps, steps[-1] + 1)), family)
        after = np.floor(np.log(sizes) / step).astype(int)  # between this step and the next
        order = np.argsort(np.concatenate([first, after + 0.5]), kind="stable")
        first, last, shapes = (np.concatenate(pair)[order] for pair in zip((first, last, shapes), (after, after + 1, hidden), strict=True))
    ends = np.searchsorted(first // BLOCK, range(numbers.start, numbers.stop + 1))
    parts = zip(numbers, ends[:-1], ends[1:], strict=True)
    return {(step, number, family): (first[begin:end], last[begin:end], shapes[begin:end]) for number, begin, end in parts}


def _hidden(sizes: Array, family: str) -> tuple[Array, Any]:
    """Find the shapes that are nearest to sizes between two neighbours, but to neither neighbour; return such sizes and their shapes as rows."""
    low, high, rows = sizes[:-1], sizes[1:], _rows(sizes, family)
    below, above, found = rows[:-1], rows[1:], [(sizes[:0], rows[:0])]
    for _ in range(math.ceil(math.log2(math.log(sizes[1] / sizes[0]) / HIDDEN))):
        differ = (below != above).any(axis=1)
        low, high, below, above = low[differ], high[differ], below[differ], above[differ]
        if not len(low):
            break
        middle = np.sqrt(low * high)
        between = _rows(middle, family)
        new = (between != below).any(axis=1) & (between != above).any(axis=1)
        found.append((middle[new], between[new]))
        low, high = np.append(low, middle), np.append(middle, high)
        below, above = np.vstack([below, between]), np.vstack([between, above])
    middles, shapes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(middles)
    return middles[order], shapes[order]


def _rows(sizes: Array, family: str) -> Any:
    """Return the shapes nearest to sizes as rows of numbers, shape (sizes, 7)."""
    return np.column_stack([*_nearest_many(sizes, family), sizes < TIED_BELOW]).astype(int)


def _distinct(rows: Any, family: str, vocab: int) -> tuple[ModelShape, ...]:
    """Write rows out as shapes, each once."""
    layers, hidden, heads, kv_heads, head_dim, width, tied = rows.T
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return tuple(
        ModelShape(
            family, int(layers[row]), int(hidden[row]), int(heads[row]), int(kv_heads[row]), int(head_dim[row]), int(width[row]), vocab, bool(tied[row])
        )
        for row in first
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _nearest(size: float, family: str, vocab: int) -> ModelShape:
    (found,) = shapes_at(np.array([size]), family=family, vocab=vocab)
    if found.params_non_embedding == size or not size.is_integer():
        return found
    # The ladder may have a shape of exactly this size that is the nearest to other sizes only.
    beside = shapes_between(max(size / ASIDE, SMALLEST), min(size * ASIDE, LARGEST), FINE, family=family, vocab=vocab)
    return next((replace(shape, tied=found.tied) for shape in beside if shape.params_non_embedding == size), found)


def _nearest_many(sizes: Array, family: str) -> tuple[Any, ...]:
    """Search depths around the ladder's own for the widths that meet each size with the least departure from it.

    Returns:
        Layers, hidden width, heads, key heads, head width and feed-forward width, each of shape (sizes,).
    """
    size = sizes[:, None, None]
    ratio = np.exp(np.interp(np.log10(size), _RATIOS[0], np.log(_RATIOS[1])))
    head_dim = np.select([size < 3e5, size < 6e6, size < 5e8], [16, 32, 64], 128)
    depth = np.maximum(2.0, (size / (12 * ratio**2)) ** (1 / 3))
    first, last = np.maximum(2, np.floor(depth * 0.85)), np.ceil(depth * 1.15) + 1
    # Candidates have shape (sizes, depths, heads); depths past a size's last one repeat the last.
    layers = np.minimum(first + np.arange(int((last - first).max()) + 1)[None, :, None], last)
    ideal = np.sqrt(size / (12 * layers))
    heads = np.maximum(1, np.floor(ideal / head_dim) + np.array([-1, 0, 1, 2]))
    grouped = size > GROUPED_ABOVE
    heads = np.where(grouped, np.maximum(8, 8 * np.round(heads / 8)), heads)
    kv_heads = np.where(grouped, 8, heads)
    hidden = heads * head_dim
    # Attention and norms, as `ModelShape.parameter_groups` counts them.
    rest = layers * (2 * hidden * head_dim * (heads + kv_heads) + 2 * hidden + (2 * head_dim if family == "qwen3" else 0)) + hidden
    width = _width(size - rest, layers, hidden)
    miss = np.abs(np.log((rest + layers * 3 * hidden * width) / size))
    widening, aspect = np.abs(np.log(width / hidden / (8 / 3))), np.abs(np.log(hidden / layers / ratio))
    penalty = 40 * np.maximum(0.0, miss - 0.005) + widening + 0.5 * aspect
    best = penalty.reshape(len(sizes), -1).argmin(1)
    return tuple(np.broadcast_to(values, penalty.shape).reshape(len(sizes), -1)[np.arange(len(sizes)), best]
                 for values in (layers, hidden, heads, kv_heads, head_dim, width))  # fmt: skip


def _width(left: Array, layers: Array, hidden: Array) -> Array:
    """Choose the feed-forward width that takes up the parameters left, in multiples that vector units like."""
    multiple = np.select([hidden < 128, hidden < 1024], [8, 32], 128)
    width = multiple * np.maximum(1, np.round(left / (3 * hidden * layers) / multiple))
    low, high = multiple * np.maximum(1, np.ceil(1.5 * hidden / multiple)), multiple * np.ceil(5 * hidden / multiple)
    result: Array = np.minimum(np.maximum(width, low), high)
    return result
