"""What all figures share: colours, the page around the axes, and axes of counts."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.artifacts import write_bytes
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#56b4e9", "#cc79a7")
"""For kinds, safe for the colour-blind (Okabe & Ito 2008). The first is the plan's, the second is good, the third marks, the fourth is bad."""
GREY = "#6b6b6b"
DPI = 150
LINE = 76
"""Characters of small text that fit over a panel."""
FEWEST = 3
"""Fewest labels of an axis of counts, where its range allows that many."""
MOST_TICKS = 10
"""Most values at which a scale of colours is labelled one by one, as those of a grid."""
MARKERS = "osD^vP"
NAMES: dict[str, Any] = {"fontsize": 8, "parse_math": False}
"""For labels that a user wrote, in which a dollar sign is no formula."""
Row = tuple[str, float | None, float | None, float | None, str]
"""Label, value, ends of its interval, and colour."""
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8}


def shades(count: int) -> list[Any]:
    """Return colours of an ordered quantity, from dark to light."""
    from matplotlib import colormaps

    return [colormaps["viridis"](at) for at in np.linspace(0, 0.88, max(1, count))]


def sheet(panels: int = 1, *, columns: int | None = None, width: float = 6.4, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """Make a page of panels, row by row.

    Args:
        panels: how many.
        columns: panels in a row; all by default.
        width: of one panel [inches].
        height: of one panel [inches].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = columns or panels
    down = -(-panels // across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    for axis in axes[:panels]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes[:panels]


def save(
    path: Path, draw: Callable[[Sequence[Axes]], None], *, panels: int = 1, columns: int | None = None, width: float = 6.4, height: float = 4.2
) -> None:
    """Draw panels into a PNG file.

    Args:
        path: the file.
        draw: called with the axes.
        panels: how many.
        columns: panels side by side; all by default.
        width: of one panel [inches].
        height: of one panel [inches].
    """
    from PIL import Image

    figure, axes = sheet(panels, columns=columns, width=width, height=height)
    draw(axes)
    figure.set_dpi(DPI)
    canvas: Any = figure.canvas
    canvas.draw()
    buffer = io.BytesIO()
    # savefig would draw everything twice. No page is transparent, and stronger compression costs more than it saves.
    Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3]).save(buffer, format="png", dpi=(DPI, DPI), compress_level=3)
    write_bytes(path, buffer.getvalue())


def in_place(axis: Axes, why: str) -> None:
    """Write in the middle of a panel why there is nothing to draw."""
    axis.text(0.5, 0.5, why, ha="center", va="center", transform=axis.transAxes, color=GREY)


def count_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a log axis of counts: 1, 2 and 5 times each power of ten; over many decades the powers only, within one decade more."""
    from matplotlib.ticker import AutoLocator

    steps = ((1.0, 2.0, 5.0), (1.0, 2.0, 3.0, 4.0, 6.0, 8.0))
    for subs in steps if high < 300 * low else ((1.0,), *steps):
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [tick for power in powers for sub in subs if low <= (tick := sub * 10.0**power) <= high]
        if len(ticks) >= FEWEST:
            return ticks
    return [float(tick) for tick in AutoLocator().tick_values(low, high) if low <= tick <= high]


def log_counts(axis: Axes, zero: float | None = None) -> None:
    """Make the horizontal axis one of counts on a log scale.

    Args:
        axis: whose limits are known, so after drawing.
        zero: where on it zero is drawn, and labelled so, if anywhere.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_xscale("log")
    low, high = axis.get_xlim()
    ticks = count_ticks(low, high) if zero is None else [zero, *count_ticks(1.5 * zero, high)]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: "0" if value == zero else format_count(value))
    axis.set_xlim(low, high)


def intervals(axis: Axes, rows: Sequence[Row], *, label: str | None = None, lower: float = 0.0) -> None:
    """Draw values with their intervals, one a row from the top.

    Args:
        axis: where.
        rows: what is drawn; a value of None leaves the row empty.
        label: for the legend.
        lower: by how much of a row they are drawn below its middle.
    """
    for number, (_, value, low, high, colour) in enumerate(rows):
        if value is not None and low is not None and high is not None:
            axis.errorbar([value], [number + lower], xerr=[[value - low], [high - value]], fmt="o", color=colour, markersize=5, capsize=3, label=label)
            label = None
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], **NAMES)
    axis.set_ylim(len(rows) - 0.4, -0.6)


def legend_below(axis: Axes, title: str | None = None, columns: int = 2) -> None:
    """Put the legend under the axis, where it covers nothing."""
    axis.legend(**LEGEND, title=title, title_fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def titled(axis: Axes, title: str, lines: Sequence[str]) -> None:
    """Give axes a title, and below it remarks in small text."""
    broken = [part for line in lines for part in wrap(line, LINE)]
    axis.set_title(title, fontsize=11, pad=6 + 12 * len(broken))
    axis.text(0.5, 1.015, "\n".join(broken), transform=axis.transAxes, ha="center", va="bottom", **NAMES)


def colour_bar(axis: Axes, drawn: Any, values: Any, label: str) -> None:
    """Add the scale of colours of counts, labelled at those of the values that lie apart, or at round ones where these are many."""
    assert axis.figure is not None
    levels: list[float] = []
    for value in np.unique(values):
        if not levels or value > 1.4 * levels[-1]:
            levels.append(float(value))
    if len(levels) > MOST_TICKS:
        levels = count_ticks(levels[0], levels[-1])
    bar = axis.figure.colorbar(drawn, ax=axis, label=label, ticks=levels)
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter(lambda value, _: format_count(value))


def spread(items: list[Any], count: int) -> list[Any]:
    """Take some of a list, evenly."""
    if len(items) <= count:
        return items
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]
