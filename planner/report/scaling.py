"""How the best plan moves with the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.allocate.curves import Curve, Optimum, Scaling
from planner.report.style import COLOURS, GREY, count_ticks, legend_below, log_counts, shades
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES = (
    ("params_non_embedding", "params_interval", "$N$, non-embedding parameters"),
    ("tokens_pt", "tokens_pt_interval", r"$D_{\mathrm{pt}}$, general tokens"),
    ("tokens_spec", "tokens_spec_interval", r"$D_{\mathrm{spec}}$, specialist tokens"),
)
"""Field of the plan, of its interval, and label."""
STRAIGHT = 15.0
"""Exponents are written beside curves that deviate from their power law by at most this [%]; real shapes alone scatter by some per cent."""


def draw(axes: Sequence[Axes], scaling: Scaling) -> None:
    """Draw loss against budget for each amount of text, and the plan against budget for the amount in the middle."""
    losses(axes[0], scaling)
    plans(axes[1], scaling.curves[(len(scaling.curves) - 1) // 2], scaling.request["budgets"], scaling.takes("tokens_spec"))


def losses(axis: Axes, scaling: Scaling) -> None:
    """Draw the forecast loss of the best plan against the budget, a curve for each amount of text; dashed outside the runs."""
    budgets, special = scaling.request["budgets"], scaling.takes("tokens_spec")
    for colour, curve in zip(shades(len(scaling.curves)), scaling.curves, strict=True):
        low, high = ([getattr(item.plan, end) for item in curve.optima] for end in ("loss_low", "loss_high"))
        axis.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
        label = format_count(curve.unique_spec) if special else "best plan"
        _line(axis, budgets, [item.plan.loss for item in curve.optima], curve.optima, colour, label)
    legend = "distinct specialist tokens; band: 90 %, one run" if special else "band: 90 %, one run"
    _finish(axis, f"{'specialist loss' if special else 'loss'} [nats/token]", "Loss of the best plan", legend, min(5, len(scaling.curves) + 1))


def plans(axis: Axes, curve: Curve, budgets: Sequence[float], special: bool = True) -> None:
    """Draw size and tokens of the best plan against the budget; dashed outside the runs, broken where there are none."""
    axis.set_yscale("log")
    slopes = {item.quantity: item for item in curve.exponents}
    for colour, (name, interval, label) in zip((COLOURS[0], COLOURS[1], COLOURS[3]), QUANTITIES, strict=True):
        values = _positive([getattr(item.plan, name) for item in curve.optima])
        if not np.isfinite(values).any():
            continue
        low, high = (_positive([getattr(item, interval)[end] for item in curve.optima]) for end in (0, 1))
        # An interval that begins at zero has no lower end on this axis: it is cut at the line.
        axis.fill_between(budgets, np.where(np.isfinite(low), low, values), high, color=colour, alpha=0.15, linewidth=0)
        slope = slopes[name]
        if slope.value is not None and slope.off_percent is not None and slope.off_percent <= STRAIGHT:
            label += rf" $\propto C^{{{slope.value:.2f}}}$ [{slope.low:.2f}, {slope.high:.2f}]".replace("[-", "[−").replace(" -", " −")
        _line(axis, budgets, values, curve.optima, colour, label)
    title = f"Best plan with {format_count(curve.unique_spec)} distinct specialist tokens" if special else "Best plan"
    _finish(axis, "parameters or tokens", title, "band, brackets: 90 % over the resamples", 1)
    axis.set_yticks(count_ticks(*axis.get_ylim()))
    axis.set_yticks([], minor=True)
    axis.yaxis.set_major_formatter(lambda value, _: format_count(value))


def _positive(values: Sequence[float]) -> Any:
    return np.array([value if value > 0 else np.nan for value in values])


def _line(axis: Axes, budgets: Sequence[float], values: Any, optima: Sequence[Optimum], colour: Any, label: str) -> None:
    """Draw a curve, solid inside the runs and dashed outside."""
    inside = np.array([item.inside for item in optima])
    shown = np.asarray(values, dtype=float)
    axis.plot(budgets, shown, "--", color=colour, linewidth=1.4)
    axis.plot(budgets, np.where(inside, shown, np.nan), "-", color=colour, linewidth=2.0, label=label)
    axis.plot(budgets, shown, "o", color=colour, markersize=3.5)


def _finish(axis: Axes, ylabel: str, title: str, legend: str, columns: int) -> None:
    axis.plot([], [], "--", color=GREY, label="outside the runs")
    log_counts(axis)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e+", "e"))
    axis.set(xlabel="budget C [FLOPs]", ylabel=ylabel, title=title)
    legend_below(axis, legend, columns)
