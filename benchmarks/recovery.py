"""Recovery of known parameters: many synthetic tables of each surface with 0.5 % noise; the mean error of every parameter and forecast against
the width of its own interval.

bias: mean of estimate minus truth. As a share of the interval's half-width it should be small (with T tables the share scatters by about 0.6/√T for
an unbiased estimate), and the 90 % interval of the resamples should contain the truth nine times out of ten. `ridge`: in what share of a few tables
the parameter lies on a ridge. Forecasts are of the loss without noise, in the middle, at the largest cell, and at twice the largest size and tokens.
Every other law of two stages has one line, from fewer tables.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import LAWS, REFERENCE, Report, cells_of, cpu, synthetic, truth_of
from planner.arrays import Array
from planner.fit.estimate import estimate
from planner.fit.profile import ridge
from planner.fit.resample import draw_weights, fit_weighted
from planner.laws import Law, Points

Item = tuple[str, float, float, float, float, float, float | None]
"""Parameter or forecast, truth, median estimate, bias, half-width of the interval, intervals that contain the truth [%], tables with a ridge [%]."""
NOISE = 0.005
SURFACES: dict[str, tuple[str, tuple[float, ...] | None]] = {
    "symmetric": ("chinchilla", (1.0, 0.5, 0.5, 0.3, 0.3)),
    "like Chinchilla's": ("chinchilla", (1.8172, 0.3577, 0.4564, 0.3478, 0.3658)),
    "lopsided": ("chinchilla", (0.5, 1.5, 0.05, 0.1, 0.8)),
    "transfer": ("transfer-saturating", None),
    "transfer with size": ("transfer-size-saturating", None),
    "multiplicative": ("multiplicative-saturating", None),
}
"""Law, and its true parameters (None: those of `truth_of`); the first three are those of tests/fit/test_solver.py."""
RIDGE = 50.0
"""A parameter counts as on a ridge from this percentage of the tables."""
PLACES = ("in the middle", "largest cell", "2x outside")


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    tables, resamples, fewer, few = (20, 60, 5, 60) if report.quick else (200, 200, 40, 100)
    for name, (law_name, given) in SURFACES.items():
        law = LAWS[law_name]
        truth = truth_of(law) if given is None else np.array(given)
        seconds, (items, outcome) = cpu(lambda law=law, truth=truth: _surface(law, truth, tables, resamples))
        columns = ["parameter or forecast", "truth", "median", "bias", "half-width of 90 %", "bias / half-width", "interval holds truth %", "ridge %"]
        report.table(f"{name}: {law.name}, {len(cells_of(law)[0])} rows, {tables} tables, {NOISE:.1%} noise", columns, list(map(_row, items)))
        report.say(f"status: {outcome}; {seconds:.0f} CPU-s")
    known = {law_name for law_name, _ in SURFACES.values()}
    others = [law for law in LAWS.values() if law.stages == 2 and law.target == "spec" and law.name not in known]
    columns = ["law", "parameters", "on a ridge", "largest bias / half-width", "of", "intervals hold truth %", "least", "of",
               "bias / half-width, 2x outside", "holds truth %", "status", "CPU-s"]  # fmt: skip
    rows = []
    for law in others:
        seconds, (items, outcome) = cpu(lambda law=law: _surface(law, truth_of(law), fewer, few))
        rows.append([*_line(law, items), outcome, f"{seconds:.0f}"])
    title = f"every other law of two stages: {fewer} tables each, {few} resamples, {NOISE:.1%} noise; bias and intervals of the parameters off a ridge"
    report.table(title, columns, rows)
    report.end()


def _line(law: Law, items: list[Item]) -> list[str]:
    """Summarise a surface in table cells: the parameters that are not on a ridge, and the forecast farthest out."""
    measured = [item for item in items if item[-1] is not None and item[-1] < RIDGE]
    on_ridge = [item[0] for item in items if item[-1] is not None and item[-1] >= RIDGE]
    worst, least, far = max(measured, key=lambda item: abs(item[3] / item[4])), min(measured, key=lambda item: item[5]), items[-1]
    held = [f"{np.mean([item[5] for item in measured]):.0f}", f"{least[5]:.0f}", least[0], f"{far[3] / far[4]:+.2f}", f"{far[5]:.0f}"]
    return [law.name, str(len(law.parameters)), " ".join(on_ridge), f"{worst[3] / worst[4]:+.2f}", worst[0], *held]


def _surface(law: Law, truth: Array, tables: int, resamples: int) -> tuple[list[Item], str]:
    cells = cells_of(law)
    forecasts = Points(REFERENCE, *_places(cells))
    found, low, high, ahead, ahead_low, ahead_high, ridges, ended = [], [], [], [], [], [], [], []
    for number in range(tables):
        random = np.random.default_rng([3, number])
        data = synthetic(law, truth, random, NOISE)
        points = data.points(REFERENCE)
        best = estimate(law, points, data.log_loss, random, starts=8)
        weights = draw_weights(np.arange(data.count), resamples, "multinomial", random)
        draws, _ = fit_weighted(law, points, data.log_loss, weights, best.theta[None])
        found.append(best.theta)
        ended.append(best.status)
        for items, values, ends in ((found, draws, (low, high)), (ahead, law.log_loss(draws, forecasts), (ahead_low, ahead_high))):
            for end, level in zip(ends, (0.05, 0.95), strict=True):
                end.append(np.quantile(values, level, axis=0))
            if items is ahead:
                ahead.append(law.log_loss(best.theta[None], forecasts)[0])
        if number < 10:
            ridges.append([parameter.name in ridge(law, points, data.log_loss, best.theta) for parameter in law.parameters])
    on_ridge = 100 * np.mean(ridges, axis=0)
    items = [_item(parameter.name, truth[at], *(np.array(values)[:, at] for values in (found, low, high)), float(on_ridge[at]))
             for at, parameter in enumerate(law.parameters)]  # fmt: skip
    exact = law.log_loss(truth[None], forecasts)[0]
    items += [_item(f"ln loss {place}", exact[at], *(np.array(values)[:, at] for values in (ahead, ahead_low, ahead_high)), None)
              for at, place in enumerate(PLACES)]  # fmt: skip
    return items, ", ".join(f"{status} {ended.count(status)}" for status in sorted(set(ended)))


def _item(name: str, truth: float, found: Array, low: Array, high: Array, ridge_share: float | None) -> Item:
    holds = 100 * float(((low <= truth) & (truth <= high)).mean())
    return name, float(truth), float(np.median(found)), float((found - truth).mean()), float(np.median(high - low) / 2), holds, ridge_share


def _row(item: Item) -> list[str]:
    name, truth, median, bias, half, holds, on_ridge = item
    numbers = [f"{truth:.4g}", f"{median:.4g}", f"{bias:+.2g}", f"{half:.2g}", f"{bias / half:+.2f}", f"{holds:.0f}"]
    return [name, *numbers, "" if on_ridge is None else f"{on_ridge:.0f}"]


def _places(cells: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return N, D_pt, D_spec, U of `PLACES`."""
    n, pt, spec, unique = cells
    special = spec > 0
    middle = (np.sqrt(n.min() * n.max()), np.median(pt[pt > 0]), np.median(spec[special]) if special.any() else 0.0)
    most = (n.max(), pt.max(), spec.max())
    distinct = float(np.median(unique[special])) if special.any() else np.nan
    return tuple(np.array([a, b, 2 * b]) for a, b in zip(middle, most, strict=True)) + (np.array([distinct] * 3),)


if __name__ == "__main__":
    main()
