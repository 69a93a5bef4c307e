"""The best plan of each of 1,000 resamples: CPU time and agreement with scipy, one by one; and the recommendation against brute force.

The resamples are those of the recorded sweep `medicine`, a third from each of its laws. Each has its own best size, general and specialist tokens:
the plans of `plan allocate` (its coarse search and the refined one) are evaluated under all resamples at once, and each resample takes the best of
them. For an exact answer the search is then refined around every plan that is some resample's best. scipy's L-BFGS-B searches ln N and the share of
specialist tokens for one resample at a time, from three starts: the best plan of the fitted parameters, one epoch, and the most epochs. So that both
solve the same problem, any size is allowed, at 6·N FLOPs per token; ours is also timed with the shapes that can be trained.

excess: ln L of our best plan minus that of scipy's. Brute force is that of tests/allocate, on random problems under every law.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from benchmarks.common import ROOT, Report, cpu
from planner.allocate.allocate import allocate, best_plan
from planner.allocate.describe import resampled
from planner.allocate.optimum import MOST_RESAMPLES, coarse, joined
from planner.allocate.problem import Problem
from planner.allocate.refine import Round, refine_plan, refine_search
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import DataError, PlannerWarning
from planner.fit.fitted import FittedLaw
from planner.laws import Points
from tests.allocate.brute_force import brute_force
from tests.allocate.limited import best_of_each_share
from tests.allocate.problems import ONE_STAGE, TWO_STAGE, expected, random_law, random_request, rounding

RESAMPLES = 1000
REQUESTS = {"1e14 FLOPs, 200k": Request(1e14, 2e5), "1e15 FLOPs, 200k": Request(1e15, 2e5), "1e15 FLOPs, 2M": Request(1e15, 2e6)}
"""Budget and distinct specialist tokens."""
AROUND = Round(1.15, 0.023, 1.2, 15)
"""Reaches as far as the spacing of the coarse search's plans."""
NEAR = 0.05
"""In ln L: a plan whose expected loss lies further above the best is no resample's own best here."""
TARGET = 1.0
"""CPU seconds for 1,000 resamples."""


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    warnings.simplefilter("ignore", PlannerWarning)
    law = _thirds(FittedLaw.load(ROOT / "sweeps" / "medicine" / "law.json"))
    smooth = replace(law, members=tuple(replace(member, params_kind="non_embedding") for member in law.members), source={})
    checked = 30 if report.quick else 100
    times, agreement = [], []
    for name, request in REQUESTS.items():
        shapes, _ = cpu(lambda request=request: _own_best(Problem.of(law, request)))
        problem = Problem.of(smooth, request)
        seconds, ours = cpu(lambda problem=problem: _own_best(problem))
        exact_seconds, exact = cpu(lambda problem=problem: _exact(problem))
        chosen = np.sort(np.random.default_rng(0).permutation(RESAMPLES)[:checked])
        where = _starts(problem)
        taken, theirs = cpu(lambda problem=problem, chosen=chosen, where=where: [_scipy(problem, int(number), *where) for number in chosen])
        loop = taken * RESAMPLES / checked
        mine = [f"{value:.2f}" for value in (shapes, seconds, exact_seconds)]
        times.append([name, *mine, f"{loop:.0f}", f"{loop / seconds:.0f}", f"{loop / exact_seconds:.0f}"])
        for kind, values in (("the plans of plan allocate", ours), ("around each", exact)):
            excess = values[chosen] - np.array(theirs)
            agreement.append([name, kind, f"{np.median(excess):+.1e}", f"{excess.max():+.1e}", int((excess > 1e-4).sum()), f"{excess.min():+.1e}"])
    columns = ["budget, distinct tokens", "ours, shapes", "ours", "ours, around each", "scipy", "scipy / ours", "scipy / around each"]
    report.table(f"CPU seconds for the best plan of each of {RESAMPLES} resamples; target {TARGET:g}; scipy extrapolated from {checked}", columns, times)
    columns = ["budget, distinct tokens", "ours", "median excess", "largest", "over 1e-4", "least"]
    report.table(f"ln L of each resample's best plan, ours less scipy's, {checked} resamples", columns, agreement)
    _limited(report)
    _brute(report, 3 if report.quick else 8)
    _brute_limited(report, 5 if report.quick else 50)
    report.end()


