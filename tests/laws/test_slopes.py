"""Slopes of every law against central differences."""

import numpy as np
import pytest

from planner.fit.solver import Scale
from planner.laws import LAWS, Points, Reference


@pytest.fixture
def points() -> Points:
    random = np.random.default_rng(0)
    params = random.choice([2e4, 1e5, 3e5], 40)
    tokens_pt = random.choice([0, 3e5, 4e6], 40)
    tokens_spec = np.where(tokens_pt == 0, 8e5, random.choice([0, 2e5, 3e6], 40))
    return Points(Reference(1e5, 1e6), params, tokens_pt, tokens_spec, random.choice([5e4, 2e6], 40))


@pytest.mark.parametrize("name", LAWS)
def test_slopes_agree_with_differences(name: str, points: Points) -> None:
    law = LAWS[name]
    theta = Scale(law).draw(np.random.default_rng(1), 4)
    value, slopes = law.log_loss_and_slopes(theta, points)
    np.testing.assert_allclose(value, law.log_loss(theta, points), rtol=1e-12)
    for number in range(theta.shape[1]):
        step = 1e-6 * np.maximum(np.abs(theta[:, number]), 1e-2)
        up, down = theta.copy(), theta.copy()
        up[:, number] += step
        down[:, number] -= step
        difference = (law.log_loss(up, points) - law.log_loss(down, points)) / (2 * step)[:, None]
        np.testing.assert_allclose(slopes[:, number], difference, rtol=1e-5, atol=1e-6, err_msg=law.parameters[number].name)
