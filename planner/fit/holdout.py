"""Held-out slices: the largest runs on every axis, since real use always extrapolates.

Rolling origins: on each axis the highest level is held out, then the two highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.data import FitData
from planner.fit.identify import MIN_SIZES, SAME, levels

LEAST_HELD = 4
LEAST_SHARE = 0.06
"""A slice holds out at least this share of the rows; on tables without a grid its threshold is lowered until it does."""
FLOPS_SHARE = 0.2
"""The same for the slice in FLOPs, where every row is a level of its own."""
LARGEST_SHARE = 0.45
"""No slice holds out a larger share."""
ORIGINS = 2
"""Slices on each axis."""


@dataclass(frozen=True)
class Slice:
    """Rows that are held out and forecast from the rest."""

    name: str
    """Such as "largest params"."""
    held: Any
    """Boolean mask, shape (runs,)."""
    factor: float
    """Lowest held-out level over the highest of the rest, on the slice's axis."""


def slices(data: FitData, origins: int = ORIGINS) -> list[Slice]:
    """List the slices that a table allows, those of one axis in the order of their size."""
    axes = {"params": data.params, "tokens_pt": data.tokens_pt, "tokens_spec": data.tokens_spec, "epochs": data.epochs, "flops": data.flops}
    found: list[Slice] = []
    for name, values in axes.items():
        share = FLOPS_SHARE if name == "flops" else LEAST_SHARE
        below = np.inf
        for origin in range(origins):
            title = ("most epochs" if name == "epochs" else f"largest {name}") if origin == 0 else f"{'more' if name == 'epochs' else 'larger'} {name}"
            piece, below = _top(title, values, share * (origin + 1), below)
            if piece is None:
                break
            piece = _keep_ends(data, piece)
            if piece.held.sum() < LEAST_HELD or (name == "params" and len(levels(values[~piece.held])) < MIN_SIZES):
                break
            if not any((piece.held == other.held).all() for other in found):
                found.append(piece)
    return found


def _keep_ends(data: FitData, piece: Slice) -> Slice:
    """Keep runs without general, or without specialist, tokens in the fit where the slice would hold them all out: the others say nothing of them."""
    held = piece.held
    for end in (data.tokens_pt == 0, data.tokens_spec == 0):
        if end.any() and not (end & ~held).any():
            held = held & ~end
    return Slice(piece.name, held, piece.factor)


def _top(name: str, values: Array, share: float, below: float) -> tuple[Slice | None, float]:
    """Hold out the highest levels of an axis, down past `below` and until the slice is large enough; return it and its lowest level."""
    levels = np.unique(values[values > 0])[::-1]
    counts = len(values) - np.searchsorted(np.sort(values), levels * 0.97)  # realised sizes and epochs scatter around a level
    enough = (levels < below * 0.97) & (counts >= max(LEAST_HELD, share * len(values)))
    if not enough.any():
        return None, below
    level = levels[enough.argmax()]
    held = values >= level * 0.97
    rest = values[~held]
    if held.sum() > LARGEST_SHARE * len(values) or not (rest > 0).any():
        return None, below
    return Slice(name, held, float(level / rest.max())), float(level)


def sizes_held(found: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the size that was held out, or the least and the largest of several.

    Args:
        found: `FittedLaw.holdout`.
    """
    least, most = found.get("params_least", found["params"]), found["params"]
    return (most,) if least * np.exp(SAME) > most else (least, most)


def mean_absolute_percent(forecast: Array, log_loss: Array) -> float:
    """Return the mean absolute error of the loss in per cent of it, from logarithms of both."""
    return float(100 * np.abs(np.exp(forecast - log_loss) - 1).mean())


def not_shown(scores: Sequence[Mapping[str, Any]]) -> str:
    """Count the laws that a table leaves out: those that did worse on the slices, and those that were not tried on them."""
    tried = sum(bool(score["held"]) for score in scores)
    parts = ((tried, "worse"), (len(scores) - tried, "not tried on the slices"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)
