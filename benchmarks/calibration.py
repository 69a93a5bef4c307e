"""Coverage of the 90 % intervals of `FittedLaw.forecast`: how often one more run falls inside, on synthetic truths and on real tables.

Synthetic: truths from several laws (parameters drawn around base values), with several levels of run noise and of noise shared by all runs off
one trunk. A table is fitted, and fresh runs on fresh trunks are forecast, inside the support and at twice its largest value on one axis; in one
table of results the law is given, in another it is chosen ("auto"). Real: rows of public tables and of the recorded sweeps are held out and forecast.

half-width: of the interval, in per cent of the loss. bias: forecast minus measured, so positive where forecasts are too high. z: root mean square
of the error over the interval's own standard deviation; 1 if the interval is right, over 1 if it is too narrow. Coverage counts rows; rows of one
table have correlated errors, so the standard error of coverage is taken over tables.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from benchmarks.common import LAWS, REFERENCE, ROOT, Report, cells_of, synthetic, table, truth_of
from planner.arrays import Array
from planner.errors import PlannerError, PlannerWarning
from planner.fit.data import FitData, fit_data
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.support import Support
from planner.laws import Law, Points
from planner.runs import read_runs

TRUE_LAWS = ("chinchilla", "repetition-penalty", "transfer-saturating", "transfer-size-saturating", "multiplicative-saturating", "bounded-penalised")
NOISES = ((0.003, 0.0), (0.005, 0.005), (0.01, 0.005), (0.004, 0.01))
"""Standard deviation of ln L: of a run, and of a trunk."""
SWEEPS = ("medicine", "computing", "nature", "nature/long", "nature/behind", "nature/before")
CHECKED = ("medicine", "nature")
"""Sweeps with check runs at four times their compute."""
FRESH = 40
"""Fresh runs per table, inside the support and again outside."""
Z90 = 1.6448536269514722
RESAMPLES = 200


@dataclass
class Tally:
    """Errors and widths of forecasts, one array per table."""

    error: list[Array] = field(default_factory=list)
    width: list[Array] = field(default_factory=list)

    def add(self, law: FittedLaw, cells: tuple[Array, ...], log_loss: Array, params_by: dict[str, Array] | None = None) -> None:
        """Forecast runs and add their errors."""
        found = law.forecast(params_by or {"non_embedding": cells[0]}, *cells[1:])
        self.error.append(np.log(found.loss) - log_loss)
        self.width.append(np.log(found.high / found.low) / 2)

    def row(self) -> list[str]:
        """Return rows, coverage with its standard error over tables, half-width, mean absolute error, bias and z."""
        error, width = np.concatenate(self.error), np.concatenate(self.width)
        each = np.array([(np.abs(e) <= w).mean() for e, w in zip(self.error, self.width, strict=True)])
        spread = f" ± {100 * each.std(ddof=1) / np.sqrt(len(each)):.1f}" if len(each) > 2 else ""
        covered = 100 * float((np.abs(error) <= width).mean())
        mark = "" if 85 <= covered <= 95 else " low" if covered < 85 else " high"
        z = float(np.sqrt(np.mean((error / (width / Z90)) ** 2)))
        percent = (f"{100 * width.mean():.2f}", f"{100 * np.abs(error).mean():.2f}", f"{100 * error.mean():+.2f}")
        return [str(len(error)), f"{covered:.1f}{spread}{mark}", *percent, f"{z:.2f}"]


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    warnings.simplefilter("ignore", PlannerWarning)
    columns = ["source", "where", "tables", "rows", "coverage %", "half-width %", "mean |error| %", "bias %", "z"]
    tables, autos = (12, 4) if report.quick else (204, 24)
    given, by_noise, by_law = _synthetic(tables, auto=False)
    report.table(f"Synthetic, {tables} tables, the law given", columns, [*_rows("all", given), *_rows_of(by_law), *_rows_of(by_noise)])
    chosen, by_noise, by_law = _synthetic(autos, auto=True)
    report.table(f"Synthetic, {autos} tables, the law chosen", columns, [*_rows("all", chosen), *_rows_of(by_law)])
    rows = [row for seeds, name in ((1, "no seed repeated"), (3, "three seeds of the middle size")) for row in _rows(name, _one_trunk(autos * 2, seeds))]
    report.table(f"Synthetic, {2 * autos} tables of one trunk a size, whose luck all its runs share, the law given", columns, rows)
    report.table("Real tables, held-out rows", columns, [row for name, where, tally in _real(report) for row in _rows(name, {where: tally})])
    beyond = list(_beyond(report))
    rows = [row for name, where, fits in beyond for row in _rows(name, {where: _tally(fits)})]
    pooled = [pair for *_, fits in beyond for pair in fits]
    rows += _rows("all", {"beyond": _tally(pooled), "beyond, no drift": _tally([(replace(law, drift=0.0), out) for law, out in pooled])})
    report.table("Recorded sweeps, the law chosen, runs beyond those that were fitted", columns, rows)
    report.say("target: 85 to 95 % in every line; low: the interval is too narrow, high: too wide")
    report.end()


def _rows(name: str, tallies: dict[str, Tally]) -> list[list[str]]:
    return [[name, where, str(len(tally.error)), *tally.row()] for where, tally in tallies.items() if tally.error]


def _rows_of(groups: dict[str, dict[str, Tally]]) -> list[list[str]]:
    return [row for name, tallies in groups.items() for row in _rows(name, tallies)]


def _synthetic(tables: int, auto: bool) -> tuple[dict[str, Tally], dict[str, dict[str, Tally]], dict[str, dict[str, Tally]]]:
    """Fit tables of random truths; return tallies of all, by noise, and by law."""
    places = ("inside", "2x outside", "2x, no drift")
    every: dict[str, Tally] = {place: Tally() for place in places}
    by_noise = {f"noise {100 * a:.1f} %, trunk {100 * b:.1f} %": {place: Tally() for place in places} for a, b in NOISES}
    by_law = {name: {place: Tally() for place in places} for name in TRUE_LAWS}
    for number in range(tables):
        random = np.random.default_rng([7, number])
        law, (noise, trunk) = LAWS[TRUE_LAWS[number % len(TRUE_LAWS)]], NOISES[(number // len(TRUE_LAWS)) % len(NOISES)]
        truth = _random_truth(law, random)
        data = synthetic(law, truth, random, noise, trunk)
        fitted = fit(data, "auto" if auto else law.name, resamples=RESAMPLES, seed=number)
        for outside in (False, True):
            cells = _fresh(law, data, random, outside)
            luck = np.hypot(noise, trunk) * random.normal(size=len(cells[0]))
            measured = law.log_loss(truth[None], Points(REFERENCE, *cells))[0] + luck
            shown = {"2x outside": fitted, "2x, no drift": replace(fitted, drift=0.0)} if outside else {"inside": fitted}
            for place, under in shown.items():
                for tally in (every, list(by_noise.values())[NOISES.index((noise, trunk))], by_law[law.name]):
                    tally[place].add(under, cells, measured)
    return every, by_noise, by_law


def _one_trunk(tables: int, seeds: int) -> dict[str, Tally]:
    """Fit tables with one trunk per size and `seeds` trunks of the middle size; forecast runs on fresh trunks."""
    found = {place: Tally() for place in ("inside", "2x outside")}
    for number in range(tables):
        random = np.random.default_rng([8, number])
        law, (noise, trunk) = LAWS[TRUE_LAWS[number % len(TRUE_LAWS)]], NOISES[1 + (number // len(TRUE_LAWS)) % (len(NOISES) - 1)]
        truth = _random_truth(law, random)
        data = synthetic(law, truth, random, noise, trunk, seeds=seeds)
        fitted = fit(data, law.name, resamples=RESAMPLES, seed=number)
        for outside, tally in zip((False, True), found.values(), strict=True):
            cells = _fresh(law, data, random, outside)
            luck = np.hypot(noise, trunk) * random.normal(size=len(cells[0]))
            tally.add(fitted, cells, law.log_loss(truth[None], Points(REFERENCE, *cells))[0] + luck)
    return found


def _random_truth(law: Law, random: np.random.Generator) -> Array:
    """Draw parameters around the law's base values, with a standard deviation of 0.2 on a log scale or 0.1 otherwise."""
    base = truth_of(law)
    low, high = (np.array([getattr(parameter, end) for parameter in law.parameters]) for end in ("low", "high"))
    logarithmic = np.array([parameter.logarithmic for parameter in law.parameters])
    drawn = np.where(logarithmic, base * np.exp(0.2 * random.normal(size=len(base))), base + 0.1 * random.normal(size=len(base)))
    if "L0" in (names := [parameter.name for parameter in law.parameters]):
        drawn[names.index("L0")] = 7.0 + 0.3 * random.normal()
    result: Array = np.clip(drawn, np.where(logarithmic, low * 1.05, low), high * 0.95)
    return result


