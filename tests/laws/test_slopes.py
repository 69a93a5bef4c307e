"""First and second derivatives of every law against central differences."""

import numpy as np
import pytest

from planner.fit.scale import Scale
from planner.laws import LAWS, Law, Parameter, Points, Reference
from planner.laws.dual import curvature


@pytest.fixture
def points() -> Points:
    random = np.random.default_rng(0)
    params = random.choice([2e4, 1e5, 3e5], 40)
    tokens_pt = random.choice([0, 3e5, 4e6], 40)
    tokens_spec = np.where(tokens_pt == 0, 8e5, random.choice([0, 2e5, 3e6], 40))
    unique, replay = random.choice([5e4, 2e6], 40), np.where(tokens_spec > 0, random.choice([0, 0.05, 0.3], 40), 0)
    return Points(Reference(1e5, 1e6), params, tokens_pt, tokens_spec, unique, replay)


@pytest.fixture
def repeated() -> Points:
    random = np.random.default_rng(0)
    return Points(Reference(1e5, 1e6), random.choice([2e4, 1e5, 3e5], 40), 0.0, random.choice([2e5, 3e6], 40), random.choice([5e4, 2e6], 40))


def at(name: str, points: Points, repeated: Points) -> Points:
    return repeated if LAWS[name].repeats else points


@pytest.mark.parametrize("name", LAWS)
def test_slopes_agree_with_differences(name: str, points: Points, repeated: Points) -> None:
    law, points = LAWS[name], at(name, points, repeated)
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


@pytest.mark.parametrize("name", LAWS)
def test_curvature_agrees_with_differences_of_slopes(name: str, points: Points, repeated: Points) -> None:
    law, points = LAWS[name], at(name, points, repeated)
    random = np.random.default_rng(2)
    theta = Scale(law).draw(random, 3)
    weights = random.normal(size=(3, points.count))
    _, slopes, trace = law.log_loss_slopes_and_trace(theta, points)
    curvature = law.log_curvature(trace, slopes, weights)
    np.testing.assert_allclose(curvature, curvature.transpose(0, 2, 1), rtol=1e-9, atol=1e-9)
    for number in range(theta.shape[1]):
        step = 1e-6 * np.maximum(np.abs(theta[:, number]), 1e-2)
        up, down = theta.copy(), theta.copy()
        up[:, number] += step
        down[:, number] -= step
        rise = law.log_loss_and_slopes(up, points)[1] - law.log_loss_and_slopes(down, points)[1]
        difference = (rise * weights[:, None]).sum(2) / (2 * step)[:, None]
        # What cancels in the sum sets the error of the differences.
        scale = (np.abs(rise) * np.abs(weights)[:, None]).sum(2) / (2 * step)[:, None]
        assert (np.abs(curvature[:, number] - difference) <= 1e-5 * scale + 1e-4).all(), law.parameters[number].name


def test_parameters_marked_linear_are() -> None:
    """Without repeats; harm that competes with the rest bends it, and starts need no more than this."""
    random = np.random.default_rng(0)
    fresh = [random.choice([2e4, 1e5, 3e5], 40), random.choice([3e5, 4e6], 40), random.choice([2e5, 3e6], 40), 1e9]
    for name, law in LAWS.items():
        points = Points(Reference(1e5, 1e6), *(fresh if not law.repeats else [fresh[0], 0.0, *fresh[2:]]))
        theta = Scale(law).draw(np.random.default_rng(3), 2)
        trace = law.traced(theta, points)
        for number, parameter in enumerate(law.parameters):
            if parameter.linear:
                more = theta.copy()
                more[:, number] *= 1.7
                rise = law.traced(more, points).value - trace.value
                slope = np.broadcast_to(theta[:, number : number + 1] * trace.by.get(number, 0.0), rise.shape)
                np.testing.assert_allclose(rise, 0.7 * slope, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_square_bends_as_a_square() -> None:
    """Of a parameter and of what was made from it; both operands are one and the same."""
    parameters = tuple(Parameter(name, 0.1, 9.0, (0.5, 2.0), "ratio") for name in "ab")
    law = Law("square", "", parameters, lambda p, x: p["a"] * p["a"] + (y := p["b"] * x.pt) * y + 1.0, "", "")
    theta, points = np.array([[1.3, 0.7]]), Points(Reference(1.0, 1.0), [1.0, 1.0], [2.0, 3.0], [0.0, 0.0], [1.0, 1.0])
    trace, weights = law.traced(theta, points), np.array([[1.0, 0.5]])
    np.testing.assert_allclose(curvature(trace, weights, 2)[0], np.diag([2 * 1.5, 2 * (4.0 + 0.5 * 9.0)]))
