"""Limits of text, size and inference: each is kept, costs something, and is refused where nothing satisfies it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.allocate.scaling import scaling
from planner.errors import DataError, InputError
from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.flops import forward_flops_per_token
from planner.laws import LAWS, Points, Reference
from planner.units import parse_count

ROOT = Path(__file__).parents[2]
BUDGET, UNIQUE = 2e13, 2e5


def test_general_text_binds_and_costs(fitted: FittedLaw) -> None:
    free = allocate(fitted, Request(BUDGET, UNIQUE))
    ample = allocate(fitted, Request(BUDGET, UNIQUE, general_tokens=10 * free.plan.tokens_pt))
    assert ample.plan == free.plan
    tight = allocate(fitted, Request(BUDGET, UNIQUE, general_tokens=0.3 * free.plan.tokens_pt))
    assert tight.plan.tokens_pt <= 0.3 * free.plan.tokens_pt + 1024
    assert tight.plan.loss > free.plan.loss
    assert any(worth.change.startswith("twice the general text") and worth.lower_percent > 0 for worth in tight.worths)
    for arm in tight.arms:
        assert arm.plan is None or arm.plan.tokens_pt <= 0.3 * free.plan.tokens_pt * 1.001


def test_a_budget_that_the_text_cannot_use_is_told(fitted: FittedLaw) -> None:
    answer = allocate(fitted, Request(5e13, 5e4, general_tokens=3e5, params=1e5))
    assert answer.plan.flops < 0.98 * 5e13
    assert any("the general text binds" in text for text in answer.warnings)


def test_sizes_are_chosen_among_those_given(fitted: FittedLaw) -> None:
    free = allocate(fitted, Request(BUDGET, UNIQUE)).plan
    among = allocate(fitted, Request(BUDGET, UNIQUE, params_among=(4e4, 1.6e5))).plan
    assert min(abs(np.log(among.params_non_embedding / size)) for size in (4e4, 1.6e5)) < 0.05
    low, high = 3e4, 1e5
    between = allocate(fitted, Request(BUDGET, UNIQUE, params_range=(low, high))).plan
    assert 0.95 * low <= between.params_non_embedding <= 1.05 * high
    for plan in (among, between):
        assert plan.loss >= free.loss * (1 - 1e-4)
    for size in (4e4, 1.6e5):
        assert among.loss <= allocate(fitted, Request(BUDGET, UNIQUE, params=size)).plan.loss * (1 + 1e-6)


def test_inference_is_paid_from_the_budget_and_asks_for_a_smaller_model(fitted: FittedLaw) -> None:
    free = allocate(fitted, Request(BUDGET, UNIQUE)).plan
    served = allocate(fitted, Request(BUDGET, UNIQUE, inference_tokens=1e7)).plan
    assert served.flops + served.flops_inference == pytest.approx(BUDGET, rel=1e-3)
    assert served.flops_inference == pytest.approx(1e7 * forward_flops_per_token(served.model_shape, 128))
    assert served.params_non_embedding < free.params_non_embedding and served.loss > free.loss
    with pytest.raises(DataError, match="are too few to train .* whose inference takes"):
        allocate(fitted, Request(BUDGET, UNIQUE, params=3e5, inference_tokens=1e9))


def test_time_limits_training_and_no_inference(fitted: FittedLaw) -> None:
    free = allocate(fitted, Request(BUDGET, UNIQUE)).plan
    within = Request(10 * BUDGET, UNIQUE, inference_tokens=1e7, training_flops=BUDGET)
    answer = allocate(fitted, within)
    assert answer.plan.params_non_embedding == free.params_non_embedding and answer.plan.loss == pytest.approx(free.loss, rel=1e-6)
    assert answer.plan.flops <= BUDGET * (1 + 1e-9) and answer.plan.flops_inference > 0
    assert any("the time limit on training binds" in text for text in answer.warnings)
    assert within.times(2).paid() == 2 * BUDGET and Request(BUDGET, UNIQUE, training_flops=9e99).paid(0.3 * BUDGET) == 0.7 * BUDGET
    with pytest.raises(DataError, match="FLOPs of the time limit are too few to train"):
        allocate(fitted, Request(BUDGET, UNIQUE, params=3e5, training_flops=1e10))


def test_time_that_binds_is_what_there_would_be_more_of(fitted: FittedLaw) -> None:
    """The plan, its prices and what text is worth are those of a budget of what the time allows."""
    free, within = allocate(fitted, Request(BUDGET, UNIQUE)), allocate(fitted, Request(5 * BUDGET, UNIQUE, training_flops=BUDGET))
    assert within.plan == free.plan and free.worths[0].change == "10 % more compute" and within.worths[0].change == "10 % more time for training"
    assert within.worths[0].lower_percent == pytest.approx(free.worths[0].lower_percent, abs=1e-3) and within.exchange == free.exchange
    assert allocate(fitted, Request(1.05 * BUDGET, UNIQUE, training_flops=BUDGET)).worths[0].change == "10 % more compute, and time for it"
    assert Request(BUDGET, UNIQUE, training_flops=1.2 * BUDGET).more(1.1) == "compute"


def test_a_size_that_the_tokens_per_parameter_of_the_runs_bound_is_told() -> None:
    """The law's own optimum has fewer tokens per parameter than any run: the interval of a point and the regret of nothing are the bound's."""
    n, ratio = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 3e8, 5), [20.0, 40.0, 80.0, 160.0]))
    law, nothing = LAWS["chinchilla"], np.zeros(20)
    points = Points(Reference(1e8, 1e10), n, n * ratio, 0.0, np.nan)
    loss = law.log_loss(np.array([[1.5, 0.9, 0.3, 0.36, 0.36]]), points)[0] + 0.003 * np.random.default_rng(0).normal(size=20)
    data = FitData([str(k) for k in range(20)], {"non_embedding": n}, n * ratio, nothing, nothing + np.nan, loss, 6 * n * n * ratio, np.arange(20), None)
    fitted = fit(data, "chinchilla", resamples=60, largest=False)
    for limits in ({}, {"params_range": (1e7, 1e10)}):
        answer = allocate(fitted, Request(1e19, 1.0, **limits))
        told = next(text for text in answer.warnings if "bounded by the lowest tokens per parameter of any run" in text)
        assert answer.plan.tokens_pt / answer.plan.params_non_embedding == pytest.approx(20, rel=0.1)
        size = parse_count(told.split("--params ")[1].split(" ")[0])
        beyond = allocate(fitted, Request(1e19, 1.0, params=size)).plan
        assert beyond.loss == pytest.approx(answer.plan.loss * (1 - float(told.split(" % lower")[0].split()[-1]) / 100), rel=1e-3)
    # The runs of another table have fewer tokens per parameter than the best plan: nothing is bounded, however near.
    low = dict(fitted.support.low) | {"tokens_per_param": 0.97 * beyond.tokens_pt / beyond.params_non_embedding}
    inside = allocate(replace(fitted, support=replace(fitted.support, low=low)), Request(1e19, 1.0))
    assert not any("tokens per parameter of any run" in text for text in inside.warnings)
    curves = scaling(fitted, [1e18, 1e19, 1e20], [1.0]).curves
    assert all(item.limits == ("largest size",) for item in curves[0].optima) and curves[0].exponents[0].value is None


@pytest.mark.parametrize("robust", [True, False])
def test_so_it_is_where_only_a_close_search_stands_at_the_bound(robust: bool) -> None:
    """The best of the coarse one is smaller here, both with the bound and without."""
    law = FittedLaw.load(ROOT / "sweeps" / "three" / "medicine" / "law.json")
    answer = allocate(law, Request(BUDGET, UNIQUE), robust=robust)
    told = next(text for text in answer.warnings if "bounded by the lowest tokens per parameter of any run" in text)
    lower, size = float(told.split(" % lower")[0].split()[-1]), parse_count(told.split("--params ")[1].split(" ")[0])
    beyond = allocate(law, Request(BUDGET, UNIQUE, params=size), robust=robust).plan
    assert beyond.loss == pytest.approx(answer.plan.loss * (1 - lower / 100), rel=2e-4) and 0.05 <= lower < 0.2


def test_an_end_of_a_coarse_search_is_none_where_the_best_lies_elsewhere() -> None:
    """Where inference takes nearly all of a budget, a closer search finds the best beside the largest size that the coarse one could train."""
    medicine = FittedLaw.load(ROOT / "sweeps" / "medicine" / "law.json")
    for tokens in (1.5e8, 2.2e8):
        warnings = allocate(medicine, Request(BUDGET, UNIQUE, inference_tokens=tokens)).warnings
        assert not any("at an end of the sizes searched" in text for text in warnings)


def test_a_model_has_no_more_parameters_than_its_text_can_train(fitted: FittedLaw) -> None:
    request = Request(1e16, 1e5, general_tokens=1e6, max_epochs=4)
    answer = allocate(fitted, request, allow_extrapolation=True)
    assert answer.plan.params_non_embedding <= 1.4e6 / 2
    assert any("the text bounds the size: with its passes it makes 1.4M tokens" in text for text in answer.warnings)
    with pytest.raises(DataError, match="has 1.4M tokens with its passes, too few for .*M parameters"):
        allocate(fitted, replace(request, params=3e6), allow_extrapolation=True)


@pytest.mark.parametrize("general_tokens", [None, 1e12])
def test_text_that_is_left_over_bounds_nothing(general_tokens: float | None) -> None:
    """Under a limit on the general loss a larger model after fewer tokens has less to lose, down to the fewest that a plan may have."""
    computing = ROOT / "sweeps" / "computing"
    law, general = FittedLaw.load(computing / "law.json"), FittedLaw.load(computing / "replay" / "law_general.json")
    answer = allocate(law, Request(1e14, 2e5, general_tokens=general_tokens, max_general_rise=0.05), general=general)
    plan = answer.plan
    assert plan.tokens_pt + plan.tokens_spec < 2.2 * plan.params_non_embedding
    assert not any("the text bounds" in text for text in answer.warnings)
    assert any("the size is bounded by the minimum of 2 tokens per parameter" in text for text in answer.warnings)


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda: Request(1e13, 1e5, params_range=(1e6, 1e5)), "is empty"),
        (lambda: Request(1e13, 1e5, params=1e5, params_among=(1e5,)), "exclude each other"),
        (lambda: Request(1e13, 1e5, general_tokens=0.0), "general-tokens of 0"),
        (lambda: Request(1e13, 1e5, inference_tokens=float("nan")), "inference-tokens of nan"),
        (lambda: Request(1e13, 1e5, params_among=(1e5, -1.0)), "a size of -1"),
    ],
)
def test_bad_requests_are_refused(request_of, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        request_of()


def test_a_range_that_no_budget_reaches_is_refused(fitted: FittedLaw) -> None:
    with pytest.raises(DataError, match="too few to train 100M"):
        allocate(fitted, Request(1e12, UNIQUE, params_range=(1e8, 1e9)))


@pytest.mark.slow
def test_constraints_never_help_and_means_never_hurt(fitted: FittedLaw) -> None:
    """On random requests the expected ln L of the best plan moves the right way, but for the grain of the search."""
    random = np.random.default_rng(3)
    for _ in range(25):
        budget, unique = float(np.exp(random.uniform(np.log(3e12), np.log(3e14)))), float(np.exp(random.uniform(np.log(3e4), np.log(3e6))))
        base = Request(budget, unique)
        plan = allocate(fitted, base).plan
        more = [Request(budget * 1.5, unique), Request(budget, unique * 1.5)]
        less = [
            Request(budget, unique, max_epochs=0.5 * fitted.support.high["epochs_spec"]), Request(budget, unique, params=0.5 * plan.params_non_embedding),
            Request(budget, unique, inference_tokens=1e6),
        ]  # fmt: skip
        if plan.tokens_pt > 0:
            less.append(Request(budget, unique, general_tokens=0.5 * plan.tokens_pt))
        best = least(fitted, base)
        assert all(least(fitted, request) <= best + 1e-4 for request in more)
        assert all(least(fitted, request) >= best - 1e-4 for request in less)


def least(law: FittedLaw, request: Request) -> float:
    from planner.allocate.optimum import coarse
    from planner.allocate.refine import refine_plan

    problem = Problem.of(law, request)
    whole = coarse(problem)
    close = refine_plan(problem, whole, whole.best)
    return float(min(whole.expected.min(), close.expected.min()))


def test_memory_that_cannot_be_is_told_in_its_unit() -> None:
    with pytest.raises(InputError, match=r"gpu-memory \[GB\] of -80 is not a positive number"):
        Request(BUDGET, UNIQUE, memory_per_gpu=-80e9)
