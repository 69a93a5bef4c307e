"""Figures of a backtest: the error of forecasts by extrapolation, and the regret of choices by them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.backtest import Backtest
from planner.decisions import ANY, COPY, HINDSIGHT, LARGEST, MOST_SPECIALIST, PLAN
from planner.report.style import COLOURS, GREY, MARKERS, in_place, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WAYS = {PLAN: COLOURS[0], HINDSIGHT: "#9fb0d8", ANY: "#b9b9b9", LARGEST: COLOURS[1], MOST_SPECIALIST: COLOURS[2], COPY: COLOURS[5]}
"""Ways to choose, and their colours."""
WILD, PLAIN = 100.0, 10.0
"""Largest error above which the vertical axis is symmetric-logarithmic, and the error up to which that axis is linear [%]."""
BARS = 0.84
"""Width of a cut-off's bars together."""
TICKS, FINE_TICKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 3000, 10000), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)


def page(path: Path, result: Backtest) -> None:
    """Draw both panels into a PNG file."""

    def draw(axes: Sequence[Axes]) -> None:
        errors(axes[0], result)
        regrets(axes[1], result)

    save(path, draw, panels=2, height=5.2)


def errors(axis: Axes, result: Backtest) -> None:
    """Draw the signed error of every forecast by how far beyond the fitted runs it lies in compute; hollow outside its interval."""
    for number, item in enumerate(result.cutoffs):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for inside, fill in ((True, colour), (False, "none")):
            points = [(one.factor, one.error_percent) for one in item.outcomes if one.inside == inside]
            if points:
                x, y = zip(*points, strict=True)
                axis.scatter(x, y, s=18, marker=marker, facecolor=fill, edgecolor=colour, linewidth=1, alpha=0.75)
        label = f"{item.flops:.3g} ({item.rows_below} runs): {item.coverage:.0%} of {len(item.outcomes)} inside"
        axis.scatter([], [], s=18, marker=marker, color=colour, label=label)
    axis.axhline(0, color=GREY, linewidth=1)
    errors_percent = np.abs([one.error_percent for item in result.cutoffs for one in item.outcomes])
    if errors_percent.max() > WILD:
        axis.set_yscale("symlog", linthresh=PLAIN)  # else a few wild forecasts would press all others into one line
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xscale("log")
    most = max(item.factor for item in result.cutoffs)
    axis.set_xticks([tick for tick in (TICKS if most > 10 else FINE_TICKS) if tick <= 1.05 * most], minor=False)
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axis.set(
        xlabel="compute of the run over that of the most expensive run fitted", ylabel="forecast minus outcome [% of the loss]",
        title="Forecasts of runs above the cut-off; hollow: outside the 90 % interval",
    )  # fmt: skip
    axis.title.set_fontsize(10.5)
    axis.legend(frameon=False, fontsize=8, title="fitted up to [FLOPs]", title_fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def regrets(axis: Axes, result: Backtest) -> None:
    """Draw the mean regret at each cut-off by way to choose, with the worst as a tick."""
    decided = [item for item in result.cutoffs if item.decisions]
    ways = list(decided[0].regret_percent) if decided else []
    width = BARS / max(1, len(ways))
    for number, way in enumerate(ways):
        at = [place + width * (number + 0.5) - BARS / 2 for place in range(len(decided))]
        mean = [item.regret_percent[way] for item in decided]
        axis.bar(at, mean, width * 0.9, color=WAYS[way], label=way.replace("special text", "specialist text"))
        axis.plot(at, [item.worst_regret_percent[way] for item in decided], "_", color=WAYS[way], markersize=10, markeredgewidth=2)
        if way == PLAN:
            for place, value in zip(at, mean, strict=True):
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                axis.annotate(f"{value:.2f}", (place, value), (0, 3), textcoords="offset points", ha="center", fontsize=8, color=WAYS[way], bbox=box)
    if result.seed_percent is not None:
        axis.axhline(result.seed_percent, color="black", linewidth=1, linestyle=":", label="standard deviation between seeds")
    axis.set_xticks(range(len(decided)), [f"{item.flops:.3g}\n{len(item.decisions)} decisions" for item in decided], fontsize=8)
    axis.grid(False, axis="x")
    axis.set(
        xlabel="fitted up to [FLOPs]", ylabel="regret [% of the best run's loss]",
        title="Regret among runs of equal compute: mean, and the worst as a tick",
    )  # fmt: skip
    axis.title.set_fontsize(10.5)
    if ways:
        axis.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    else:
        in_place(axis, "no three runs above a cut-off cost the same")
