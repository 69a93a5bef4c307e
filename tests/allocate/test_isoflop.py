"""Iso-FLOP curves against brute force, their intervals, and where they end."""

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.isoflop import IsoFlop, iso_flops
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.ladder import shape_for
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


def test_a_curve_keeps_the_limits_of_a_request(fitted: FittedLaw) -> None:
    """The figure of an answer is drawn from it; its least loss is the answer's, whatever binds."""
    free = iso_flops(fitted, [1.2e13], UNIQUE)[0]
    for limits in ({"general_tokens": 2e6}, {"inference_tokens": 1e7}, {"max_epochs": 1.0}, {"training_flops": 3e12}):
        request = Request(1.2e13, UNIQUE, **limits)  # type: ignore[arg-type]
        (curve,), plan = iso_flops(fitted, [1.2e13], UNIQUE, request), allocate(fitted, request).plan
        near = np.abs(np.log(curve.params / plan.params_non_embedding)).argmin()
        assert curve.loss[near] == pytest.approx(plan.loss, rel=0.01) and curve.loss.min() > 0.995 * plan.loss
        assert curve.loss.min() > free.loss.min()