def _limited(report: Report) -> None:
    """Time the same under a limit on the general loss, where plans also differ in their replay and in the budget they leave over."""
    folder = ROOT / "sweeps" / "computing"
    law, general = _thirds(FittedLaw.load(folder / "law.json")), FittedLaw.load(folder / "replay" / "law_general.json")
    rows = []
    for rise in (0.1, 0.03):
        problem = Problem.of(law, Request(2e13, 2e5, max_general_rise=rise), general)
        seconds, (least, tried, looked_at) = cpu(lambda problem=problem: _own_best_limited(problem, NEAR))
        _, (exact, _, _) = cpu(lambda problem=problem: _own_best_limited(problem, np.inf))
        rows.append([f"{100 * rise:g} %", f"{seconds:.2f}", f"{tried:,}", f"{looked_at:,}", f"{(least - exact).max():.1e}"])
    columns = ["the general loss may rise", "CPU-s", "plans searched", "plans near the best", "ln L lost by the others, at most"]
    report.table(f"The best plan of each of {RESAMPLES} resamples with replay, 2e13 FLOPs, 200k distinct tokens (computing)", columns, rows)


def _own_best_limited(problem: Problem, near: float) -> tuple[Array, int, int]:
    """Return the least ln L of each resample among the plans that keep the limit and are near the best; the plans searched; and those near the best."""
    whole = coarse(problem)
    found = joined(whole, refine_search(problem, whole))
    plans, chosen = found.plans, np.flatnonzero(np.isfinite(found.expected) & (found.expected <= found.expected.min() + near))
    params = {kind: values[chosen] for kind, values in plans.params_by.items()}
    points = problem.law.points(params, plans.tokens_pt[chosen], plans.tokens_spec[chosen], plans.unique_spec[chosen])
    return (problem.law.log_loss_resamples(points) + plans.added[chosen]).min(1), len(plans), len(chosen)


def _thirds(law: FittedLaw) -> FittedLaw:
    """Keep an equal share of RESAMPLES from each member."""
    counts = [len(part) for part in np.array_split(np.arange(RESAMPLES), len(law.members))]
    return replace(law, members=tuple(replace(item, resamples=item.resamples[:count]) for item, count in zip(law.members, counts, strict=True)))


def _own_best(problem: Problem) -> Array:
    """Return the least ln L of each resample among the plans of `plan allocate`."""
    whole = coarse(problem)
    plans = joined(whole, refine_search(problem, whole)).plans
    points = problem.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
    return problem.law.log_loss_resamples(points).min(1)


def _exact(problem: Problem) -> Array:
    """Return the least ln L of each resample, refined around its own best plan; resamples with the same best plan are refined together."""
    whole, parts = coarse(problem), []
    points = problem.law.points(whole.plans.params_by, whole.plans.tokens_pt, whole.plans.tokens_spec, whole.plans.unique_spec)
    for member, at in zip(problem.law.members, points, strict=True):
        best = member.law.log_loss(member.resamples, at).argmin(1)
        least = np.empty(len(best))
        for place in np.unique(best):
            mine = np.flatnonzero(best == place)
            alone = replace(problem, law=replace(problem.law, members=(replace(member, resamples=member.resamples[mine]),)))
            near = refine_plan(alone, whole, int(place), AROUND).plans
            least[mine] = alone.law.log_loss_resamples(alone.law.points(near.params_by, near.tokens_pt, near.tokens_spec, near.unique_spec)).min(1)
        parts.append(least)
    return np.concatenate(parts)


def _scipy(problem: Problem, number: int, starts: Array, ends: tuple[float, float]) -> float:
    """Return the least ln L of one resample over ln N and the specialist tokens as a share of the most possible."""
    for member in problem.law.members:
        if number < len(member.resamples):
            break
        number -= len(member.resamples)
    theta, request = member.resamples[number : number + 1], problem.request

    def log_loss(x: Array) -> float:
        params = np.exp(x[0])
        total = request.flops / (6 * params)
        spec = x[1] * min(total, problem.max_tokens_spec)
        return float(member.law.log_loss(theta, Points(member.reference, params, total - spec, spec, request.unique_spec))[0, 0])

    bounds = [(np.log(ends[0]), np.log(ends[1])), (0.0, 1.0)]
    return min(float(minimize(log_loss, start, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8}).fun) for start in starts)


