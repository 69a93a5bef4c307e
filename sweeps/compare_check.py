"""Compare the recommendation of a sweep's check/ with all splits trained at its budget: regret, forecast errors, coverage, and a figure.

    python sweeps/compare_check.py sweeps/medicine
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from planner.allocate.allocation import Allocation
from planner.fit.fitted import FittedLaw
from planner.report.plans import split_curve
from planner.report.style import COLOURS, legend_below, save
from planner.units import format_count
from planner.verify import verify


def main(folder: Path) -> None:
    """Print the table and draw the figure."""
    check = folder / "check"
    own = check / "law.json"  # fitted to the cheaper runs only, if the check has its own law
    law, runs = FittedLaw.load(own if own.exists() else folder / "law.json"), pd.read_csv(check / "runs.csv")
    answer, outcome = Allocation.load(check / "allocation.json"), verify(check / "launch")
    params = {"non_embedding": runs["params_non_embedding"].to_numpy(float), "total": runs["params_total"].to_numpy(float)}
    forecast = law.forecast(params, runs["tokens_pt"], runs["tokens_spec"], runs["unique_spec"].fillna(answer.plan.unique_spec))
    runs = runs.assign(forecast=forecast.loss, low=forecast.low, high=forecast.high, share=runs["tokens_spec"] / (runs["tokens_pt"] + runs["tokens_spec"]))
    runs["error_percent"] = 100 * (runs["forecast"] / runs["loss_spec"] - 1)
    runs["inside"] = (runs["low"] <= runs["loss_spec"]) & (runs["loss_spec"] <= runs["high"])
    columns = ["params_non_embedding", "tokens_pt", "tokens_spec", "epochs_spec", "loss_spec", "forecast", "error_percent", "inside", "flops"]
    print(runs[columns].round(3).to_string(index=False))
    best = min(float(runs["loss_spec"].min()), outcome.measured)
    regret = outcome.measured - best
    print(f"\nrecommended: {format_count(answer.plan.params_non_embedding)} parameters, {100 * answer.plan.share_spec:.1f} % specialist tokens")
    print(f"its loss: {outcome.measured:.4f}; forecast {outcome.forecast:.4f} ({outcome.low:.4f} to {outcome.high:.4f}), {outcome.error_percent:+.2f} %")
    print(f"best of {len(runs) + 1} runs at {answer.request['flops']:.3g} FLOPs: {best:.4f}")
    print(f"regret: {regret:.4f} nats, {100 * regret / best:.2f} %")
    special = runs[runs["tokens_spec"] > 0]
    print(f"mean absolute forecast error: {special['error_percent'].abs().mean():.2f} % on {len(special)} runs with specialist tokens")
    print(f"inside the 90 % interval: {int(runs['inside'].sum())} of {len(runs)}")

    def draw(axes: Sequence[Any]) -> None:
        split_curve(axes[0], answer)
        for colour, (size, group) in zip(COLOURS[3:], special.groupby("params_non_embedding"), strict=False):
            axes[0].plot(group["share"], group["loss_spec"], "x", color=colour, markersize=6, markeredgewidth=1.6, label=f"trained, {format_count(size)}")
        axes[0].plot([answer.plan.share_spec], [outcome.measured], "*", color="black", markersize=11, label="recommended run, trained")
        axes[0].set_ylim(0.98 * best, 1.01 * max(special["loss_spec"].max(), answer.plan.loss))
        axes[0].set_title(f"{answer.request['flops']:.3g} FLOPs, 4× the largest run of the law: regret {100 * regret / best:.2f} %")
        off = runs[runs["loss_spec"] > axes[0].get_ylim()[1]]
        beyond = [f"{share:.0%} specialist tokens, loss {loss:.2f}" for share, loss in zip(off["share"], off["loss_spec"], strict=True)]
        legend_below(axes[0], f"above the axis: {'; '.join(beyond)}" if beyond else None)
        axes[0].set_xlabel("share of specialist tokens in all tokens")
        span = np.array([special["loss_spec"].min() * 0.99, special["loss_spec"].max() * 1.01])
        axes[1].plot(span, span, color="#6b6b6b", linewidth=1)
        for colour, (size, group) in zip(COLOURS[3:], special.groupby("params_non_embedding"), strict=False):
            error = [group["forecast"] - group["low"], group["high"] - group["forecast"]]
            axes[1].errorbar(group["loss_spec"], group["forecast"], error, fmt="o", color=colour, markersize=4, capsize=2, label=format_count(size))
        low, high = outcome.forecast - outcome.low, outcome.high - outcome.forecast
        axes[1].errorbar([outcome.measured], [outcome.forecast], [[low], [high]], fmt="*", color="black", markersize=10, capsize=2, label="recommended")
        axes[1].set(xlabel="measured [nats/token]", ylabel="forecast, 90 % interval [nats/token]", title="The same runs against the law")
        legend_below(axes[1], columns=4)

    save(folder / "figures" / "check.png", draw, panels=2, width=6.0, height=4.6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
