"""From a requested size to a shape: depth and width along a smooth ladder from 1e4 to 1e12 non-embedding parameters.

Width over depth rises from about 16 at 2e4 to about 130 at 1e11, as in published families (arXiv 2001.08361 finds loss nearly
flat in this ratio). Head width is 16, 32, 64 or 128; above 3e9 parameters eight key heads serve all query heads
(arXiv 2305.13245); the feed-forward width, near 8/3 of the hidden width (arXiv 2002.05202), takes up what rounding leaves over.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

from planner.errors import InputError, PlannerWarning
from planner.shapes import ModelShape

SMALLEST = 1e4
LARGEST = 1e12
TOLERANCE = 0.05
"""Share by which the realised size may miss the request without a warning."""
GROUPED_ABOVE = 3e9
"""Size from which eight key heads are shared by the query heads [non-embedding parameters]."""


def shape_for(params_non_embedding: float, *, family: str, vocab: int, tied: bool | None = None) -> ModelShape:
    """Return the shape nearest to a size.

    Args:
        params_non_embedding: requested size.
        family: "qwen3" or "llama".
        vocab: rows of the embedding table.
        tied: whether the output shares the embedding; by default below 1e9 parameters.

    Raises:
        InputError: the request is not a number from 1e4 to 1e12.
    """
    if not (math.isfinite(params_non_embedding) and SMALLEST <= params_non_embedding <= LARGEST):
        raise InputError(
            f"a model of {params_non_embedding:g} non-embedding parameters is outside the ladder", remedy="ask for a size from 1e4 to 1e12"
        )
    share = params_non_embedding < 1e9 if tied is None else tied
    shape = _nearest(float(params_non_embedding), family, vocab, share)
    miss = shape.params_non_embedding / params_non_embedding - 1
    if abs(miss) > TOLERANCE:
        warnings.warn(
            f"{params_non_embedding:.4g} non-embedding parameters were requested and the nearest {family} shape has "
            f"{shape.params_non_embedding:.4g} ({miss:+.1%})",
            PlannerWarning,
            stacklevel=2,
        )
    return shape


@lru_cache(maxsize=4096)
def _nearest(size: float, family: str, vocab: int, tied: bool) -> ModelShape:
    """Search depths around the ladder's own for the widths that meet the size with the least departure from it."""
    ratio = _aspect_ratio(size)
    head_dim = 16 if size < 3e5 else 32 if size < 6e6 else 64 if size < 5e8 else 128
    depth = max(2.0, (size / (12 * ratio**2)) ** (1 / 3))
    best: tuple[float, tuple[int, int, int, int, int]] | None = None
    for layers in range(max(2, math.floor(depth * 0.85)), math.ceil(depth * 1.15) + 2):
        ideal = math.sqrt(size / (12 * layers))
        for heads in {max(1, math.floor(ideal / head_dim) + offset) for offset in (-1, 0, 1, 2)}:
            kv_heads = heads
            if size > GROUPED_ABOVE:
                heads = max(8, 8 * round(heads / 8))
                kv_heads = 8
            hidden = heads * head_dim
            # Attention and norms, as `ModelShape.parameter_groups` counts them, without a shape for each candidate.
            rest = layers * (2 * hidden * head_dim * (heads + kv_heads) + 2 * hidden + (2 * head_dim if family == "qwen3" else 0)) + hidden
            width = _width(size - rest, layers, hidden)
            miss = abs(math.log((rest + layers * 3 * hidden * width) / size))
            widening = abs(math.log(width / hidden / (8 / 3)))
            aspect = abs(math.log(hidden / layers / ratio))
            penalty = 40 * max(0.0, miss - 0.005) + widening + 0.5 * aspect
            if best is None or penalty < best[0]:
                best = (penalty, (layers, hidden, heads, kv_heads, width))
    assert best is not None
    layers, hidden, heads, kv_heads, width = best[1]
    return ModelShape(family, layers, hidden, heads, kv_heads, head_dim, width, vocab, tied)


def _width(left: float, layers: int, hidden: int) -> int:
    """Choose the feed-forward width that takes up the parameters left, in multiples that vector units like."""
    multiple = 8 if hidden < 128 else 32 if hidden < 1024 else 128
    width = multiple * max(1, round(left / (3 * hidden * layers) / multiple))
    low, high = multiple * max(1, math.ceil(1.5 * hidden / multiple)), multiple * math.ceil(5 * hidden / multiple)
    return min(max(width, low), high)


def _aspect_ratio(size: float) -> float:
    """Interpolate hidden/layers in log size."""
    points = ((1e4, 12.0), (1e6, 34.0), (1e8, 64.0), (1e10, 110.0), (1e12, 170.0))
    x = math.log10(size)
    for (size_a, ratio_a), (size_b, ratio_b) in zip(points, points[1:], strict=False):
        a, b = math.log10(size_a), math.log10(size_b)
        if x <= b:
            return math.exp(math.log(ratio_a) + (x - a) / (b - a) * math.log(ratio_b / ratio_a))
    return points[-1][1]
