"""Figures of artefacts. Each function draws on an `Axes` that it is given; `save` makes the page around it. No pyplot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.allocate.allocation import Allocation
from planner.fit.data import FitData
from planner.fit.fitted import FittedLaw
from planner.units import format_count
from planner.verify import Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b528b", "#21908d", "#d1792a", "#a6435f", "#6b6b6b", "#8a6bbf")
GREY = "#6b6b6b"


def save(path: Path, draw: Callable[[Sequence[Axes]], None], *, panels: int = 1, width: float = 6.4, height: float = 4.2) -> None:
    """Draw panels side by side into a PNG file.

    Args:
        path: the file.
        draw: called with the axes.
        panels: how many.
        width: of one panel [inches].
        height: [inches].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    draw(list(axes))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=150)
    temporary.replace(path)


def learning_rates(axis: Axes, tuning: dict[str, Any]) -> None:
    """Draw probes and optima of `tune.json`: loss by learning rate, one line a size, the rule's rate marked."""
    rule = tuning["rule"]
    for colour, optimum in zip(COLOURS, tuning["optima"], strict=False):
        size = optimum["params_non_embedding"]
        ended = [item for item in tuning["probes"] if item["params_non_embedding"] == size and not item["diverged"]]
        probes = sorted((item["learning_rate"], item["loss"]) for item in ended)
        axis.plot(*zip(*probes, strict=True), "o-", color=colour, label=f"{format_count(size)} parameters", markersize=4)
        rate = rule["lr_coefficient"] * (size / rule["lr_reference_params"]) ** -rule["lr_exponent"]
        axis.axvline(rate, color=colour, linestyle=":", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.1e}")
    axis.tick_params(axis="x", labelrotation=30)
    axis.set(xlabel="peak learning rate", ylabel="specialist loss [nats/token]", title="Learning-rate basins; dotted: the rate of the rule")
    axis.legend(frameon=False)


def size_slices(axis: Axes, law: FittedLaw, data: FitData) -> None:
    """Draw loss by model size with the law's band, for the cells that most sizes share."""
    cells: dict[tuple[float, float, float], list[int]] = {}
    for row in range(data.count):
        unique = float(np.round(np.nan_to_num(data.unique_spec[row]), -3))
        cells.setdefault((float(data.tokens_pt[row]), float(data.tokens_spec[row]), unique), []).append(row)
    shared = [key for key, rows in cells.items() if len(np.unique(data.params[rows])) >= min(4, len(np.unique(data.params)))]
    for colour, key in zip(COLOURS, _spread(sorted(shared), 5), strict=False):
        rows = np.array(cells[key])
        pt, spec, unique = key
        sizes = np.geomspace(data.params.min(), data.params.max(), 60)
        _band(axis, law, data, sizes, pt, spec, float(np.nanmax(np.append(data.unique_spec[rows], 1.0))), colour)
        label = f"{format_count(pt)} + {format_count(spec)}" + (f" ({spec / unique:.2g} epochs)" if unique else "")
        axis.plot(data.params[rows], np.exp(data.log_loss[rows]), "o", color=colour, markersize=4, label=label)
    _log_counts(axis)
    axis.set(xlabel="parameters N", ylabel="specialist loss [nats/token]", title="Loss by size; general + specialist tokens")
    axis.legend(frameon=False, fontsize=8)


def token_slices(axis: Axes, law: FittedLaw, data: FitData) -> None:
    """Draw loss by specialist tokens at the middle size, one line an amount of distinct text, at the middle amount of general tokens."""
    sizes = np.unique(data.params)
    counts = [(data.params == size).sum() for size in sizes]
    size = sizes[int(np.argmax(counts))]
    at = data.params == size
    general = np.unique(data.tokens_pt[at & (data.tokens_pt > 0) & (data.tokens_spec > 0)])
    amount = max(general, key=lambda value: int((at & (data.tokens_pt == value)).sum())) if len(general) else 0.0
    rows = at & (data.tokens_pt == amount) & (data.tokens_spec > 0)
    for colour, unique in zip(COLOURS, _spread(list(np.unique(data.unique_spec[rows])), 6), strict=False):
        chosen = np.flatnonzero(rows & (data.unique_spec == unique))
        tokens = np.geomspace(data.tokens_spec[rows].min(), data.tokens_spec[rows].max(), 60)
        _band(axis, law, data, size, amount, tokens, unique, colour, along="tokens")
        axis.plot(data.tokens_spec[chosen], np.exp(data.log_loss[chosen]), "o", color=colour, markersize=4, label=f"{format_count(unique)} distinct")
    _log_counts(axis)
    axis.set(
        xlabel="specialist tokens seen, repeats included", ylabel="specialist loss [nats/token]",
        title=f"Repetition: {format_count(size)} parameters after {format_count(amount)} general tokens",
    )  # fmt: skip
    axis.legend(frameon=False, fontsize=8)


