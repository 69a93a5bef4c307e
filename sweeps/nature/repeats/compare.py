"""Forecast the runs of this sweep by laws that were fitted to ../before alone: errors by law, and a figure.

    python sweeps/nature/repeats/compare.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from planner.fit.data import fit_data
from planner.fit.fit import fit
from planner.report.style import COLOURS, legend_below, save
from planner.runs import read_runs
from planner.units import format_count

LAWS = "root-near-rote", "root-near-overfit", "ceiling-near-rote", "ceiling-near-overfit", "gap-competing", "gap-penalised"
DRAWN = LAWS[:2]


def main() -> None:
    """Print the errors and draw the figure."""
    here = Path(__file__).parent
    before = fit_data(read_runs(here.parent / "before" / "runs.csv"))
    runs = pd.read_csv(here / "runs.csv")
    params = {kind: runs[f"params_{kind}"].to_numpy(float) for kind in ("non_embedding", "total")}
    amounts = [runs[name].to_numpy(float) for name in ("tokens_pt", "tokens_spec", "unique_spec")]
    errors = {}
    for name in LAWS:
        law = fit(before, name, params_kinds=("total",), resamples=200, largest=False)
        points = law.points(params, *amounts)
        runs[name] = np.exp(law.log_loss(points))
        errors[name] = 100 * (runs[name] / runs["loss_spec"] - 1)
    levels = [runs["unique_spec"].round(-3), runs["epochs_spec"].round()]
    print("errors of the forecasts in % of the loss: mean absolute (bias, worst), by distinct tokens and epochs")
    for name, error in errors.items():
        worst = error[error.abs().idxmax()]
        print(f"{name}: {error.abs().mean():.2f} ({error.mean():+.2f}, {worst:+.1f})")
        for (unique, epochs), rows in error.groupby(levels):
            print(f"    {format_count(unique)} distinct, {epochs:.0f} epochs: {rows.abs().mean():.2f} ({rows.mean():+.2f}, {rows[rows.abs().idxmax()]:+.1f})")
    print(runs[["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "epochs_spec", "loss_spec", *DRAWN, "flags"]].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
