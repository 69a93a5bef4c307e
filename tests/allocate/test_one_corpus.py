"""One corpus and its repeats: how large a model and how many passes over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.allocation import Allocation
from planner.allocate.bases import allocate_bases
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.isoflop import iso_flops
from planner.allocate.request import Request
from planner.allocate.scaling import scaling
from planner.errors import DataError, InputError
from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.laws import LAWS, Points, Reference
from tests.allocate.test_bases import small

LAW, REFERENCE = LAWS["repetition-penalty"], Reference(1e8, 1e10)
UNIQUE, BUDGET = 5e9, 1e21


@pytest.fixture(scope="module")
def law() -> FittedLaw:
    """A law fitted to runs of one corpus whose truth is in the middle of where its starts are drawn, with 0.3 % of noise."""
    return fit(runs(), LAW.name, resamples=60, largest=False)


def runs() -> FitData:
    """The runs."""
    theta = np.array([[np.sqrt(np.prod(parameter.start)) if parameter.logarithmic else np.mean(parameter.start) for parameter in LAW.parameters]])
    grid = [(n, k * u, u) for n in (2e7, 1e8, 5e8, 2e9) for u in (1e9, 5e9, 2e10) for k in (0.5, 1.0, 3.0, 8.0, 20.0) if k * u >= 4 * n]
    n, spec, unique = (np.array(column) for column in zip(*grid, strict=True))
    noise = 0.003 * np.random.default_rng(0).normal(size=len(n))
    log_loss = LAW.log_loss(theta, Points(REFERENCE, n, 0 * n, spec, unique))[0] + noise
    ids = [str(number) for number in range(len(n))]
    return FitData(ids, {"non_embedding": n}, 0 * n, spec, unique, log_loss, 6 * n * spec, np.arange(len(n)), None)


def expected(law: FittedLaw, n: np.ndarray, spec: np.ndarray, unique: float = UNIQUE) -> np.ndarray:
    """Return the mean ln L over the resamples."""
    return law.log_loss_resamples(law.points({"non_embedding": n}, 0 * n, spec, unique + 0 * n)).mean(0)


def test_size_and_passes_are_those_of_brute_force(law: FittedLaw) -> None:
    answer = allocate(law, Request(BUDGET, UNIQUE))
    most = law.support.high["epochs_spec"]
    n, passes = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 2e10, 400), np.geomspace(0.05, most, 400)))
    spec = passes * UNIQUE
    good = (6 * n * spec <= BUDGET) & (spec >= law.support.low["tokens_per_param"] * n)
    assert answer.plan.tokens_pt == 0 and answer.plan.flops <= BUDGET * (1 + 1e-9)
    assert np.log(answer.plan.loss) <= expected(law, n[good], spec[good]).min() + 1e-4
    assert answer.epochs_interval is not None and answer.epochs_interval[0] <= 1.1 * answer.plan.epochs_spec
    assert answer.one_corpus and [arm.name for arm in answer.arms] == ["one pass", "four passes"]
    for arm, passes_most in zip(answer.arms, (1.0, 4.0), strict=True):
        assert arm.plan is not None and arm.worse_percent is not None
        few = good & (passes <= passes_most)
        assert arm.plan.epochs_spec <= passes_most * (1 + 1e-9) and arm.worse_percent >= 0
        assert np.log(arm.plan.loss) <= expected(law, n[few], spec[few]).min() + 1e-4


def test_more_compute_and_text_never_forecast_worse(law: FittedLaw) -> None:
    losses = [allocate(law, Request(budget, UNIQUE)).plan.loss for budget in (1e20, 3e20, 1e21, 3e21)]
    assert losses == pytest.approx(sorted(losses, reverse=True), rel=1e-6)
    losses = [allocate(law, Request(BUDGET, unique)).plan.loss for unique in (1e9, 2e9, 5e9, 2e10)]
    assert losses == pytest.approx(sorted(losses, reverse=True), rel=1e-6)
    few = allocate(law, Request(BUDGET, 1e9, max_epochs=2.0))
    assert few.plan.epochs_spec <= 2 * (1 + 1e-9) and few.plan.loss >= losses[0]


def test_a_plan_of_few_passes_has_no_size_that_they_cannot_train(law: FittedLaw) -> None:
    """Where repeats do harm and the budget is ample, a law has ever larger models see the text once: no run had so few tokens for each parameter."""
    answer = allocate(law, Request(1e24, 1e9), allow_extrapolation=True)
    plans = [answer.plan, answer.best_guess, *(one.plan for one in (*answer.arms, *answer.alternatives))]
    assert all(plan is not None and plan.tokens_spec >= (2 - 1e-6) * plan.params_non_embedding for plan in plans)
    n, passes = (values.ravel() for values in np.meshgrid(np.geomspace(1e7, 2e10, 400), np.geomspace(0.05, law.support.high["epochs_spec"], 400)))
    good = passes * 1e9 >= 2 * n
    assert np.log(answer.plan.loss) <= expected(law, n[good], 1e9 * passes[good], 1e9).min() + 1e-4
    (sizes,) = iso_flops(law, [1e24], 1e6)  # as a figure of the answer is drawn
    most = 1e6 * law.support.high["epochs_spec"] / 2
    assert len(sizes.params) > 10 and sizes.params.max() == pytest.approx(most, rel=1e-3) and np.isfinite(sizes.loss).all()
    curve = scaling(law, [1e23, 1e24], [1e9], allow_extrapolation=True).curves[0]
    assert all(item.limits == ("largest size",) for item in curve.optima) == any("the text bounds the size" in text for text in answer.warnings)


def test_the_file_and_the_curves_hold_it(law: FittedLaw, tmp_path: Path) -> None:
    answer = allocate(law, Request(BUDGET, UNIQUE))
    answer.save(tmp_path / "a.json", {})
    again = Allocation.load(tmp_path / "a.json")
    assert again.one_corpus and again.epochs_interval == answer.epochs_interval and again.plan == answer.plan
    curves = scaling(law, [1e20, 3e20, 1e21], [1e9, 5e9]).curves
    assert all(item.plan.tokens_pt == 0 for curve in curves for item in curve.optima)


def test_what_needs_a_general_stage_is_refused(law: FittedLaw, fitted: FittedLaw) -> None:
    with pytest.raises(InputError, match="was fitted to runs on one corpus and knows no general text; leave out --general-tokens"):
        allocate(law, Request(BUDGET, UNIQUE, general_tokens=1e12))
    with pytest.raises(DataError, match="knows no specialist stage"):
        DomainsProblem.of(DomainsRequest(BUDGET, tuple(Domain(name, law, 1e9) for name in "ab")))
    with pytest.raises(DataError, match="says nothing about specialising a base"):
        allocate_bases(law, Request(BUDGET, UNIQUE), [small("a", "1B", "1T")])
    assert not allocate(fitted, replace(Request(1e13, 2e5))).one_corpus


@pytest.mark.filterwarnings("ignore:.*off the law")
def test_a_compromise_that_no_refit_would_choose_is_said(law: FittedLaw) -> None:
    """Laws that disagree may be best served by a size that is best for neither."""
    other = fit(runs(), "data-constrained", resamples=60, largest=False)
    both = replace(law, members=law.members + other.members)
    for unique, said in ((1e9, True), (2e10, False)):
        answer = allocate(both, Request(3e20, unique))
        low, high = answer.params_interval
        assert (low <= answer.plan.params_non_embedding <= high) != said
        assert any("the size of 635M lies outside 1.12B to 2.46B, the 90 % interval of the refits' own best" in text for text in answer.warnings) == said


def test_a_budget_that_is_not_spent_bounds_no_exponent(law: FittedLaw) -> None:
    budgets = [1e19, 1e20, 1e21, 1e24, 1e25]
    answer = scaling(law, budgets, [1e9], allow_extrapolation=True)
    optima = answer.curves[0].optima
    idle = [item.plan.flops < 0.98 * flops for item, flops in zip(optima, budgets, strict=True)]
    assert [("budget left over" in item.limits) for item in optima] == idle and idle[-1] and not idle[0]
    assert answer.curves[0].exponents[0].budgets <= idle.count(False)
    assert any("part of the budget is left over" in text and f"{sum(idle)} of 5 budgets with 1B" in text for text in answer.warnings)
