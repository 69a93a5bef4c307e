"""How a budget can be spent, what it is forecast to reach, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.allocate.allocation import Allocation
from planner.allocate.isoflop import IsoFlop
from planner.report.style import COLOURS, LEGEND, MARKERS, log_counts, shades
from planner.units import format_count, format_interval
from planner.verify import Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def iso_flop(axis: Axes, curves: Sequence[IsoFlop], measured: Sequence[tuple[float, float]] = ()) -> None:
    """Draw the best loss at each size for several budgets, each with its optimum and the optimum's interval.

    Args:
        axis: where.
        curves: one a budget, of the same amount of distinct specialist text.
        measured: non-embedding parameters and loss of runs that were trained at one of the budgets, if any.
    """
    for number, (colour, curve) in enumerate(zip(shades(len(curves)), curves, strict=True)):
        inside = np.where(curve.inside, curve.loss, np.nan)
        label = f"{curve.flops:.3g} FLOPs: {format_count(curve.best_params)} {format_interval(*curve.params_interval)}"
        axis.fill_between(curve.params, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
        axis.plot(curve.params, curve.loss, ":", color=colour, linewidth=1.4)
        axis.plot(curve.params, inside, "-", color=colour, linewidth=1.8)
        axis.plot(curve.params_interval, [curve.best_loss] * 2, "-", color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axis.plot([curve.best_params], [curve.best_loss], MARKERS[number % len(MARKERS)], color=colour, markeredgecolor="black", markersize=7, label=label)
    if measured:
        axis.plot(*zip(*measured, strict=True), "x", color="black", markersize=5, label="trained, various splits")
    log_counts(axis)
    unique = f", {format_count(curves[0].unique_spec)} distinct specialist tokens" if curves else ""
    axis.set(
        xlabel="non-embedding parameters N", ylabel="specialist loss [nats/token]", title=f"Best loss at each size{unique}",
    )  # fmt: skip
    axis.legend(**LEGEND, title="budget: best size [90 % interval]", title_fontsize=8)


def iso_flop_shares(axis: Axes, curves: Sequence[IsoFlop]) -> None:
    """Draw the best share of specialist tokens at each size for several budgets."""
    for number, (colour, curve) in enumerate(zip(shades(len(curves)), curves, strict=True)):
        at = int(np.argmin(curve.loss))
        axis.plot(curve.params, curve.share_spec, "-", color=colour, linewidth=1.6)
        label = f"{curve.flops:.3g} FLOPs: {curve.share_spec[at]:.0%}, {curve.epochs_spec[at]:.2g} epochs"
        axis.plot([curve.best_params], [curve.share_spec[at]], MARKERS[number % len(MARKERS)], color=colour, markeredgecolor="black", markersize=7, label=label)
    axis.set_ylim(0, 1.02)
    log_counts(axis)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set(xlabel="non-embedding parameters N", ylabel="specialist tokens in all tokens", title="Best split at each size")
    axis.legend(**LEGEND, title="budget: at the best size", title_fontsize=8)


def split_curve(axis: Axes, allocation: Allocation, measured: Sequence[tuple[float, float]] = ()) -> None:
    """Draw the best forecast loss by share of specialist tokens, the recommendation and what the baselines would reach.

    Args:
        axis: where.
        allocation: the recommendation.
        measured: share and loss of runs that were trained at this budget, if any.
    """
    plan = allocation.plan
    axis.plot(allocation.curve["share"], allocation.curve["loss"], color=COLOURS[0], label="best size for each split")
    axis.axvspan(*allocation.share_within, color=COLOURS[1], alpha=0.15, label="within 0.5 % of the best")
    error = [[plan.loss - plan.loss_low], [plan.loss_high - plan.loss]]
    axis.errorbar([plan.share_spec], [plan.loss], error, fmt="o", color=COLOURS[2], capsize=4, label="recommendation, 90 % interval")
    if measured:
        axis.plot(*zip(*measured, strict=True), "x", color=COLOURS[3], label="trained")
    low = min([*allocation.curve["loss"], plan.loss_low])
    near = [plan.loss, *(loss for loss in allocation.curve["loss"] if loss < 1.25 * plan.loss)]
    axis.set_ylim(low * 0.99, max(max(near), plan.loss_high) * 1.01)
    axis.set(
        xlabel="share of specialist tokens", ylabel="specialist loss [nats/token]",
        title=f"{plan.flops:.3g} FLOPs, {format_count(plan.unique_spec)} distinct specialist tokens",
    )  # fmt: skip
    axis.legend(**LEGEND)


def verification(axis: Axes, result: Verification) -> None:
    """Draw one outcome against its forecast interval."""
    axis.errorbar([0], [result.forecast], [[result.forecast - result.low], [result.high - result.forecast]], fmt="o", color=COLOURS[0], capsize=6)
    axis.plot([1], [result.measured], "D", color=COLOURS[1] if result.inside else COLOURS[3])
    axis.axhspan(result.low, result.high, color=COLOURS[0], alpha=0.1)
    axis.set_xticks([0, 1], ["forecast, 90 % interval", "measured"])
    axis.set_xlim(-0.6, 1.6)
    where = "inside" if result.inside else "OUTSIDE"
    axis.set(ylabel="specialist loss [nats/token]", title=f"Outcome {where} the interval; error {result.error_percent:+.2f} %")
