"""Forecast runs that repeat little text often by laws fitted to another sweep of the domain: errors by law, and a figure.

    python sweeps/compare_repeats.py sweeps/nature/before sweeps/nature/repeats
    python sweeps/compare_repeats.py sweeps/medicine sweeps/medicine/repeats
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from compare_long import forecast
from matplotlib.axes import Axes

from planner.fit.data import fit_data
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.report.style import COLOURS, legend_below, save
from planner.runs import read_runs
from planner.units import format_count

LAWS = "root-near-rote", "root-near-overfit", "ceiling-near-rote", "ceiling-near-overfit", "gap-competing", "gap-penalised"
DRAWN = {"root-near-overfit": "-", "root-near-rote": "--"}
EPOCHS = 2, 4, 8, 16
TRUNK = 4.5e6
"""General tokens of the runs in the figure."""


def main(fitted: Path, tested: Path) -> None:
    """Print the errors and draw the figure."""
    data = fit_data(read_runs(fitted / "runs.csv"))
    laws = {name: fit(data, name, params_kinds=("total",), resamples=200, largest=False) for name in LAWS}
    laws["auto"] = fit(data, resamples=200, largest=False)
    runs = pd.read_csv(tested / "runs.csv")
    levels = [runs["unique_spec"].round(-3), runs["epochs_spec"].round()]
    print("errors of the forecasts in % of the loss: mean absolute (bias, worst), by distinct tokens and epochs")
    for name, law in laws.items():
        found = forecast(law, runs)
        runs[name], error = found["forecast"], found["error_percent"]
        print(f"{name}: {_summary(error)}; {found['inside'].sum()} of {len(runs)} inside their 90 % intervals")
        for (unique, epochs), rows in error.groupby(levels):
            print(f"    {format_count(unique)} distinct, {epochs:.0f} epochs: {_summary(rows)}")
    columns = ["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "epochs_spec", "loss_spec", *DRAWN, "flags"]
    print(runs[columns].round(3).to_string(index=False))
    draw(runs, {name: laws[name] for name in DRAWN}, tested.parent / "figures" / "repeats.png")


def draw(runs: pd.DataFrame, laws: dict[str, FittedLaw], path: Path) -> None:
    """Draw the loss by epochs, a panel for each amount of distinct text, with the laws' forecasts."""
    runs = runs[(runs["tokens_pt"] / TRUNK).between(0.9, 1.1)]

    def panels(axes: Sequence[Axes]) -> None:
        for axis, (unique, group) in zip(axes, runs.groupby("unique_spec"), strict=True):
            for colour, (size, rows) in zip(COLOURS, group.groupby("params_non_embedding"), strict=False):
                axis.plot(rows["epochs_spec"], rows["loss_spec"], "o", color=colour, label=f"{format_count(size)} parameters")
                epochs = np.geomspace(rows["epochs_spec"].min(), rows["epochs_spec"].max(), 60)
                along = rows.iloc[[0] * len(epochs)].assign(tokens_spec=unique * epochs)
                for name, law in laws.items():
                    axis.plot(epochs, forecast(law, along)["forecast"], DRAWN[name], color=colour, linewidth=1.4)
            for name, line in DRAWN.items():
                axis.plot([], [], line, color="#6b6b6b", label=name)
            axis.set(title=f"{format_count(round(unique, -3))} distinct specialist tokens", xlabel="epochs over them", xscale="log")
            axis.set_ylim(0.97 * runs["loss_spec"].min(), 1.08 * runs["loss_spec"].max())
            ticks = [number for number in EPOCHS if 0.8 * group["epochs_spec"].min() < number < 1.2 * group["epochs_spec"].max()]
            axis.set_xticks(ticks, [str(number) for number in ticks])
            axis.minorticks_off()
            legend_below(axis)
        axes[0].set_ylabel("specialist loss [nats/token]")

    save(path, panels, panels=runs["unique_spec"].nunique(), width=5.0, height=4.6)


def _summary(error: pd.Series[float]) -> str:
    return f"{error.abs().mean():.2f} ({error.mean():+.2f}, {error[error.abs().idxmax()]:+.1f})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
