"""How the time of a fit grows: with rows, from 100 to 100,000, for two laws; and with parameters, from 4 to 16, at 145 rows.

Each point is the median of several fits by `planner.fit.estimate.estimate`, with its default starts, of a synthetic table with 0.5 % noise; by
parameters 100 resamples are timed too. Prints a table; with --out it also draws growth.png beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.common import LAWS, REFERENCE, Report, cpu, one_stage_cells, synthetic, truth_of, two_stage_cells
from planner.arrays import Array
from planner.fit.estimate import estimate
from planner.fit.resample import draw_weights, fit_weighted
from planner.laws import Law

BY_ROWS = ("chinchilla", "transfer-size-saturating")
BY_PARAMETERS = (
    "overtraining", "chinchilla", "transfer-saturating", "transfer-size-saturating", "bounded-saturating", "transfer-penalised", "gap-saturating",
    "bounded-penalised", "gap-penalised", "gap-competing",
)  # fmt: skip
RESAMPLES = 100
REPEATS = 3


def main() -> None:
    """Run, print and draw."""
    report = Report(__file__, __doc__)
    counts = [100, 1000, 10_000] if report.quick else [100, 300, 1000, 3000, 10_000, 30_000, 100_000]
    by_rows = {name: [_time(LAWS[name], _many(LAWS[name], count), resamples=0) for count in counts] for name in BY_ROWS}
    rows = [[f"{count:,}", *(f"{by_rows[name][at][0]:.3f}" for name in BY_ROWS)] for at, count in enumerate(counts)]
    for name in BY_ROWS:
        slope = np.polyfit(np.log(counts[1:]), np.log([item[0] for item in by_rows[name][1:]]), 1)[0]
        report.say(f"{name}: time ∝ rows^{slope:.2f} from {counts[1]} rows on")
    report.table("CPU seconds of a fit with 24 starts, by rows", ["rows", *BY_ROWS], rows)
    by_parameters = {}
    for name in BY_PARAMETERS:
        cells = two_stage_cells()
        by_parameters[name] = _time(LAWS[name], cells, resamples=RESAMPLES)
    report.table(
        f"By parameters, {len(two_stage_cells()[0])} rows: 24 starts [CPU-ms], {RESAMPLES} resamples [CPU-ms]",
        ["law", "parameters", "fit", "resamples", "starts that agree"],
        [[name, len(LAWS[name].parameters), f"{1e3 * fit:.0f}", f"{1e3 * resamples:.0f}", agree]
         for name, (fit, resamples, agree) in by_parameters.items()],
    )  # fmt: skip
    if report.options.out:
        place = report.options.out.with_suffix(".png")
        _draw(place, counts, by_rows, by_parameters)
        report.say(f"figure: {place.name}")
    report.end()


def _many(law: Law, count: int) -> tuple[Array, ...]:
    """Draw runs from the law's layout, with jitter."""
    random = np.random.default_rng(count)
    cells = two_stage_cells() if law.stages == 2 else one_stage_cells()
    chosen = random.integers(0, len(cells[0]), count)
    jitter = np.exp(0.3 * random.normal(size=(3, count)))
    return cells[0][chosen] * jitter[0], cells[1][chosen] * jitter[1], cells[2][chosen] * jitter[2], cells[3][chosen]


def _time(law: Law, cells: tuple[Array, ...], resamples: int) -> tuple[float, float, int]:
    """Return CPU seconds of a fit and of resamples, and how many starts agree."""
    data = synthetic(law, truth_of(law), np.random.default_rng(1), 0.005, cells=cells)
    points = data.points(REFERENCE)
    repeats = 1 if data.count > 5000 else REPEATS
    found = [cpu(lambda seed=seed: estimate(law, points, data.log_loss, np.random.default_rng(seed))) for seed in range(repeats)]
    best, taken = found[0][1], 0.0
    if resamples:
        weights = draw_weights(np.arange(data.count), resamples, "multinomial", np.random.default_rng(2))
        taken, _ = cpu(lambda: fit_weighted(law, points, data.log_loss, weights, best.theta[None]))
    return float(np.median([seconds for seconds, _ in found])), taken, best.starts_agree


def _draw(place: Path, counts: list[int], by_rows: dict[str, list[tuple[float, float, int]]], by_parameters: dict[str, tuple[float, float, int]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for name, times in by_rows.items():
        left.plot(counts, [item[0] for item in times], marker="o", label=f"{name} ({len(LAWS[name].parameters)} parameters)")
    first = [item[0] for item in next(iter(by_rows.values()))]
    left.plot(counts, [first[-1] * count / counts[-1] for count in counts], color="grey", linestyle=":", label="proportional to rows")
    left.set(xscale="log", yscale="log", xlabel="rows", ylabel="CPU seconds", title="24 starts, by rows")
    left.legend(frameon=False, fontsize=8)
    sizes = [len(LAWS[name].parameters) for name in by_parameters]
    right.plot(sizes, [1e3 * item[0] for item in by_parameters.values()], "o", label="24 starts")
    right.plot(sizes, [1e3 * item[1] for item in by_parameters.values()], "s", label=f"{RESAMPLES} resamples")
    right.set(xlabel="parameters of the law", ylabel="CPU milliseconds", title=f"{len(two_stage_cells()[0])} rows, by parameters", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    place.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(place, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
