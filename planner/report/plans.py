"""How a budget can be spent, what it is forecast to reach, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.allocate.allocation import Allocation
from planner.allocate.extrapolation import TOO_FAR, outside
from planner.allocate.isoflop import IsoFlop
from planner.allocate.request import TOLERANCE
from planner.allocate.split_arm import APART
from planner.decisions import with_text
from planner.fit.data import FitData
from planner.fit.support import NEAR
from planner.report.style import COLOURS, GREY, LEGEND, MARKERS, legend_below, log_counts, shades, titled
from planner.units import format_count, format_epochs, format_interval
from planner.verify import Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAME_BUDGET = 1.1
"""Runs whose FLOPs are within this factor of a budget are drawn with its curve."""
HIGHEST = 1.3
"""Curves are drawn up to this multiple of the highest of their minima."""
MARGIN = 0.05
"""Share of the range of the losses that is left free above and below them."""
OPTIMUM: dict[str, Any] = {"markeredgecolor": "black", "markersize": 7}


def iso_flop(axis: Axes, curves: Sequence[IsoFlop], data: FitData | None = None) -> None:
    """Draw the best loss at each size for several budgets, each with its optimum and the optimum's interval; dotted outside the runs.

    Args:
        axis: where.
        curves: one a budget, of the same amount of distinct specialist text.
        data: runs, if any; those at one of the budgets that would have been the same with this amount of text are drawn.
    """
    special = any((curve.share_spec > 0).any() for curve in curves)
    for number, (colour, curve) in enumerate(zip(shades(len(curves)), curves, strict=True)):
        axis.fill_between(curve.params, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
        axis.plot(curve.params, curve.loss, ":", color=colour, linewidth=1.4)
        axis.plot(curve.params, np.where(curve.inside, curve.loss, np.nan), "-", color=colour, linewidth=1.8)
        best, loss = float(curve.params[curve.best]), float(curve.loss[curve.best])
        if curve.at_end:
            axis.plot([], [], "-", color=colour, label=f"{curve.flops:.3g} FLOPs: no optimum among the sizes")
        else:
            label = f"{curve.flops:.3g} FLOPs: {format_count(best)} {format_interval(*curve.params_interval)}"
            axis.plot(curve.params_interval, [loss, loss], "-", color=colour, linewidth=6, alpha=0.4, solid_capstyle="butt")
            axis.plot([best], [loss], MARKERS[number % len(MARKERS)], color=colour, label=label, **OPTIMUM)
        if data is not None:
            rows = np.abs(np.log(data.flops / curve.flops)) < np.log(SAME_BUDGET)
            rows &= np.logical_and(with_text(data, curve.unique_spec), (data.tokens_spec > 0) == special)
            axis.plot(data.params_by["non_embedding"][rows], np.exp(data.log_loss[rows]), "x", color=colour, markersize=5, markeredgewidth=1.3)
    if data is not None:
        axis.plot([], [], "x", color=GREY, label="trained at about the budget, any split")
    axis.set_ylim(0.98 * min(curve.low.min() for curve in curves), HIGHEST * max(curve.loss.min() for curve in curves))
    log_counts(axis)
    about = f", {format_count(curves[0].unique_spec)} distinct specialist tokens" if special else ""
    of = "specialist loss" if special else "loss"
    axis.set(xlabel="non-embedding parameters N", ylabel=f"{of} [nats/token]", title=f"Best loss at each size{about}")
    legend_below(axis, "budget: best size [90 % interval]; dotted: outside the runs")


def iso_flop_shares(axis: Axes, curves: Sequence[IsoFlop]) -> None:
    """Draw the best share of specialist tokens at each size for several budgets; dotted outside the runs."""
    for number, (colour, curve) in enumerate(zip(shades(len(curves)), curves, strict=True)):
        share = curve.share_spec[curve.best]
        axis.plot(curve.params, curve.share_spec, ":", color=colour, linewidth=1.4)
        axis.plot(curve.params, np.where(curve.inside, curve.share_spec, np.nan), "-", color=colour, linewidth=1.8)
        label = f"{curve.flops:.3g} FLOPs: {share:.0%}, {format_epochs(curve.epochs_spec[curve.best], 2)}"
        if curve.at_end:
            axis.plot([], [], "-", color=colour, label=f"{label}, at the end of the range of sizes")
        else:
            axis.plot([curve.params[curve.best]], [share], MARKERS[number % len(MARKERS)], color=colour, label=label, **OPTIMUM)
    axis.set_ylim(0, 1.02)
    log_counts(axis)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set(xlabel="non-embedding parameters N", ylabel="share of specialist tokens in all tokens", title="Best split at each size")
    legend_below(axis, "budget: split at the least loss")


def size_curve(axis: Axes, allocation: Allocation, curve: IsoFlop) -> None:
    """Draw the best forecast loss by size under the limits of a request, the recommendation, and the sizes that were asked for.

    Args:
        axis: where.
        allocation: the recommendation, under a law that knows no split.
        curve: of its budget, its text and its limits.
    """
    plan, request = allocation.plan, allocation.request
    axis.plot(curve.params, np.where(curve.inside, curve.loss, np.nan), "-", color=COLOURS[0], label="best loss at each size")
    axis.plot(curve.params, curve.loss, ":", color=COLOURS[0], label="the same, outside the runs")
    axis.fill_between(curve.params, curve.low, curve.high, color=COLOURS[0], alpha=0.13, linewidth=0, label="90 % interval of the law")
    low, high = allocation.params_within
    if low < high:
        axis.axvspan(low, high, color=COLOURS[1], alpha=0.15, linewidth=0, label=f"within {100 * request.get('tolerance', TOLERANCE):.3g} % of the best")
    ends = [request["params"]] if request.get("params") else request.get("params_range") or request.get("params_among") or []
    for number, size in enumerate(ends):
        axis.axvline(size, linestyle="--", linewidth=0.9, color=GREY, label=None if number else f"size{'s' * (len(ends) > 1)} asked for")
    label = f"recommendation, 90 % interval of one run: {format_count(plan.params_non_embedding)}"
    error = [[plan.loss - plan.loss_low], [plan.loss_high - plan.loss]]
    axis.errorbar([plan.params_non_embedding], [plan.loss], error, fmt="o", color=COLOURS[2], capsize=4, label=label)
    low, high = min(curve.low.min(), plan.loss_low), max(min(curve.high.max(), HIGHEST * plan.loss), plan.loss_high)
    axis.set_ylim(low - MARGIN * (high - low), high + MARGIN * (high - low))
    log_counts(axis)
    text = f", {format_count(plan.unique_spec)} distinct tokens" if allocation.one_corpus else ""
    axis.set(xlabel="non-embedding parameters N", ylabel="loss [nats/token]")
    titled(axis, f"Best loss at each size, {request['flops']:.3g} FLOPs{text}", standing(allocation.extrapolation, allocation.general))
    legend_below(axis)


def split_curve(axis: Axes, allocation: Allocation) -> None:
    """Draw the best forecast loss by share of specialist tokens, and the recommendation."""
    plan = allocation.plan
    share, loss = (np.array(allocation.curve[name]) for name in ("share", "loss"))
    if 0 < plan.share_spec < APART:
        share, loss = share[share > 0], loss[share > 0]
        axis.set_xscale("log")
    # Where the limit on passes allows no split there is no line, and a single split between two such gaps is a point.
    gaps = np.flatnonzero(np.diff(share) > 1.5 * APART) + 1
    for number, part in enumerate(np.split(np.arange(len(share)), gaps)):
        label = None if number else "best size for each split"
        axis.plot(share[part], loss[part], "." if len(part) == 1 else "-", color=COLOURS[0], label=label)
    tolerance = allocation.request.get("tolerance", TOLERANCE)
    low, high = (max(end, share.min(initial=1.0)) for end in allocation.share_within)
    axis.axvspan(low, high, color=COLOURS[1], alpha=0.15, label=f"within {100 * tolerance:.3g} % of the best")
    error = [[plan.loss - plan.loss_low], [plan.loss_high - plan.loss]]
    axis.errorbar([plan.share_spec], [plan.loss], error, fmt="o", color=COLOURS[2], capsize=4, label="recommendation, 90 % interval")
    low = min([*allocation.curve["loss"], plan.loss_low])
    near = [plan.loss, *(loss for loss in allocation.curve["loss"] if loss < 1.25 * plan.loss)]
    high = max(max(near), plan.loss_high)
    axis.set_ylim(low - MARGIN * (high - low), high + MARGIN * (high - low))
    axis.set(xlabel="share of specialist tokens", ylabel="specialist loss [nats/token]")
    title = f"{plan.flops:.3g} FLOPs, {format_count(plan.unique_spec)} distinct specialist tokens"
    titled(axis, title, standing(allocation.extrapolation, allocation.general))
    axis.legend(**LEGEND)


def standing(extrapolation: Mapping[str, float], general: Mapping[str, Any] | None) -> list[str]:
    """Describe how far outside the runs a plan lies, and which limit on the general loss it is to keep.

    Args:
        extrapolation: by what factor it lies outside, by axis.
        general: its general loss, where that is limited: fields of `retention.GeneralLoss`.
    """
    lines = []
    if where := outside(extrapolation):
        lines.append(f"{'NOT A FORECAST, ' if extrapolation['flops'] > TOO_FAR else ''}outside the runs: {where}")
    if general:
        far = f", {general['extrapolation']:.3g}× outside the runs of its law" if general["extrapolation"] > NEAR else ""
        kept = f"kept with a probability of {general['probability']:.0%}, by {100 * general['replay_fraction']:.3g} % of replay"
        lines.append(f"{general['limit']}: {kept}{far}")
    return lines


def verification(axis: Axes, result: Verification) -> None:
    """Draw one outcome against its forecast interval."""
    axis.errorbar([0], [result.forecast], [[result.forecast - result.low], [result.high - result.forecast]], fmt="o", color=COLOURS[0], capsize=6)
    axis.plot([1], [result.measured], "D", color=COLOURS[1] if result.inside else COLOURS[3])
    axis.axhspan(result.low, result.high, color=COLOURS[0], alpha=0.1)
    axis.set_xticks([0, 1], ["forecast, 90 % interval", "measured"])
    axis.set_xlim(-0.6, 1.6)
    where, way = "inside" if result.inside else "OUTSIDE", "high" if result.error > 0 else "low"
    axis.set(ylabel="specialist loss [nats/token]", title=f"Outcome {where} the interval;\nforecast {abs(result.error_percent):.2f} % too {way}")