def _fresh(law: Law, data: FitData, random: np.random.Generator, outside: bool) -> tuple[Array, ...]:
    """Draw new runs log-uniformly: inside the support, or at twice the largest value of one axis and inside on the others."""
    support, n, pt, spec, unique = Support.of(data), *cells_of(law)
    ends = [(values[values > 0].min(), values[values > 0].max()) if (values > 0).any() else (0.0, 0.0) for values in (n, pt, spec, unique)]
    found: list[tuple[float, ...]] = []
    while len(found) < FRESH:
        point = [float(np.exp(random.uniform(*np.log(end)))) if end[1] > 0 else 0.0 for end in ends]
        if point[2] > 0 and law.stages == 2 and random.random() < 0.2:
            point[2] = 0.0
        cell = (point[0], point[1], point[2], point[3] if point[2] > 0 else np.nan)
        if support.distance(*([value] for value in cell))[0] > 0:
            continue
        if outside:
            axis = random.choice([at for at in range(3) if cell[at] > 0])
            moved = list(cell)
            moved[axis] = 2 * ends[axis][1]
            cell = (moved[0], moved[1], moved[2], moved[3])
        found.append(cell)
    return tuple(np.array(column) for column in zip(*found, strict=True))


def _real(report: Report) -> Iterator[tuple[str, str, Tally]]:
    """Hold out rows of real tables; yield source, which rows, and tally."""
    epoch = table("chinchilla_epoch.csv").sort_values("loss").head(240)
    epoch_data = _plain(epoch["N"], epoch["D"], np.zeros(len(epoch)), np.full(len(epoch), np.nan), epoch["loss"])
    repeated = table("data_constrained_182.csv")
    repeated_data = _plain(repeated["N"], np.zeros(len(repeated)), repeated["D"], repeated["D_unique"], repeated["loss"])
    medicine = fit_data(read_runs(ROOT / "sweeps" / "medicine" / "runs.csv"))
    some, few = (3, 1) if report.quick else (20, 6)
    for name, data, law, times in (
        ("chinchilla_epoch, chinchilla", epoch_data, "chinchilla", some), ("chinchilla_epoch, auto", epoch_data, "auto", few),
        ("data_constrained_182, repetition-penalty", repeated_data, "repetition-penalty", some),
        ("data_constrained_182, auto", repeated_data, "auto", few),
        ("medicine, gap-competing", medicine, "gap-competing", few), ("medicine, auto", medicine, "auto", few),
    ):  # fmt: skip
        yield name, "random 20 % of rows", _tally(_fits(data, law, [_some_rows(data, seed) for seed in range(times)]))
        yield name, "largest 20 % by FLOPs", _tally(_fits(data, law, [data.flops > np.quantile(data.flops, 0.8)]))
        if data is medicine:
            yield name, "random trunks", _tally(_fits(data, law, [_some_trunks(data, seed) for seed in range(times)]))
            yield name, "largest size", _tally(_fits(data, law, [data.params == data.params.max()]))


