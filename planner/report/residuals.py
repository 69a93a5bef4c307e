"""A law against runs: those that it was fitted to, and held-out ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from planner.arrays import Array
from planner.fit.data import FitData
from planner.fit.fitted import FittedLaw
from planner.fit.holdout import sizes_held
from planner.report.style import COLOURS, GREY, LEGEND, colour_bar, legend_below, log_counts
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALONG = {
    "params": "non-embedding parameters N", "tokens_pt": "general tokens",
    "tokens_spec": "specialist tokens seen, repeats included", "epochs": "epochs: specialist tokens seen over distinct ones",
}  # fmt: skip
"""What residuals can be drawn against."""
APART = 1.25
"""Runs share a mean unless a gap of this factor separates them."""
SPAN = 2.0
"""Widest factor over which runs share a mean, for tables without a grid, which have no gaps."""
JITTER = 0.012
"""How far points are moved sideways, as a share of the axis."""


def forecasts(axis: Axes, law: FittedLaw, data: FitData) -> None:
    """Draw forecast against measured loss of all rows, coloured by size."""
    from matplotlib.colors import LogNorm

    forecast = law.forecast(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec).loss
    measured = np.exp(data.log_loss)
    span = [min(measured.min(), forecast.min()) * 0.99, max(measured.max(), forecast.max()) * 1.01]
    axis.plot(span, span, color=GREY, linewidth=1)
    drawn = axis.scatter(measured, forecast, c=data.params, cmap="viridis", norm=LogNorm(), s=14)
    colour_bar(axis, drawn, data.params, ALONG["params"])
    error = 100 * np.abs(forecast / measured - 1).mean()
    axis.set(xlabel="measured [nats/token]", ylabel="law [nats/token]", title=f"All runs of the fit: {error:.2f} % mean absolute residual")


def residuals(axis: Axes, law: FittedLaw, data: FitData, along: str) -> None:
    """Draw the residuals of runs against one of `ALONG`; coloured by size, or against size by specialist tokens.

    A dash is the mean of the runs around it; the band is one standard deviation of run noise either way. Points are moved a little sideways, so that
    they do not overlap.
    """
    from matplotlib.colors import LogNorm

    values = np.asarray(getattr(data, along), dtype=float)
    forecast = law.forecast(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec).loss
    off = 100 * (np.exp(data.log_loss) / forecast - 1)
    # Runs without any are drawn half a decade left of the others.
    zero = float(values[values > 0].min()) / 3 if (values == 0).any() and (values > 0).any() else None
    x = np.where(values > 0, values, zero or 1.0)
    aside = x * np.exp(JITTER * np.log(x.max() / x.min()) * np.random.default_rng(0).uniform(-1, 1, data.count))
    noise = 100 * law.noise
    axis.axhspan(-noise, noise, color=GREY, alpha=0.15, linewidth=0, label=f"run noise: ±{noise:.2f} %")
    axis.axhline(0, color=GREY, linewidth=1)
    tokens = data.tokens_pt if not data.two_stage and not data.repeats else data.tokens_spec
    colours = tokens if along == "params" else data.params
    shown = colours > 0
    axis.scatter(aside[~shown], off[~shown], s=16, facecolor="none", edgecolor=GREY, linewidth=1, label="no specialist tokens" if (~shown).any() else None)
    if shown.any():
        drawn = axis.scatter(aside[shown], off[shown], s=16, c=colours[shown], cmap="viridis", norm=LogNorm(), alpha=0.85, linewidth=0)
        colour_bar(axis, drawn, colours[shown], ALONG["tokens_spec" if data.tokens_spec.any() else "tokens_pt"] if along == "params" else ALONG["params"])
    for number, near in enumerate(_groups(x)):
        label = "mean of nearby runs" if number == 0 else None
        axis.plot(np.exp(np.log(x[near]).mean()), off[near].mean(), "_", color="black", markersize=15, markeredgewidth=2, label=label)
    log_counts(axis, zero)
    axis.set(xlabel=ALONG[along], ylabel="measured minus law [% of the law]", title=f"Residuals by {ALONG[along].split(':')[0].split(',')[0]}")
    legend_below(axis, columns=3)


def _groups(x: Array) -> list[Any]:
    """Group runs, by their places on an axis, into those that share a mean; return the indices of each group."""
    order = np.argsort(x)
    height = np.log(x[order])
    gap = np.append(True, np.diff(height) > np.log(APART))
    part = np.floor((height - height[gap][np.cumsum(gap) - 1]) / np.log(SPAN))
    return np.split(order, np.flatnonzero(gap[1:] | (np.diff(part) > 0)) + 1)


def holdout(axis: Axes, law: FittedLaw) -> None:
    """Draw forecast against measured loss of the largest size, or of several, held out from choice and fit."""
    found = law.holdout
    measured, forecast = np.array(found["measured"]), np.array(found["forecast"])
    span = [min(measured.min(), forecast.min()) * 0.99, max(measured.max(), forecast.max()) * 1.01]
    axis.plot(span, span, color=GREY, linewidth=1)
    axis.fill_between(span, np.array(span) * 0.985, np.array(span) * 1.015, color=GREY, alpha=0.15, label="±1.5 %")
    axis.plot(measured, forecast, "o", color=COLOURS[0], markersize=4)
    axis.set(
        xlabel="measured [nats/token]", ylabel="forecast [nats/token]",
        title=f"{' to '.join(map(format_count, sizes_held(found)))} parameters, held out: {found['mean_absolute_percent']:.2f} % mean error",
    )  # fmt: skip
    axis.legend(**LEGEND)
