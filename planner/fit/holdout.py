"""What is left out and forecast: the largest of every axis, as in real use, where one always extrapolates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.fit.data import MIN_SIZES, FitData
from planner.laws.dual import Array

LEAST_HELD = 4
LEAST_SHARE = 0.06
"""A slice holds at least this share of the rows; on tables without a grid its threshold is lowered until it does."""
LARGEST_SHARE = 0.4


@dataclass(frozen=True)
class Slice:
    """Rows that are left out and forecast from the rest."""

    name: str
    """Such as "largest params"."""
    held: Any
    """Boolean mask, shape (runs,)."""
    factor: float
    """How far the held rows lie beyond the rest along the slice's axis."""


def slices(data: FitData) -> list[Slice]:
    """List the slices that a table allows."""
    axes = {"params": data.params, "tokens_pt": data.tokens_pt, "tokens_spec": data.tokens_spec, "epochs": data.epochs, "flops": data.flops}
    found = []
    for name, values in axes.items():
        piece = _top(f"largest {name}" if name != "epochs" else "most epochs", values, 0.2 if name == "flops" else LEAST_SHARE)
        if piece is None:
            continue
        piece = _keep_ends(data, piece)
        if piece.held.sum() < LEAST_HELD:
            continue
        if name == "params" and len(np.unique(np.round(np.log(values[~piece.held]), 2))) < MIN_SIZES:
            continue
        found.append(piece)
    return found


def _keep_ends(data: FitData, piece: Slice) -> Slice:
    """Leave runs without general or without specialist tokens in the fit where the slice would take them all: what they alone show
    cannot be forecast from the others."""
    held = piece.held
    for end in (data.tokens_pt == 0, data.tokens_spec == 0):
        if end.any() and not (end & ~held).any():
            held = held & ~end
    return Slice(piece.name, held, piece.factor)


def _top(name: str, values: Array, share: float) -> Slice | None:
    """Hold the highest level of an axis, and the next ones until the slice is large enough."""
    levels = np.unique(values[values > 0])
    count = len(values)
    for level in levels[::-1]:
        held = values >= level * 0.97  # realised sizes and epochs scatter around a level
        rest = values[~held]
        if held.sum() >= max(LEAST_HELD, share * count):
            if held.sum() > LARGEST_SHARE * count or not (rest > 0).any():
                return None
            return Slice(name, held, float(level / rest.max()))
    return None


def mean_absolute_percent(forecast: Array, log_loss: Array) -> float:
    """Return the mean absolute error of the loss in per cent of it, from logarithms of both."""
    return float(100 * np.abs(np.exp(forecast - log_loss) - 1).mean())
