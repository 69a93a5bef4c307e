"""Limits of text, size and inference: each is kept, costs something, and is refused where nothing satisfies it."""

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.flops import forward_flops_per_token

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


def test_constraints_never_help_and_means_never_hurt(fitted: FittedLaw) -> None:
    """On random requests the expected ln L of the best plan moves the right way, but for the grain of the search."""
    random = np.random.default_rng(3)
    for _ in range(40):
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
    from planner.allocate.closer import refine
    from planner.allocate.optimum import coarse

    problem = Problem.of(law, request)
    whole = coarse(problem)
    close = refine(problem, whole, whole.best)
    return float(min(whole.expected.min(), close.expected.min()))
