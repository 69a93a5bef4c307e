"""The arm with specialist text from the start, where it is measured and where not."""

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.early import NAME
from planner.allocate.request import Request
from planner.fit.early import Early
from planner.fit.fitted import FittedLaw
from planner.flops import forward_flops_per_token

REQUEST = Request(flops=2e13, unique_spec=2e5)


def measured(law: FittedLaw, worth: float) -> FittedLaw:
    random = np.random.default_rng(1)
    count = sum(len(member.resamples) for member in law.members)
    return replace(law, early=Early(worth, worth * np.exp(0.1 * random.normal(size=count)), 0.5, 9, 0.02, 0.3))


def arm(law: FittedLaw):
    answer = allocate(law, REQUEST)
    return answer, next(item for item in answer.arms if item.name == NAME)


def test_it_is_not_answered_unless_measured(fitted: FittedLaw) -> None:
    found = arm(fitted)[1]
    assert found.plan is None and found.note == "not measured: needs fitted runs with specialist text in their general stage and none after it"


def test_its_plan_is_of_the_budget_and_its_interval_widens_with_the_worth(fitted: FittedLaw) -> None:
    answer, found = arm(measured(fitted, 0.5))
    assert found.plan is not None and found.plan.flops == pytest.approx(REQUEST.flops, rel=1e-6)
    assert 0.02 <= found.plan.share_spec <= 0.3 and found.plan.loss_low < found.plan.loss < found.plan.loss_high
    # By hand: the law with half as many tokens of a specialist stage.
    plan = found.plan
    points = fitted.points({"non_embedding": [plan.params_non_embedding], "total": [plan.params_total]}, [plan.tokens_pt], [0.5 * plan.tokens_spec], [2e5])
    assert plan.loss == pytest.approx(float(np.exp(fitted.log_loss_resamples(points).mean())), rel=2e-4)  # worths scatter
    assert found.worse_percent == pytest.approx(100 * (plan.loss / answer.plan.loss - 1), abs=1e-6)


def test_a_worth_of_little_makes_it_worse_and_of_much_better(fitted: FittedLaw) -> None:
    worse = [arm(measured(fitted, worth))[1] for worth in (0.05, 0.5, 5.0)]
    losses = [item.plan.loss for item in worse if item.plan]
    assert losses == sorted(losses, reverse=True) and len(losses) == 3
    assert worse[0].probability == 1.0 and worse[0].worse_percent > worse[1].worse_percent


def test_what_is_better_than_the_recommendation_is_told_with_why_it_is_not_recommended(fitted: FittedLaw) -> None:
    for worth, told in ((0.05, False), (5.0, True)):
        answer, found = arm(measured(fitted, worth))
        said = [text for text in answer.warnings if text.startswith(NAME)]
        assert len(said) == told == (found.worse_percent < 0)
    assert f"is forecast {-found.worse_percent:.2f} % lower than the recommendation, in {1 - found.probability:.0%} of the refits" in said[0]
    assert "fitted to 9 runs" in said[0] and f"early_fraction = {found.plan.share_spec:.3g}" in said[0]


def test_its_inference_is_written_beside_its_training(fitted: FittedLaw) -> None:
    request = replace(REQUEST, inference_tokens=2e6)
    plan = next(item for item in allocate(measured(fitted, 0.5), request).arms if item.name == NAME).plan
    assert plan is not None and plan.flops + plan.flops_inference == pytest.approx(REQUEST.flops, rel=1e-6)
    assert plan.flops_inference == pytest.approx(2e6 * forward_flops_per_token(plan.model_shape, 128))


def test_passes_limit_it(fitted: FittedLaw) -> None:
    law = measured(fitted, 0.5)
    answer = allocate(law, replace(REQUEST, max_epochs=2.0))
    plan = next(item for item in answer.arms if item.name == NAME).plan
    assert plan is not None and plan.epochs_spec <= 2.0 + 1e-9
