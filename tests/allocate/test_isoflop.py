"""Iso-FLOP curves against brute force and against the answers whose figures they are, their intervals, and where they end."""

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.isoflop import IsoFlop, iso_flop, iso_flops
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.laws import LAWS
from tests.allocate.problems import ONE_STAGE, random_law, random_request
from tests.conftest import true_log_loss

BUDGETS = [1e12, 3e12, 1.2e13]
UNIQUE = 2e5


@pytest.fixture(scope="module")
def curves(fitted: FittedLaw) -> list[IsoFlop]:
    return iso_flops(fitted, BUDGETS, UNIQUE)


def test_a_curve_is_the_least_loss_at_each_size(curves: list[IsoFlop]) -> None:
    for curve in curves:
        inside = np.flatnonzero(curve.inside) if curve.inside.any() else np.arange(20, 40)
        for number in inside[::8]:
            # With the cost of the nearest real shape, from which the smooth one is a little off.
            shape = shape_for(float(curve.params[number]), family="qwen3", vocab=1024)
            total = curve.flops / flops_per_token(shape, 128)
            spec = np.linspace(0.01, 1, 300) * min(total, 8 * UNIQUE)
            best = np.exp(true_log_loss(curve.params[number], np.maximum(total - spec, 0), spec, UNIQUE).min())
            assert curve.loss[number] == pytest.approx(best, rel=0.03)
            assert curve.low[number] <= curve.loss[number] * 1.001 and curve.loss[number] <= curve.high[number] * 1.001


def test_more_compute_is_better_and_wants_a_larger_model(curves: list[IsoFlop]) -> None:
    assert np.all(np.diff([curve.loss.min() for curve in curves]) < 0)
    assert np.all(np.diff([curve.params[curve.best] for curve in curves]) > 0)
    for curve in curves:
        low, high = curve.params_interval
        assert np.all(np.diff(curve.params) > 0)
        assert low < high and low <= curve.params[curve.best] <= high


def test_curves_tell_where_the_runs_end(curves: list[IsoFlop], fitted: FittedLaw) -> None:
    assert curves[0].inside.any()
    far = iso_flops(fitted, [100 * fitted.support.high["flops"]], UNIQUE)[0]
    assert not far.inside.any()


def test_a_tiny_budget_is_refused(fitted: FittedLaw) -> None:
    with pytest.raises(DataError, match="too few"):
        iso_flops(fitted, [1e6], UNIQUE)


def test_a_budget_for_hardly_more_than_the_smallest_model_has_a_curve(fitted: FittedLaw) -> None:
    """A few shapes bear no curve of their costs: it said that a token costs nothing."""
    problem = Problem.of(fitted, Request(1e9, UNIQUE))
    smallest = problem.size(1e4)
    for more in (1.001, 1.1, 1.5):
        curve = iso_flop(Problem.of(fitted, Request(more * smallest.flops_per_token * problem.min_tokens_stage, UNIQUE)))
        assert np.all((curve.params > 0.9e4) & (curve.params < 2e4)) and np.all((curve.loss > 1) & (curve.loss < 20))


@pytest.mark.parametrize("seed", [0, 1, 2, *range(4, 12)])  # the memory of the third holds no size that it asks for
def test_the_recommendation_lies_on_the_curve_of_its_limits(seed: int) -> None:
    random = np.random.default_rng([7, seed])
    repeats = seed % 2 == 1
    law = random_law(LAWS["repetition-penalty"] if repeats else ONE_STAGE[0], random)
    request = random_request(random)
    request = replace(request, general_tokens=None if repeats else request.general_tokens, memory_per_gpu=8e6 if seed % 3 == 0 else None)
    request = replace(request, training_flops=0.4 * request.flops if seed % 4 == 0 else None)
    robust = seed % 5 > 0
    plan = allocate(law, request, robust=robust, allow_extrapolation=True).plan
    curve = iso_flop(Problem.of(law, request, robust=robust))
    assert curve.params.min() <= plan.params_non_embedding * 1.001 and plan.params_non_embedding <= curve.params.max() * 1.05
    here = np.exp(np.interp(np.log(plan.params_non_embedding), np.log(curve.params), np.log(curve.loss)))
    # Real shapes scatter about the curve, in cost and in embeddings.
    assert plan.loss == pytest.approx(here, rel=0.02 if law.source else 2e-3)
    if not law.source and not (request.params or request.params_range or request.params_among):
        searched = max(size.params_non_embedding for size in Problem.of(law, request).sizes())
        assert plan.loss <= curve.loss[curve.params <= searched].min() * (1 + 1e-4)
        assert not curve.inside[curve.params > 1.001 * searched].any()


def test_a_curve_keeps_the_limits_of_a_request(fitted: FittedLaw) -> None:
    """The figure of an answer is drawn from it; its least loss is the answer's, whatever binds."""
    free = iso_flops(fitted, [1.2e13], UNIQUE)[0]
    for limits in ({"general_tokens": 2e6}, {"inference_tokens": 1e7}, {"max_epochs": 1.0}, {"training_flops": 3e12}):
        request = Request(1.2e13, UNIQUE, **limits)  # type: ignore[arg-type]
        curve, plan = iso_flop(Problem.of(fitted, request)), allocate(fitted, request).plan
        near = np.abs(np.log(curve.params / plan.params_non_embedding)).argmin()
        assert curve.loss[near] == pytest.approx(plan.loss, rel=0.01) and curve.loss.min() > 0.995 * plan.loss
        assert curve.loss.min() > free.loss.min()