def _beyond(report: Report) -> Iterator[tuple[str, str, list[tuple[FittedLaw, FitData]]]]:
    """Fit recorded sweeps without their most expensive runs, without their largest size, and whole if a check was trained; yield sweep, runs, fits."""
    for name in SWEEPS[:2] if report.quick else SWEEPS:
        data = _recorded(name)
        yield name, "largest 20 % by FLOPs", _fits(data, "auto", [data.flops > np.quantile(data.flops, 0.8)])
        yield name, "largest size", _fits(data, "auto", [data.params == data.params.max()])
    for name in CHECKED:
        yield name, "its check", [(fit(_recorded(name), resamples=RESAMPLES), _recorded(f"{name}/check"))]


def _recorded(name: str) -> FitData:
    return fit_data(read_runs(ROOT / "sweeps" / name / "runs.csv"))


def _fits(data: FitData, law: str, masks: list[Array]) -> list[tuple[FittedLaw, FitData]]:
    """Fit a table without the rows of each mask; return the laws and the held-out rows."""
    found = []
    for seed, held in enumerate(masks):
        try:
            found.append((fit(data.rows(~held), law, resamples=RESAMPLES, seed=seed), data.rows(held)))
        except PlannerError:
            continue  # too few rows are left; the number of tables in the results shows that
    return found


def _tally(fits: list[tuple[FittedLaw, FitData]]) -> Tally:
    tally = Tally()
    for law, out in fits:
        cells = (out.params_by["non_embedding"], out.tokens_pt, out.tokens_spec, out.unique_spec)
        tally.add(law, cells, out.log_loss, dict(out.params_by))
    return tally


def _some_rows(data: FitData, seed: int) -> Array:
    held: Array = np.random.default_rng([11, seed]).random(data.count) < 0.2
    return held


def _some_trunks(data: FitData, seed: int) -> Array:
    """Draw trunks to hold out, one by one until they have at least a tenth of the rows."""
    held = np.zeros(data.count, dtype=bool)
    for trunk in np.random.default_rng([12, seed]).permutation(data.cluster.max() + 1):
        held |= data.cluster == trunk
        if held.sum() >= 0.1 * data.count:
            break
    return held


def _plain(n: pd.Series, pt: pd.Series, spec: pd.Series, unique: pd.Series, loss: pd.Series) -> FitData:
    """Make a table from columns, with every row its own trunk."""
    size, general, special, distinct, value = (np.asarray(column, dtype=float) for column in (n, pt, spec, unique, loss))
    count = len(size)
    ids = [str(number) for number in range(count)]
    return FitData(ids, {"non_embedding": size}, general, special, distinct, np.log(value), 6 * size * (general + special), np.arange(count), None)


if __name__ == "__main__":
    main()
