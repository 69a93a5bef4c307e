"""The solver recovers what made the data."""

import numpy as np
import pytest

from planner.fit.solver import Scale, objective, solve
from planner.laws import LAWS, Points, Reference

LAW_NAMES = ["chinchilla", "additive-saturating", "interaction-penalised", "transfer-size-sized", "bounded-saturating", "gap-competing"]


@pytest.mark.parametrize("name", LAW_NAMES)
def test_recovers_noiseless_truth(name: str) -> None:
    law, random = LAWS[name], np.random.default_rng(3)
    params = random.choice([2e4, 5e4, 1e5, 3e5], 80)
    tokens_pt = random.choice([0, 3e5, 1e6, 4e6], 80)
    tokens_spec = np.where(tokens_pt == 0, 8e5, random.choice([0, 2e5, 8e5, 3e6], 80))
    points = Points(Reference(1e5, 1e6), params, tokens_pt, tokens_spec, random.choice([5e4, 2e5, 2e6], 80))
    truth = Scale(law).draw(random, 1)
    log_loss = law.log_loss(truth, points)[0]
    weights = np.ones((1, 80))
    starts = Scale(law).draw(random, 512)
    starts = starts[np.argsort(objective(law, starts, points, log_loss, weights, 0.1))[:32]]
    solution = solve(law, points, log_loss, starts, weights)
    best = solution.theta[np.argmin(solution.objective)]
    assert solution.objective.min() < 1e-20
    np.testing.assert_allclose(law.log_loss(best[None], points)[0], log_loss, atol=1e-9)
