"""Water-filling against scipy, and against every division of small tables that cannot be solved by slopes."""

import numpy as np
import pytest
from scipy.optimize import minimize

from planner.allocate.domains.waterfill import fill


def tables(random: np.random.Generator, rows: int, nodes: int, batch: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw weighted power laws w·(E + A·(1 + x/s)^−b) and tabulate them: cost, value, and their parameters."""
    drawn = np.stack([random.uniform(0.2, 2, rows), random.uniform(0.5, 4, rows), random.uniform(0.1, 3, rows), random.uniform(0.2, 1, rows)])
    cost = np.concatenate([np.zeros((batch, rows, 1)), np.broadcast_to(np.geomspace(1e-3, 50, nodes), (batch, rows, nodes))], axis=-1)
    return cost, value_of(drawn[..., None], cost), drawn


def value_of(drawn: np.ndarray, amount: np.ndarray) -> np.ndarray:
    weight, amplitude, scale, power = drawn
    return weight * (1.5 + amplitude * (1 + amount / scale) ** -power)


def slsqp(drawn: np.ndarray, budget: float) -> float:
    """Return the least total value that scipy finds."""
    rows = drawn.shape[1]
    result = minimize(
        lambda x: value_of(drawn, np.maximum(x, 0)).sum(), np.full(rows, budget / rows), method="SLSQP", bounds=[(0, budget)] * rows,
        constraints={"type": "eq", "fun": lambda x: x.sum() - budget}, options={"ftol": 1e-13, "maxiter": 500},
    )  # fmt: skip
    return float(result.fun)


@pytest.mark.parametrize("rows", [2, 5, 12])
def test_as_good_as_scipy(rows: int) -> None:
    random = np.random.default_rng(rows)
    for _ in range(5):
        cost, value, drawn = tables(random, rows, 2000)
        budget = float(random.uniform(1, 20))
        found = fill(cost, value, np.array([budget]))
        free = slsqp(drawn, budget)
        assert found.amount.sum() == pytest.approx(budget)
        assert found.total[0] == pytest.approx(free, abs=1e-4)
        assert value_of(drawn, found.amount[0]).sum() == pytest.approx(free, abs=1e-4)


def test_a_gap_is_never_entered_and_costs_as_little_as_can_be() -> None:
    """Two rows whose amounts are none or from 1 up: all divisions are tried."""
    random = np.random.default_rng(2)
    for _ in range(30):
        cost, value, drawn = tables(random, 2, 60)
        cost = np.concatenate([np.zeros((1, 2, 1)), np.broadcast_to(np.geomspace(1, 50, 200), (1, 2, 200))], axis=-1)
        value = value_of(drawn[..., None], cost)
        budget = float(random.uniform(0.5, 3))
        found = fill(cost, value, np.array([budget]), gap=True)
        assert found.amount.sum() <= budget * (1 + 1e-9)
        assert ((found.amount == 0) | (found.amount >= 1 - 1e-9)).all()
        grid = np.concatenate([[0.0], np.linspace(1, max(budget, 1.0), 400)])
        first, second = np.meshgrid(grid, grid)
        both = np.stack([first, second], axis=-1)
        every = np.where(both.sum(-1) <= budget + 1e-9, value_of(drawn, both).sum(-1), np.inf)
        # Where a row goes down to none and the other takes what is left, nothing is lost; no other way may be better.
        assert found.total[0] <= every.min() + 2e-3


def test_equal_rows_get_equal_amounts_and_heavier_ones_never_less() -> None:
    random = np.random.default_rng(3)
    cost, value, _ = tables(random, 6, 40)
    value[:, 1] = value[:, 0]
    value[:, 2] = 1.7 * value[:, 0]
    for budget in np.geomspace(0.5, 100, 25):
        amount = fill(cost, value, np.array([budget])).amount[0]
        assert amount[0] == amount[1]
        assert amount[2] >= amount[0]


def test_more_is_never_worse_and_what_cannot_be_is_infinite() -> None:
    cost, value, _ = tables(np.random.default_rng(4), 5, 40, batch=12)
    budgets = np.linspace(0, 300, 12)
    totals = fill(cost, value, budgets).total
    assert (np.diff(totals) <= 1e-12).all()
    assert totals[-1] == pytest.approx(value[-1].min(-1).sum())
    barred = value.copy()
    barred[3, 2] = np.inf
    barred[4, 2, :20] = np.inf
    found = fill(cost, barred, budgets)
    assert np.isinf(found.total[3]) and np.isfinite(found.total[4])
    assert found.amount[4, 2] >= cost[4, 2, 20]
    assert np.isinf(fill(cost, barred, np.full(12, 1e-3)).total[4])
