"""Compare the runs of a sweep's long/, with more general tokens than any run of its law, with the law's forecasts: errors, coverage, and a figure.

    python sweeps/compare_long.py sweeps/medicine
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from planner.fit.fitted import FittedLaw
from planner.report.style import COLOURS, legend_below, log_counts, save
from planner.units import format_count

SHOWN = 410e3, 200e3
"""Specialist tokens, and distinct ones, of the runs along which the law is drawn."""


def main(folder: Path) -> None:
    """Print the table and draw the figure."""
    law = FittedLaw.load(folder / "law_2026-11-29.json")  # as committed before these runs
    runs = pd.read_csv(folder / "long" / "runs.csv")
    within = pd.read_csv(folder / "runs.csv")
    runs, within = forecast(law, runs), forecast(law, within[within["flags"].isna()])
    columns = ["params_non_embedding", "tokens_pt", "tokens_spec", "epochs_spec", "loss_spec", "forecast", "error_percent", "inside", "flags"]
    print(runs[columns].round(3).to_string(index=False))
    usual = runs[runs["flags"].isna()]
    for name, group in (("all", runs), ("without flags", usual), *((format_count(size), rows) for size, rows in usual.groupby("params_non_embedding"))):
        error = group["error_percent"]
        worst, inside = error[error.abs().idxmax()], int(group["inside"].sum())
        print(f"{name}: {len(group)} runs, error {error.abs().mean():.2f} % absolute, bias {error.mean():+.2f} %, worst {worst:+.1f} %, {inside} inside")
    every = pd.concat([within, usual])
    every = every[near(every["tokens_spec"], SHOWN[0]) & near(every["unique_spec"], SHOWN[1]) & (every["seed"] == 0) & (every["tokens_pt"] > 0)]
    sizes = sorted(usual["params_non_embedding"].unique())

    def draw(axes: Sequence[Any]) -> None:
        for colour, size in zip(COLOURS, sizes, strict=False):
            group, alike = every[every["params_non_embedding"] == size], {"color": colour, "markersize": 6, "markeredgewidth": 1.5}
            tokens = np.geomspace(group["tokens_pt"].min(), runs["tokens_pt"].max(), 60)
            params = {"non_embedding": np.full(60, size), "total": np.full(60, group["params_total"].iloc[0])}
            line = law.forecast(params, tokens, group["tokens_spec"].iloc[0], group["unique_spec"].iloc[0])
            axes[0].plot(tokens, line.loss, color=colour, linewidth=1.4)
            axes[0].fill_between(tokens, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
            unseen = group["sweep"].str.endswith("long")
            axes[0].plot(group["tokens_pt"][~unseen], group["loss_spec"][~unseen], "o", label=format_count(size), **alike)
            axes[0].plot(group["tokens_pt"][unseen], group["loss_spec"][unseen], "o", markerfacecolor="white", **alike)
            own = usual[usual["params_non_embedding"] == size]
            error = [own["forecast"] - own["low"], own["high"] - own["forecast"]]
            axes[1].errorbar(own["loss_spec"], own["forecast"], error, fmt="o", color=colour, markersize=4, capsize=2, label=format_count(size))
        log_counts(axes[0])
        axes[0].set(xlabel="general tokens", ylabel="specialist loss [nats/token]")
        axes[0].set_title(f"{format_count(SHOWN[0])} specialist tokens of {format_count(SHOWN[1])}; hollow: not seen by the law")
        span = np.array([usual["loss_spec"].min() * 0.99, usual["loss_spec"].max() * 1.01])
        axes[1].plot(span, span, color="#6b6b6b", linewidth=1)
        axes[1].set(xlabel="measured [nats/token]", ylabel="forecast, 90 % interval [nats/token]", title="All runs with longer trunks against the law")
        for axis in axes:
            legend_below(axis, columns=4)

    save(folder / "figures" / "long.png", draw, panels=2, width=6.0, height=4.6)


def forecast(law: FittedLaw, runs: pd.DataFrame) -> pd.DataFrame:
    """Add each run's forecast, its interval, the error and whether the loss lies inside."""
    params = {"non_embedding": runs["params_non_embedding"].to_numpy(float), "total": runs["params_total"].to_numpy(float)}
    found = law.forecast(params, runs["tokens_pt"], runs["tokens_spec"], runs["unique_spec"].fillna(1.0))
    runs = runs.assign(forecast=found.loss, low=found.low, high=found.high)
    error = 100 * (runs["forecast"] / runs["loss_spec"] - 1)
    return runs.assign(error_percent=error, inside=(runs["low"] <= runs["loss_spec"]) & (runs["loss_spec"] <= runs["high"]))


def near(values: pd.Series, wanted: float) -> pd.Series:
    """Tell which values are a setting as it was realised."""
    return (values / wanted - 1).abs() < 0.2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
