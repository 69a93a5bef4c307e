"""The data-constrained law (arXiv 2305.16264) on its own 182 runs: our objective against that of the published parameters, and the ridge.

The published parameters are the authors' (n = 182). Their two R* lie on a ridge: very different pairs fit equally well. So objectives and forecasts
are compared, and the profile shows how far each parameter can move. Other laws of one stage are printed for comparison.
"""

from __future__ import annotations

import numpy as np

from benchmarks.common import LAWS, Report, cpu, table
from planner.arrays import Array
from planner.fit.estimate import estimate
from planner.fit.profile import profile, ridge
from planner.fit.resample import draw_weights, fit_weighted
from planner.fit.solver import DELTAS, objective, solve
from planner.laws import Points, Reference

PUBLISHED = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804), "α": 0.3526596, "R_D*": 15.387756, "R_N*": 5.309743}
"""As printed in the authors' notebook; A and B without N0 and D0."""


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    rows = table("data_constrained_182.csv")
    n, d, unique, log_loss = (rows["N"].to_numpy(float), rows["D"].to_numpy(float), rows["D_unique"].to_numpy(float), np.log(rows["loss"].to_numpy(float)))
    law, reference = LAWS["data-constrained"], Reference(1e9, 1e10)
    points = Points(reference, n, 0.0, d, unique)
    published = np.array([PUBLISHED[parameter.name] for parameter in law.parameters])
    raw = {name: {"N": reference.params, "D": reference.tokens}[axis] ** PUBLISHED[power] for name, (axis, power) in law.plain.items()}
    published = published / np.array([raw.get(parameter.name, 1.0) for parameter in law.parameters])
    random = np.random.default_rng(0)
    seconds, best = cpu(lambda: estimate(law, points, log_loss, random))
    at_published = float(objective(law, published[None], points, log_loss, np.ones((1, len(n))))[0])

    # Only the two R* are refitted. The objective has many local minima along the ridge, the published values among them, so there are many starts.
    names = [parameter.name for parameter in law.parameters]
    pairs = [(data_half, size_half) for data_half in np.geomspace(4, 300, 12) for size_half in (1.0, 1.7, 3.0, 6.0)]
    places = np.tile(published, (len(pairs), 1))
    places[:, [names.index("R_D*"), names.index("R_N*")]] = pairs
    fixed = np.tile([not name.startswith("R_") for name in names], (len(pairs), 1))
    alone = solve(law, points, log_loss, places, np.ones((1, len(n))), deltas=DELTAS, fixed=fixed)
    halves, at_halves = alone.theta[alone.objective.argmin()], float(alone.objective.min())

    def errors(theta: Array) -> tuple[str, str]:
        off = 100 * np.abs(np.expm1(law.log_loss(theta[None], points)[0] - log_loss))
        return f"{off.mean():.2f} %", f"{np.median(off):.2f} %"

    report.table(
        "Objective Σ Huber_1e-3 on 182 runs",
        ["parameters", "objective", "ratio", "mean error", "median error", "CPU time", "status"],
        [
            ["published", f"{at_published:.7f}", "1", *errors(published), "", ""],
            [f"published, R* refitted: {halves[names.index('R_D*')]:.4g}, {halves[names.index('R_N*')]:.4g}", f"{at_halves:.7f}",
             f"{at_halves / at_published:.4f}", *errors(halves), "", ""],
            ["planner, all six refitted", f"{best.objective:.7f}", f"{best.objective / at_published:.4f}", *errors(best.theta), f"{1e3 * seconds:.0f} ms",
             f"{best.status}, {best.starts_agree} of {best.starts} agree"],
        ],
    )  # fmt: skip
    taken, profiles = cpu(lambda: profile(law, points, log_loss, best.theta))
    on_ridge = ridge(law, points, log_loss, best.theta)
    weights = draw_weights(np.arange(len(n)), 100 if report.quick else 400, "multinomial", random)
    theta, _ = fit_weighted(law, points, log_loss, weights, best.theta[None])
    lines = []
    for number, found in enumerate(profiles):
        ends = ["open" if is_open else f"{value:.4g}" for value, is_open in ((found.low, found.open_low), (found.high, found.open_high))]
        low, high = np.quantile(theta[:, number], [0.05, 0.95])
        factor = raw.get(found.name, 1.0)
        lines.append([found.name, f"{published[number] * factor:.5g}", f"{best.theta[number] * factor:.5g}", f"{published[number]:.4g}",
                      f"{best.theta[number]:.4g}", " to ".join(ends), f"{low:.4g} to {high:.4g}", "ridge" if found.name in on_ridge else ""])  # fmt: skip
    report.table(
        "Parameters (first two columns without N0, D0; the rest at N0 = 1e9, D0 = 1e10)",
        ["parameter", "published", "ours", "published", "ours", "90 % by profile", "90 % by resamples", ""], lines,
    )  # fmt: skip
    report.say(f"profiles took {taken:.2f} CPU-s; the condition number is {best.diagnosis.condition:.1e}")
    _along(report, points, log_loss, best.theta, best.objective)
    others = []
    for name in ("chinchilla", "repetition-penalty"):
        took, found = cpu(lambda name=name: estimate(LAWS[name], points, log_loss, np.random.default_rng(0)))
        off = 100 * np.abs(np.expm1(LAWS[name].log_loss(found.theta[None], points)[0] - log_loss))
        errors_of = (f"{off.mean():.2f} %", f"{np.median(off):.2f} %")
        others.append([name, len(found.theta), f"{found.objective:.7f}", *errors_of, f"{1e3 * took:.0f} ms", found.status])
    report.table("Other laws on the same runs", ["law", "parameters", "objective", "mean error", "median error", "CPU time", "status"], others)
    epochs = d / unique
    off = 100 * np.abs(np.expm1(law.log_loss(best.theta[None], points)[0] - log_loss))
    groups = [(1, 1.01), (1.01, 5), (5, 20), (20, 60), (60, 1e9)]
    lines = [[f"{low:g} to {high:g}" if high < 1e9 else f"over {low:g}", int(here.sum()), f"{off[here].mean():.2f} %", f"{off[here].max():.1f} %"]
             for low, high in groups if (here := (epochs >= low) & (epochs < high)).any()]  # fmt: skip
    report.table("Where the law's own mean error comes from: by passes", ["passes", "runs", "mean error", "largest"], lines)
    report.end()


def _along(report: Report, points: Points, log_loss: Array, theta: Array, least: float) -> None:
    """Hold R_D* at several values, refit the rest, and print how much higher the objective is."""
    law = LAWS["data-constrained"]
    names = [parameter.name for parameter in law.parameters]
    values = np.array([5.0, 10.0, 15.388, 30.0, 60.0, 95.4, 200.0])
    starts = np.tile(theta, (len(values), 1))
    starts[:, names.index("R_D*")] = values
    fixed = np.zeros(starts.shape, dtype=bool)
    fixed[:, names.index("R_D*")] = True
    found = solve(law, points, log_loss, starts, np.ones((1, points.count)), deltas=DELTAS, fixed=fixed)
    lines = [[f"{held:.4g}", f"{item[names.index('R_N*')]:.4g}", f"{value:.7f}", f"{100 * (value / least - 1):.2f} %"]
             for held, item, value in zip(values, found.theta, found.objective, strict=True)]  # fmt: skip
    report.table("Along the ridge: R_D* held, the other five refitted", ["R_D*", "R_N*", "objective", "over the least"], lines)


if __name__ == "__main__":
    main()