def _starts(problem: Problem) -> tuple[Array, tuple[float, float]]:
    """Return scipy's starts, and the smallest and largest size."""
    whole = coarse(problem)
    plans, best = whole.plans, whole.best_guess
    params = float(plans.params[best])
    most = min(problem.request.flops / (6 * params), problem.max_tokens_spec)
    shares = (float(plans.tokens_spec[best]) / most, min(0.999, problem.request.unique_spec / most), 0.99)
    return np.array([(np.log(params), share) for share in shares]), (float(plans.params.min()), float(plans.params.max()))


def _brute(report: Report, each: int) -> None:
    """Compare recommendations with brute force."""
    rows, ours, theirs = [], 0.0, 0.0
    for law in (*TWO_STAGE, *ONE_STAGE):
        excess, refused = [], 0
        for number in range(each):
            # The same problems as in tests/allocate/test_agreement.py.
            random = np.random.default_rng([1, *law.name.encode(), number])
            fitted, request = random_law(law, random), random_request(random)
            try:
                seconds, answer = cpu(lambda fitted=fitted, request=request: allocate(fitted, request, allow_extrapolation=True))
            except DataError:
                refused += 1
                continue
            taken, (least, _) = cpu(lambda fitted=fitted, request=request: brute_force(fitted, request))
            ours, theirs, plan = ours + seconds, theirs + taken, answer.plan
            size = np.array([plan.params_non_embedding]), np.array([plan.params_total or np.nan])
            value = float(expected(fitted, *size, np.array([plan.tokens_pt]), np.array([plan.tokens_spec]), plan.unique_spec)[0])
            excess.append((value - least, value - rounding(fitted, plan) - least))
        whole, before = np.array(excess).T
        rows.append([law.name, len(excess), refused, f"{whole.max():+.1e}", f"{before.max():+.1e}", f"{before.min():+.1e}", int((before > 1e-4).sum())])
    columns = ["law", "problems", "refused", "largest excess", "less rounding to steps", "least", "over 1e-4"]
    report.table("Expected ln L of the recommended plan less that of the best by brute force, random problems", columns, rows)
    count = sum(int(row[1]) for row in rows)
    worst = max(float(row[4]) for row in rows)
    report.say(f"{count} problems: largest excess {worst:+.1e}, target 1e-4; {ours:.1f} CPU-s in plan allocate, {theirs:.1f} in brute force")


def _brute_limited(report: Report, each: int) -> None:
    """Compare recommendations under a limit on the general loss, in whole optimiser steps, with brute force in fractions of steps."""
    folder, random = ROOT / "sweeps" / "computing", np.random.default_rng(7)
    law, general = FittedLaw.load(folder / "law.json"), FittedLaw.load(folder / "replay" / "law_general.json")
    rows = []
    for name, ends, some in (("max_general_rise", (0.01, 0.12), each), ("max_general_loss", (3.2, 4.2), each)):
        excess, refused, alone = [], 0, 0
        for _ in range(some):
            flops, limit = (float(np.exp(random.uniform(*np.log(span)))) for span in ((1e13, 3e15), ends))
            problem = Problem.of(law, replace(Request(flops, 2e5), **{name: limit}), general)
            try:
                plan = best_plan(problem)
            except DataError:
                refused += 1
                continue
            if plan.tokens_spec == 0:  # the brute force does not cover these plans
                alone += 1
                continue
            mine = float(resampled(problem, plan, MOST_RESAMPLES).mean())
            excess.append(mine - min(best_of_each_share(law, general, problem.request)))
        values = np.array(excess)
        rows.append([name, some, refused, alone, f"{np.median(values):+.1e}", f"{values.max():+.1e}", f"{values.min():+.1e}", int((values > 1e-4).sum())])
    columns = ["limit", "problems", "refused", "no specialist stage", "median excess", "largest", "least", "over 1e-4"]
    report.table("The same under a limit on the general loss, with replay (computing), rounding to steps included", columns, rows)


if __name__ == "__main__":
    main()
