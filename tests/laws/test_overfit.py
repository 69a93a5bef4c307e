"""Harm that grows as the loss falls: what the overfit laws say of text that is repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.fit.data import fit_data
from planner.fit.estimate import estimate
from planner.laws import LAWS, Law, Points, Reference
from planner.runs import read_runs

SWEEPS = Path(__file__).parents[2] / "sweeps"
OVERFIT = [law for law in LAWS.values() if law.name.endswith("-overfit")]
USUAL = {"E": 0.1, "A": 6.0, "b": 0.4, "α": 0.35, "β": 0.35, "G": 20.0, "s0": 0.005, "p0": 10.0, "L0": 30.0, "P": 2e-3, "λ": 1.1, "k": 6.0}


@pytest.mark.parametrize("law", OVERFIT, ids=lambda law: str(law.name))
def test_repeats_raise_the_loss_by_the_share_that_the_formula_says(law: Law) -> None:
    usual = USUAL | ({"A": 2.5, "G": 6.0} if "L0" in law.formula else {})  # nats where the root laws have their squares
    theta = np.array([[usual[parameter.name] for parameter in law.parameters]])
    params, spec, unique = np.array([2e4, 2e4, 3e5, 3e5]), np.full(4, 4e5), np.array([4e5, 2.5e4, 4e5, 2.5e4])
    fresh, repeated, fresh_large, repeated_large = np.exp(law.log_loss(theta, Points(Reference(1e5, 2e6), params, np.full(4, 2e6), spec, unique))[0])
    for before, after in ((fresh, repeated), (fresh_large, repeated_large)):
        assert after / before - 1 == pytest.approx(2e-3 * 15**0.7 * (2.5e4 / 2e6) ** -1.1 * (3 / before) ** 6, rel=1e-9)
    assert fresh_large < fresh and repeated_large > repeated, "sixteen epochs over little text: the larger model is the worse one"


def test_forecasts_of_strong_repetition_from_runs_of_little() -> None:
    """Fitted to runs that lose a per cent or two by repetition, of runs that lose up to half; a floor to the loss is more than twice as far off."""
    before = fit_data(read_runs(SWEEPS / "nature" / "before" / "runs.csv")).under("total")
    after = fit_data(read_runs(SWEEPS / "nature" / "repeats" / "runs.csv"), keep=("overfitted",)).under("total")
    points, there, error = before.points(before.reference), after.points(before.reference), {}
    for name in ("root-near-rote", "root-near-overfit"):
        found = estimate(LAWS[name], points, before.log_loss, np.random.default_rng(0), starts=16)
        error[name] = np.abs(np.expm1(found.log_loss(there) - after.log_loss))
    assert error["root-near-overfit"].mean() < 0.02 and error["root-near-overfit"].max() < 0.06
    assert error["root-near-rote"].mean() > 0.03 and error["root-near-rote"].max() > 0.15


def test_harm_is_found_where_losses_are_low() -> None:
    """(3/L)^k is large where losses are low, as those of code or error rates are, and P as small; a bound at 1e-8 missed them by several per cent."""
    law, grid = LAWS["root-near-overfit"], np.meshgrid([2e4, 8e4, 3e5], [5e5, 2e6], [5e4, 1e5, 2e5], [1.0, 2.0, 4.0, 8.0, 16.0])
    params, general, unique, epochs = (axis.ravel() for axis in grid)
    points = Points(Reference(1e5, 2e6), params, general, epochs * unique, unique)
    low = USUAL | {"A": 0.24, "G": 0.8, "P": 2e-3 * 0.2**9, "k": 9.0}
    losses = law.log_loss(np.array([[low[parameter.name] for parameter in law.parameters]]), points)[0]
    found = estimate(law, points, losses, np.random.default_rng(0), starts=16)
    assert np.exp(losses).max() < 2 and np.abs(found.log_loss(points) - losses).max() < 1e-3
