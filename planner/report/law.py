"""Slices through a law, with its bands and the runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from planner.errors import DataError
from planner.fit.data import FitData
from planner.fit.fitted import FittedLaw
from planner.fit.support import NEAR
from planner.report.style import COLOURS, MARKERS, in_place, legend_below, log_counts, shades, spread
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANDS = "bands: 90 %, one run; dashed: outside the runs"
HIGHEST = 1.15
"""Multiple of the highest loss measured up to which slices by tokens are drawn."""


def cells(data: FitData) -> dict[tuple[float, float, float], list[int]]:
    """Return the runs of each mixture of text that most sizes share, by general, specialist and distinct tokens; none in a table without a grid."""
    found: dict[tuple[float, float, float], list[int]] = {}
    for row in range(data.count):
        unique = float(np.round(np.nan_to_num(data.unique_spec[row]), -3))
        found.setdefault((float(data.tokens_pt[row]), float(data.tokens_spec[row]), unique), []).append(row)
    return {key: rows for key, rows in found.items() if len(np.unique(data.params[rows])) >= min(4, len(np.unique(data.params)))}


def runs_of_a_size(data: FitData, params: float | None = None) -> tuple[float, float, Any]:
    """Choose the runs that differ by specialist text alone.

    Args:
        data: the runs.
        params: the size, or one near it; the one with most runs by default.

    Returns:
        The size, the general tokens that most of its runs share, and which runs have both and specialist tokens, shape (runs,).
    """
    sizes = np.unique(data.params)
    counts = [(data.params == size).sum() for size in sizes]
    size = sizes[int(np.argmax(counts) if params is None else np.argmin(np.abs(np.log(sizes / params))))]
    at = data.params == size
    general = np.unique(data.tokens_pt[at & (data.tokens_pt > 0) & (data.tokens_spec > 0)])
    amount = max(general, key=lambda value: int((at & (data.tokens_pt == value)).sum())) if len(general) else 0.0
    return float(size), float(amount), at & (data.tokens_pt == amount) & (data.tokens_spec > 0)


def size_slices(axis: Axes, law: FittedLaw, data: FitData) -> None:
    """Draw loss by model size with the law's band, for the `cells` that most sizes share."""
    shared = cells(data)
    if not shared:
        _nothing(axis, "no token counts that most sizes share")
        return
    for colour, marker, key in zip(COLOURS, MARKERS, spread(sorted(shared), 5), strict=False):
        rows = np.array(shared[key])
        pt, spec, unique = key
        sizes = np.geomspace(data.params.min(), data.params.max(), 60)
        _band(axis, law, data, sizes, pt, spec, float(np.nanmax(np.append(data.unique_spec[rows], 1.0))), colour)
        passes = f"{spec / unique:.2g}" if unique else ""
        label = f"{format_count(pt)} + {format_count(spec)}" + (f" ({passes} epoch{'s' * (passes != '1')})" if passes else "")
        axis.plot(data.params[rows], np.exp(data.log_loss[rows]), marker, color=colour, markersize=4, label=label)
    log_counts(axis)
    axis.set(xlabel=f"{_kind(data)} parameters N", ylabel=_loss(data), title="Loss by size; general + specialist tokens")
    legend_below(axis, BANDS)


def token_slices(axis: Axes, law: FittedLaw, data: FitData, params: float | None = None) -> None:
    """Draw loss by specialist tokens, one line per amount of distinct text, at the amount of general tokens that most runs share.

    Args:
        axis: where.
        law: the law.
        data: the runs.
        params: the size, or one near it; the one with most runs by default.
    """
    size, amount, rows = runs_of_a_size(data, params)
    if not rows.any():
        _nothing(axis, f"no run of {format_count(size)} parameters has specialist text")
        return
    amounts = spread(list(np.unique(data.unique_spec[rows])), 6)
    for number, (colour, unique) in enumerate(zip(shades(len(amounts)), amounts, strict=True)):
        chosen = np.flatnonzero(rows & (data.unique_spec == unique))
        tokens = np.geomspace(data.tokens_spec[rows].min(), data.tokens_spec[rows].max(), 60)
        _band(axis, law, data, size, amount, tokens, unique, colour, along="tokens")
        label = f"{format_count(unique)} distinct"
        axis.plot(data.tokens_spec[chosen], np.exp(data.log_loss[chosen]), MARKERS[number], color=colour, markersize=4, label=label)
    log_counts(axis)
    # Lines far beyond their runs may leave the panel; they would flatten all others.
    axis.set_ylim(top=min(axis.get_ylim()[1], HIGHEST * float(np.exp(data.log_loss[rows]).max())))
    axis.set(
        xlabel="specialist tokens seen, repeats included", ylabel=_loss(data),
        title=f"Repetition: {format_count(size)} parameters" + (f" after {format_count(amount)} general tokens" if amount else ""),
    )  # fmt: skip
    legend_below(axis, BANDS, columns=3)


def _band(axis: Axes, law: FittedLaw, data: FitData, params: Any, pt: Any, spec: Any, unique: Any, colour: Any, along: str = "params") -> None:
    arrays = [np.array(item) for item in np.broadcast_arrays(*(np.asarray(item, dtype=float) for item in (params, pt, spec, unique)))]
    # Between the sizes of the table the other conventions of N are interpolated.
    known, order = data.params, np.argsort(data.params)
    by = {kind: np.exp(np.interp(np.log(arrays[0]), np.log(known[order]), np.log(values[order]))) for kind, values in data.params_by.items()}
    try:
        forecast = law.forecast(by, *arrays[1:])
    except DataError:  # a user's law gives no number somewhere along it: the runs are drawn alone
        return
    x = arrays[0] if along == "params" else arrays[2]
    inside = law.support.distance(by["non_embedding"], *arrays[1:]) <= np.log(NEAR)
    axis.plot(x, forecast.loss, "--", color=colour, linewidth=0.9)
    axis.plot(x, np.where(inside, forecast.loss, np.nan), color=colour, linewidth=1.3)
    axis.fill_between(x, forecast.low, forecast.high, color=colour, alpha=0.12, linewidth=0)


def _nothing(axis: Axes, why: str) -> None:
    in_place(axis, why)
    axis.set(xticks=[], yticks=[])


def _loss(data: FitData) -> str:
    return f"{'general' if data.target == 'general' else 'specialist'} loss [nats/token]"


def _kind(data: FitData) -> str:
    return data.params_kind.replace("_", "-")
