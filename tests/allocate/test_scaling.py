"""Exponents and break-even factors against laws whose answer is known, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.break_even import factors
from planner.allocate.exponents import slopes
from planner.allocate.request import Request
from planner.allocate.scaling import budget_range, scaling
from planner.errors import DataError, InputError
from planner.fit.data import fit_data
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.support import AXES, Support
from planner.laws import LAWS, Reference
from planner.laws.base import Law, Points, exponent
from planner.laws.dual import exp, log
from planner.runs import read_runs

REFERENCE = Reference(1e7, 1e9)
BUDGETS = [float(value) for value in np.geomspace(1e16, 1e20, 9)]


def known(law: Law, theta: list[float], jitter: float, resamples: int = 40) -> FittedLaw:
    """Make a fitted law of known truth, with resamples around it, whose runs cover everything."""
    random = np.random.default_rng(0)
    middle = np.array(theta)
    cloud = middle * np.exp(jitter * random.normal(size=(resamples, len(theta))))
    member = Member(law, "non_embedding", REFERENCE, middle, cloud, "converged", 1, 1, 1.0, (), (), 0.0)
    low, high = dict.fromkeys(AXES, 1e-3), {**dict.fromkeys(AXES, 1e30), "epochs_spec": 4.0, "flops": 1e20}
    return FittedLaw((member,), 0.005, 0.01, Support(low, high, dict.fromkeys(AXES, True)), 1.0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.34, 0.28), (0.30, 0.45)])
def test_the_exponents_of_chinchilla_are_found(alpha: float, beta: float) -> None:
    law = known(LAWS["chinchilla"], [1.7, 0.9, 0.9, alpha, beta], 0.03)
    answer = scaling(law, BUDGETS, [1e9])
    size, general, special = answer.curves[0].exponents
    for found, truth in ((size, beta / (alpha + beta)), (general, alpha / (alpha + beta))):
        assert found.value is not None and found.low is not None and found.high is not None and found.off_percent is not None
        assert found.value == pytest.approx(truth, abs=0.02)
        assert found.low < truth < found.high and found.high - found.low < 0.1
        assert found.budgets == len(BUDGETS) and found.off_percent < 3
    assert special.value is None and special.low is None and special.budgets == 0
    theirs = law.members[0].resamples
    spread = np.quantile(theirs[:, 4] / (theirs[:, 3] + theirs[:, 4]), [0.05, 0.95])
    assert (size.low, size.high) == pytest.approx(spread, abs=0.02)
    assert all(item.limits == () for item in answer.curves[0].optima)


def test_a_slope_needs_three_budgets_off_the_limits() -> None:
    log_flops = np.log(np.geomspace(1.0, 1e4, 5))
    values = np.exp(0.4 * log_flops + 1.0) * np.ones((3, 1))
    values[1, 1:3] = np.nan
    values[2, :3] = np.nan
    slope, off = slopes(log_flops, values)
    assert slope[:2] == pytest.approx([0.4, 0.4]) and off[:2] == pytest.approx([0, 0], abs=1e-9)
    assert np.isnan(slope[2]) and np.isnan(off[2])
    bent, rest = slopes(log_flops, np.exp(np.array([[1.0, -1.0, 0.0, 1.0, -1.0]])))
    assert rest[0] > 0.5 and abs(bent[0]) < 0.1


def text_law(delta: float) -> Law:
    """A pure power of size and tokens times one of the distinct text, however little of it is seen: in ln C and ln U the best loss is a plane."""

    def loss(p: dict[str, object], x: Points) -> object:
        body = exp(-x.log_n * p["α"]) + exp(-x.log_total * p["α"])
        return body * exp(-x.has_spec * delta * (x.log_unique - log(1e-9)))

    return Law("text", "", (exponent("α"),), loss, "", "")  # type: ignore[arg-type]


def test_break_even_is_exact_on_a_plane() -> None:
    alpha, delta, more = 0.3, 0.02, 4.0
    answer = scaling(known(text_law(delta), [alpha], 0.02), BUDGETS, [1e6, more * 1e6])
    # L ∝ C^(−α/2)·U^(−δ): the text is worth a factor of more^(2δ/α).
    truth = more ** (2 * delta / alpha)
    assert len(answer.break_evens) == len(BUDGETS) - 1
    for item in answer.break_evens:
        assert (item.unique_less, item.unique_more) == (1e6, more * 1e6)
        assert item.factor == pytest.approx(truth, rel=5e-3)
        assert item.low is not None and item.high is not None and item.low <= item.factor <= item.high
        assert item.never == 0 and item.most == pytest.approx(BUDGETS[-1] / item.flops)


def test_break_even_out_of_reach_is_said_so() -> None:
    answer = scaling(known(text_law(0.3), [0.3], 0.02), BUDGETS, [1e6, 1e8])
    truth = 100 ** (2 * 0.3 / 0.3)
    for item in answer.break_evens:
        if item.most < 0.9 * truth:
            assert item.factor is None and item.never > 0.5
    assert answer.break_evens[-1].low is None and answer.break_evens[-1].never == 1.0


def test_factors_follow_the_curves() -> None:
    log_flops = np.log([1.0, 10.0, 100.0])
    less, more = np.array([3.0, 2.0, 1.0]), np.array([2.5, 1.0, 0.5])
    assert factors(log_flops, less, more) == pytest.approx([np.sqrt(10), 10, np.inf])
    assert factors(log_flops, less, less + 1e-4) == pytest.approx([1, 1, 1])  # grain of the search is no gain


def test_curves_agree_with_the_recommendation(fitted: FittedLaw) -> None:
    budgets = [3e12, 2e13, 30 * fitted.support.high["flops"]]
    answer = scaling(fitted, budgets, [5e4, 2e5], Request(1.0, 1.0, max_epochs=8.0))
    assert [curve.unique_spec for curve in answer.curves] == [5e4, 2e5]
    for curve in answer.curves:
        for flops, item in zip(budgets, curve.optima, strict=True):
            same = allocate(fitted, Request(flops, curve.unique_spec, max_epochs=8.0))
            assert item.plan == same.plan and item.extrapolation == same.extrapolation
            assert item.params_interval == same.params_interval
            assert item.tokens_spec_interval[0] <= item.tokens_spec_interval[1] <= 8.0 * curve.unique_spec * 1.001
    assert all(first.plan.loss >= second.plan.loss for first, second in zip(*(curve.optima for curve in answer.curves), strict=True))
    assert any("EXTRAPOLATION" in text for text in answer.warnings)


def test_a_limit_is_no_optimum(fitted: FittedLaw) -> None:
    tight = scaling(fitted, [5e12, 1e13, 2e13, 4e13], [3e5], Request(1.0, 1.0, max_epochs=1.0)).curves[0]
    assert all("most epochs" in item.limits for item in tight.optima)
    assert tight.exponents[2].value is None and tight.exponents[2].budgets == 0
    assert tight.exponents[0].value is not None
    fixed = scaling(fitted, [5e12, 1e13, 2e13, 4e13], [3e5], Request(1.0, 1.0, params=1e5)).curves[0]
    assert fixed.exponents[0].value is None and not any("size" in limit for item in fixed.optima for limit in item.limits)
    assert fixed.exponents[1].value is not None


def test_text_that_runs_out_is_told(fitted: FittedLaw) -> None:
    budgets = [3e12, 2e13, 5e13]
    short = scaling(fitted, budgets, [5e4], Request(1.0, 1.0, general_tokens=3e5, params_among=(4e4, 1e5)))
    assert "all general text" in short.curves[0].optima[-1].limits
    assert any("the general text binds" in text and "of 3 budgets with 50k" in text for text in short.warnings)
    assert any("at an end of the sizes" in text for text in short.warnings)
    assert not any("general text" in text for text in scaling(fitted, budgets, [5e4]).warnings)


def test_general_text_that_harms_is_told() -> None:
    """By the overfit laws a longer trunk learns little text by heart more: budget is left over although text and passes would be allowed."""
    medicine = Path(__file__).parents[2] / "sweeps" / "medicine"
    runs = fit_data(read_runs(medicine / "runs.csv"), keep=("overfitted",))
    law = fit(runs, "root-overfit", params_kinds=("total",), resamples=40, largest=False)
    law = replace(law, source=FittedLaw.load(medicine / "law.json").source)
    answer = scaling(law, [3e12, 1e13], [2e4], Request(1.0, 1.0, params=1.6e5))
    assert all(0 < item.plan.tokens_pt < 2e6 and "budget left over" in item.limits for item in answer.curves[0].optima)
    assert any("or more tokens are forecast to raise the loss, and part of the budget is left over at 2 of 2" in text for text in answer.warnings)


def test_a_value_lies_in_its_interval(fitted: FittedLaw) -> None:
    answer = scaling(fitted, budget_range(fitted, [2e5]), [5e4, 2e5, 1e6])
    known = [item for curve in answer.curves for item in curve.exponents if item.value is not None]
    assert len(known) >= 6
    for item in known:
        assert item.low is not None and item.high is not None and item.value is not None
        margin = 0.1 * (item.high - item.low)  # where the optimum bends, the middle plan need not be in the middle of the resamples
        assert item.low - margin <= item.value <= item.high + margin
    for pair in answer.break_evens:
        low, value, high = (np.inf if item is None else item for item in (pair.low, pair.factor, pair.high))
        assert 1 <= low <= high and low * 0.99 <= value <= high * 1.01


def test_whole_steps_put_no_plan_outside_its_intervals() -> None:
    """Of 1M distinct tokens a plan takes 999,424, and no resample's own best, which is in parts of steps, less than one pass."""
    law = FittedLaw.load(Path(__file__).parents[2] / "sweeps" / "medicine" / "law.json")
    budget = 1e21
    (optimum, *_) = scaling(law, [budget, 2 * budget], [1e6], allow_extrapolation=True).curves[0].optima
    plan, told = optimum.plan, allocate(law, Request(budget, 1e6), allow_extrapolation=True)
    assert plan.tokens_spec == 999_424 and optimum.tokens_spec_interval[0] == plan.tokens_spec and optimum.epochs_interval[0] == plan.epochs_spec
    assert optimum.epochs_interval == told.epochs_interval and optimum.params_interval == told.params_interval


