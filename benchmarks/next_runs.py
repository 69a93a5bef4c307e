"""Designed runs against a naive grid and the cheapest runs first, at equal FLOPs: runs are simulated with noise from a known law, and refitted.

Truths: two law forms, each with the parameters fitted to the recorded sweep `medicine` (the first truth) and with resamples of them (the others).
"nothing fitted": the design comes from the start ranges of the default forms (gap-competing and bounded-penalised, so it does not know the true form),
and the law is fitted to the new runs only. "beside a fit": a first sweep (the cells of `medicine`) is simulated and fitted, the design comes from that
fit, and the law is refitted to both. Noise: 0.5 % in ln L, a quarter of its variance common to a trunk. Fits use the true form, except in the last
tables.

forecast: root mean square error of ln L over the plans at the target budget whose true loss is within 2 % of the best. regret: true loss of the plan
that the fit prefers, over that of the best plan. Ratios are to the design's. expected: the standard deviation of the recommendation's forecast that the
design was chosen to reduce, as predicted before the runs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.common import LAWS, ROOT, Report
from planner.allocate.optimum import FRACTIONS
from planner.allocate.plans import Plans
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import PlannerWarning
from planner.fit.data import FitData, fit_data
from planner.fit.estimate import estimate
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.resample import draw_weights, fit_weighted
from planner.laws import Law, Points, Reference
from planner.next_runs.candidates import Candidates, Setting, candidates
from planner.next_runs.choose import cheapest_first, choose, naive_grid
from planner.next_runs.design import Stakes, Worth, without_overfitted
from planner.recipe import Recipe
from planner.runs import read_runs

FORMS = ("gap-competing", "transfer-size-penalised")
NOISE, SHARE = 0.005, 0.25
FLOPS, REQUEST = 3e13, Request(3e15, 2e5)
CLOSE = 0.02
KIND = "non_embedding"


@dataclass(frozen=True)
class Truth:
    """A known law."""

    law: Law
    theta: Array
    reference: Reference

    def log_loss(self, params: Array, pt: Array, spec: Array, unique: Array) -> Array:
        """Return ln L without noise."""
        return self.law.log_loss(self.theta[None], Points(self.reference, params, pt, spec, unique))[0]


def simulated(truth: Truth, columns: tuple[Array, ...], group: Array, random: np.random.Generator) -> FitData:
    """Simulate runs with given N, D_pt, D_spec, U (`columns`) and trunk (`group`)."""
    n, pt, spec, unique = columns
    shared = np.sqrt(SHARE) * NOISE * random.normal(size=int(group.max()) + 1)[group]
    log_loss = truth.log_loss(*columns) + shared + np.sqrt(1 - SHARE) * NOISE * random.normal(size=len(n))
    return FitData([str(k) for k in range(len(n))], {KIND: n}, pt, spec, unique, log_loss, 6 * n * (pt + spec), group, None)


def joined(first: FitData, second: FitData) -> FitData:
    """Join two tables whose trunks are different."""
    pairs = [np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("tokens_pt", "tokens_spec", "unique_spec", "log_loss", "flops")]
    group = np.concatenate([first.cluster, second.cluster + first.cluster.max() + 1])
    n = np.concatenate([first.params, second.params])
    return FitData([str(k) for k in range(len(n))], {KIND: n}, *pairs, group, None)


def rows_of(given: Candidates, chosen: Array) -> tuple[tuple[Array, ...], Array]:
    """Return N, D_pt, D_spec, U of chosen cells, and their trunks."""
    columns = (given.params_by[KIND], *given.tokens)
    return tuple(column[chosen] for column in columns), np.unique(given.group[chosen], return_inverse=True)[1]


def outcome(truth: Truth, law: Law, data: FitData, plans: Plans, random: np.random.Generator, warm: Array | None = None) -> tuple[float, float]:
    """Fit; return the mean square error of the forecasts at good plans, and the regret of the plan with the lowest forecast, both of ln L."""
    found = estimate(law, data.points(data.reference), data.log_loss, random, starts=16, warm=warm)
    columns = (plans.params, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
    forecast, true = law.log_loss(found.theta[None], Points(data.reference, *columns))[0], truth.log_loss(*columns)
    good = true <= true.min() + np.log1p(CLOSE)
    return float(((forecast - true)[good] ** 2).mean()), float(true[forecast.argmin()] - true.min())


def ensemble(law: Law, data: FitData, like: FittedLaw, seed: int) -> FittedLaw:
    """Fit a first sweep, with resamples by trunk, and return it as a fitted law modelled on `like`."""
    random, points = np.random.default_rng(seed), data.points(data.reference)
    best = estimate(law, points, data.log_loss, random, starts=16)
    weights = draw_weights(data.cluster, 60, "fractional", random)
    resamples, _ = fit_weighted(law, points, data.log_loss, weights, best.solutions[:2])
    member = replace(like.members[0], law=law, params_kind=KIND, reference=data.reference, theta=best.theta, resamples=resamples)
    return replace(like, members=(member,), noise=NOISE)


class Tally:
    """Errors by design, over several truths and several draws of noise."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[float, float]]] = {}
        self.worths: dict[str, list[Worth]] = {}

    def add(self, worth: Worth, errors: tuple[float, float]) -> None:
        """Add one refit."""
        self.rows.setdefault(worth.name, []).append(errors)
        self.worths.setdefault(worth.name, []).append(worth)

    def lines(self) -> list[list[str]]:
        """Format the means, with their ratios to the first design's."""
        found = {name: (100 * np.sqrt(np.mean([row[0] for row in rows])), 100 * np.mean([row[1] for row in rows])) for name, rows in self.rows.items()}
        first = next(iter(found.values()))
        lines = []
        for name, (error, regret) in found.items():
            cells, flops = (np.mean([getattr(worth, key) for worth in self.worths[name]]) for key in ("cells", "flops"))
            expected = np.sqrt(np.mean([worth.deviation_percent**2 for worth in self.worths[name]]))
            ratios = [f"{error / first[0]:.2f}x", f"{regret / max(first[1], 1e-4):.2f}x"]
            count = str(len(self.rows[name]))
            lines.append([name, f"{cells:.0f}", f"{flops:.3g}", f"{expected:.2f} %", f"{error:.2f} %", ratios[0], f"{regret:.3f} %", ratios[1], count])
        return lines


