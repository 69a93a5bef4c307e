"""How long segments take on a machine like the one that the constants were measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from planner.design.segment import Segment
from planner.design.tree import Tree

STEP_SECONDS = 0.0139
"""Time of a step that does not depend on the model: one thread of a 2-core cloud machine, torch 2.13, batch 8×128."""
FLOPS_PER_SECOND = 6.0e10
"""Speed of one thread for the rest of the step; with both constants within 6 % of measured speeds from 20k to 640k parameters."""
COMPILED = 0.78
"""Time with torch.compile over that without."""


def segment_seconds(tree: Tree, segment: Segment) -> float:
    """Estimate the time of a segment on one thread, uncompiled [s]."""
    return segment.steps * STEP_SECONDS + tree.cost(segment) / FLOPS_PER_SECOND


def wall_seconds(tree: Tree, segments: Iterable[Segment], workers: int, compiled: Callable[[Segment], bool] = lambda segment: False) -> float:
    """Estimate the wall time of segments on several one-thread workers [s].

    Args:
        tree: the sweep.
        segments: those to train.
        workers: processes.
        compiled: whether a segment goes through torch.compile; the time of compiling itself is left out.
    """
    seconds = {segment.segment_id: segment_seconds(tree, segment) * (COMPILED if compiled(segment) else 1.0) for segment in segments}
    longest: dict[str, float] = {}
    for segment in tree.segments:
        if segment.segment_id in seconds:
            longest[segment.segment_id] = longest.get(segment.parent_id or "", 0.0) + seconds[segment.segment_id]
    return max(sum(seconds.values()) / workers, max(longest.values(), default=0.0))