def test_the_range_begins_where_a_plan_is_possible(fitted: FittedLaw) -> None:
    budgets = budget_range(fitted, [2e5])
    assert len(budgets) == 9 and budgets[-1] == pytest.approx(10 * fitted.support.high["flops"])
    assert budgets[0] >= fitted.support.low["flops"]
    large = Request(1.0, 1.0, params=1e6)
    assert budget_range(fitted, [2e5], large)[0] > budgets[0]
    scaling(fitted, budget_range(fitted, [2e5], large, points=2), [2e5], large)
    assert budget_range(fitted, [2e5], least=1e12, most=1e14, points=3) == pytest.approx([1e12, 1e13, 1e14])
    with pytest.raises(InputError, match="is empty"):
        budget_range(fitted, [2e5], least=1e14, most=1e13)
    with pytest.raises(InputError, match="1 points"):
        budget_range(fitted, [2e5], points=1)


def test_what_cannot_be_answered_is_refused(fitted: FittedLaw) -> None:
    far = [1e13, 2000 * fitted.support.high["flops"]]
    with pytest.raises(DataError, match="the limit is 1000×"):
        scaling(fitted, far, [2e5])
    scaling(fitted, far, [2e5], allow_extrapolation=True)
    with pytest.raises(DataError, match="too few"):
        scaling(fitted, [1e8, 1e13], [2e5])
    with pytest.raises(InputError, match="make no curve"):
        scaling(fitted, [1e13], [2e5])
    with pytest.raises(InputError, match="make no curve"):
        scaling(fitted, [1e12, 1e13], [])