def forecasts(axis: Axes, law: FittedLaw, data: FitData) -> None:
    """Draw forecast against measured loss of all rows, coloured by size."""
    forecast = law.forecast(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec).loss
    measured = np.exp(data.log_loss)
    span = [min(measured.min(), forecast.min()) * 0.99, max(measured.max(), forecast.max()) * 1.01]
    axis.plot(span, span, color=GREY, linewidth=1)
    drawn = axis.scatter(measured, forecast, c=np.log10(data.params), cmap="viridis", s=14)
    assert axis.figure is not None
    bar = axis.figure.colorbar(drawn, ax=axis, label="parameters N")
    bar.ax.yaxis.set_major_formatter(lambda value, _: format_count(10**value))
    error = 100 * np.abs(forecast / measured - 1).mean()
    axis.set(xlabel="measured [nats/token]", ylabel="law [nats/token]", title=f"All runs of the fit: {error:.2f} % mean absolute residual")


def holdout(axis: Axes, law: FittedLaw) -> None:
    """Draw forecast against measured loss of the largest size, which the law had not seen."""
    found = law.holdout
    measured, forecast = np.array(found["measured"]), np.array(found["forecast"])
    span = [min(measured.min(), forecast.min()) * 0.99, max(measured.max(), forecast.max()) * 1.01]
    axis.plot(span, span, color=GREY, linewidth=1)
    axis.fill_between(span, np.array(span) * 0.985, np.array(span) * 1.015, color=GREY, alpha=0.15, label="±1.5 %")
    axis.plot(measured, forecast, "o", color=COLOURS[0], markersize=4)
    axis.set(
        xlabel="measured [nats/token]", ylabel="forecast [nats/token]",
        title=f"{format_count(found['params'])} parameters, unseen by the law: {found['mean_absolute_percent']:.2f} % mean error",
    )  # fmt: skip
    axis.legend(frameon=False)


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
    axis.legend(frameon=False, fontsize=8)


def verification(axis: Axes, result: Verification) -> None:
    """Draw one outcome against its forecast interval."""
    axis.errorbar([0], [result.forecast], [[result.forecast - result.low], [result.high - result.forecast]], fmt="o", color=COLOURS[0], capsize=6)
    axis.plot([1], [result.measured], "D", color=COLOURS[1] if result.inside else COLOURS[3])
    axis.axhspan(result.low, result.high, color=COLOURS[0], alpha=0.1)
    axis.set_xticks([0, 1], ["forecast, 90 % interval", "measured"])
    axis.set_xlim(-0.6, 1.6)
    where = "inside" if result.inside else "OUTSIDE"
    axis.set(ylabel="specialist loss [nats/token]", title=f"Outcome {where} the interval; error {result.error_percent:+.2f} %")


def _band(axis: Axes, law: FittedLaw, data: FitData, params: Any, pt: Any, spec: Any, unique: Any, colour: str, along: str = "params") -> None:
    arrays = [np.array(item) for item in np.broadcast_arrays(*(np.asarray(item, dtype=float) for item in (params, pt, spec, unique)))]
    # Between the sizes of the table the other conventions of N are interpolated.
    known, order = data.params_by["non_embedding"], np.argsort(data.params_by["non_embedding"])
    by = {kind: np.exp(np.interp(np.log(arrays[0]), np.log(known[order]), np.log(values[order]))) for kind, values in data.params_by.items()}
    forecast = law.forecast(by, *arrays[1:])
    x = arrays[0] if along == "params" else arrays[2]
    axis.plot(x, forecast.loss, color=colour, linewidth=1.3)
    axis.fill_between(x, forecast.low, forecast.high, color=colour, alpha=0.12, linewidth=0)


def _log_counts(axis: Axes) -> None:
    """Make the horizontal axis one of counts on a log scale, labelled at 1, 2 and 5 times each power of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: format_count(value))


def _spread(items: list[Any], count: int) -> list[Any]:
    """Take some of a list, evenly."""
    if len(items) <= count:
        return items
    return [items[round(number * (len(items) - 1) / (count - 1))] for number in range(count)]
