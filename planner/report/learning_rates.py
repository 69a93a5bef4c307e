"""Learning-rate basins of a tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planner.report.style import legend_below, shades
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = [step * 10.0**power for power in range(-7, 1) for step in (1, 2, 5)]


def learning_rates(axis: Axes, tuning: dict[str, Any]) -> None:
    """Draw probes and optima of `tune.json`: loss by learning rate, one line a size, the rule's rate marked."""
    rule = tuning["rule"]
    for colour, optimum in zip(shades(len(tuning["optima"])), tuning["optima"], strict=True):
        size = optimum["params_non_embedding"]
        ended = [item for item in tuning["probes"] if item["params_non_embedding"] == size and not item["diverged"]]
        probes = sorted((item["learning_rate"], item["loss"]) for item in ended)
        axis.plot(*zip(*probes, strict=True), "o-", color=colour, label=f"{format_count(size)} parameters", markersize=4)
        rate = rule["lr_coefficient"] * (size / rule["lr_reference_params"]) ** -rule["lr_exponent"]
        axis.axvline(rate, color=colour, linestyle=":", linewidth=1)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-"))
    axis.set(xlabel="peak learning rate", ylabel="specialist loss [nats/token]", title="Learning-rate basins; dotted: the rate of the rule")
    legend_below(axis, columns=3)
