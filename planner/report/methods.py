"""Two methods' laws side by side, with the runs that they were fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.allocate.crossing import Crossing
from planner.fit.data import FitData
from planner.report.style import COLOURS, LEGEND, MARKERS, log_counts
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 0.1
"""Runs within this much of the logarithm of the size, general tokens and distinct text are drawn."""


def methods(axis: Axes, found: Crossing, runs: Sequence[FitData]) -> None:
    """Draw loss by specialist tokens under both laws.

    Args:
        axis: where.
        found: the comparison.
        runs: the rows of each law.
    """
    for name, colour, marker, (loss, low, high), data in zip(found.names, (COLOURS[0], COLOURS[2]), MARKERS, found.loss, runs, strict=False):
        axis.plot(found.tokens, loss, color=colour, linewidth=1.3, label=name)
        axis.fill_between(found.tokens, low, high, color=colour, alpha=0.12, linewidth=0)
        near = data.tokens_spec > 0
        for values, at in (
            (data.params_by["non_embedding"], found.params_non_embedding), (data.tokens_pt, found.tokens_pt), (data.unique_spec, found.unique_spec),
        ):  # fmt: skip
            near &= np.abs(np.log(np.maximum(np.nan_to_num(values), 1.0) / max(at, 1.0))) < NEAR
        axis.plot(data.tokens_spec[near], np.exp(data.log_loss[near]), marker, color=colour, markersize=4)
    if found.crossing is not None:
        axis.axvline(found.crossing, color=COLOURS[3], linewidth=1, linestyle=":", label=f"cross at {format_count(found.crossing)}")
    log_counts(axis)
    equal = ", at equal FLOPs" if found.equal_flops else ""
    of = f" of {found.names[0]}" if found.equal_flops else ""
    axis.set(xlabel=f"specialist tokens{of}, repeats included{equal}", ylabel="specialist loss [nats/token]")
    size, general, text = (format_count(value) for value in (found.params_non_embedding, found.tokens_pt, found.unique_spec))
    axis.set_title(f"{size} parameters, {general} general tokens,\n{text} distinct specialist tokens", fontsize=10)
    axis.legend(**LEGEND, title="bands: 90 %, one run", title_fontsize=8)
