"""When to roll a run back, and which batches to skip afterwards. Pure logic; every rank comes to the same decision.

A loss or a gradient that is not finite is blamed on its batch. A spike shows in the smoothed loss, so it is blamed on the batches of the last
`SPIKE_BATCHES` steps, twice as many at each further rollback. The run goes back to the last state before the first of them, skips them
and goes on with the batches that follow (arXiv 2204.02311, section 5.1, did the same by hand).
A run in which nothing goes wrong is identical to an unguarded one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.train.segment import smoothed

SPIKE_BATCHES = 20
"""Batches blamed for the first spike: about the memory of the smoothed loss."""
Span = tuple[int, int]
"""First number and number after the last."""


@dataclass
class Watch:
    """Smooths the loss of one stage and detects trouble, as `planner.train.segment` does."""

    spike_factor: float
    """Multiple of its best that the smoothed loss may not pass."""
    smooth: float | None = None
    """Smoothed training loss [nats/token]."""
    best: float | None = None
    """Its lowest value in this stage [nats/token]."""

    def see(self, loss: float | None, grad_norm: float) -> str | None:
        """Take in a step's loss (None if no target of its batch counts); return the trouble, if any: "not_finite" or "spike"."""
        if not (math.isfinite(loss or 0.0) and math.isfinite(grad_norm)):
            return "not_finite"
        if loss is None:
            return None
        self.smooth, self.best = smoothed(loss, self.smooth, self.best)
        return "spike" if self.smooth > self.spike_factor * self.best else None

    def begin_stage(self) -> None:
        """Reset: with other text, a jump in loss is no spike."""
        self.smooth = self.best = None


def blamed(batch: int, trouble: str, rollbacks: int) -> Span:
    """Return the batches to skip after trouble at batch number `batch` of a stage, with `rollbacks` earlier rollbacks."""
    count = 1 if trouble == "not_finite" else SPIKE_BATCHES * 2**rollbacks
    return max(0, batch + 1 - count), batch + 1


def merged(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch or overlap, in order."""
    result: list[Span] = []
    for first, end in sorted(spans):
        if result and first <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((first, end))
    return result


def batch_number(step: int, left_out: Sequence[Span]) -> int:
    """Return the number of the batch that a step of a stage trains on.

    Args:
        step: from 0.
        left_out: spans of batches that are skipped, as `merged` orders them.
    """
    number = step
    for first, end in left_out:
        if number >= first:
            number += end - first
    return number


def step_of(batch: int, left_out: Sequence[Span]) -> int:
    """Return the first step that trains on batch `batch` or a later one."""
    return batch - sum(min(end, batch) - first for first, end in left_out if first < batch)