COLUMNS = ("runs", "endpoints", "FLOPs", "expected", "forecast", "ratio", "regret", "ratio", "refits")


def designs(given: Candidates, law: FittedLaw | None, flops: float) -> list[tuple[Worth, Array]]:
    """Return the designs to compare: what is expected of each, and its mask of the candidates."""
    by = {name: Stakes.of(given, law, REQUEST, criterion=name) for name in "VI"}
    masks = {f"design ({name})": choose(stakes.information, given.cost, flops).chosen for name, stakes in by.items()}
    masks["naive grid"] = naive_grid(given, flops, by["V"].information).chosen
    masks["cheapest first"] = cheapest_first(given.cost, flops)
    masks["no new runs"] = np.zeros(len(given), dtype=bool)
    return [(by["V"].worth(name, mask), mask) for name, mask in masks.items()]


def main() -> None:
    """Run and print."""
    warnings.simplefilter("ignore", PlannerWarning)
    report = Report(__file__, __doc__)
    truths, draws, wrong_draws = (2, 1, 1) if report.quick else (4, 6, 2)
    recorded = fit_data(read_runs(ROOT / "sweeps" / "medicine" / "runs.csv")).under(KIND)
    cells = (recorded.params, recorded.tokens_pt, recorded.tokens_spec, recorded.unique_spec)
    source = {"recipe": Recipe().to_dict(), "vocab_size": 1024}
    setting = Setting(Recipe(), 1024, 1.64e6, 16.4)
    given = candidates(setting, FLOPS, unique_target=REQUEST.unique_spec)
    laws = {form: fit(recorded, form, params_kinds=(KIND,), resamples=40, source=source) for form in FORMS}
    problem = Problem.of(laws[FORMS[0]], REQUEST)
    plans = problem.plans(problem.sizes(), FRACTIONS)
    report.say(f"{len(given)} candidates; {FLOPS:.3g} FLOPs of runs for a recommendation at {REQUEST.flops:.3g} FLOPs, 200k distinct specialist tokens")
    other = {FORMS[0]: FORMS[1], FORMS[1]: FORMS[0]}
    known = designs(given, None, FLOPS)[:-1]
    wrong: dict[str, Tally] = {}
    for form, fitted in laws.items():
        member = fitted.members[0]
        drawn = np.vstack([member.theta, member.resamples[:: len(member.resamples) // (truths - 1)][: truths - 1]])
        blind, beside = Tally(), Tally()
        stakes = Stakes.of(given, None, REQUEST, forms=(form,))
        told = choose(stakes.information, given.cost, FLOPS).chosen
        for number, theta in enumerate(drawn):
            truth = Truth(member.law, theta, member.reference)
            first = simulated(truth, cells, recorded.cluster, np.random.default_rng([number, 1]))
            law = ensemble(member.law, first, fitted, number)
            open_cells = without_overfitted(given, law)
            next_runs = designs(open_cells, law, FLOPS)
            for draw in range(draws):
                random = np.random.default_rng([number, draw, 2])
                for worth, chosen in known:
                    data = simulated(truth, *rows_of(given, chosen), random)
                    blind.add(worth, outcome(truth, truth.law, data, plans, random))
                    if draw < wrong_draws:
                        tally = wrong.setdefault(f"truth {form}, fitted {other[form]}", Tally())
                        tally.add(worth, outcome(truth, LAWS[other[form]], data, plans, random))
                data = simulated(truth, *rows_of(given, told), random)
                blind.add(stakes.worth("design (V), the form known", told), outcome(truth, truth.law, data, plans, random))
                for worth, chosen in next_runs:
                    data = joined(first, simulated(truth, *rows_of(open_cells, chosen), random)) if chosen.any() else first
                    beside.add(worth, outcome(truth, truth.law, data, plans, random, law.members[0].theta[None]))
        report.table(f"{form}, nothing fitted", COLUMNS, blind.lines())
        report.table(f"{form}, beside a fit of {recorded.count} runs", COLUMNS, beside.lines())
    for name, tally in wrong.items():
        report.table(f"the wrong form: {name}", COLUMNS, tally.lines())
    report.end()


if __name__ == "__main__":
    main()
