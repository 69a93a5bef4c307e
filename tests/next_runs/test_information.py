"""Information and covariances against closed forms and against generalised least squares written out."""

import numpy as np
import pytest

from planner.arrays import Array
from planner.laws import Points, Reference
from planner.next_runs.belief import ParameterDraws
from planner.next_runs.information import Information, fisher, mean_criterion
from tests.next_runs.shared import LINE

REFERENCE = Reference(1.0, 1.0)
NOISE, SHARE = 0.1, 0.3


def line(log_n: Array) -> tuple[ParameterDraws, Array]:
    draws = ParameterDraws(LINE, "non_embedding", REFERENCE, np.zeros((1, 2)), np.ones(2), np.eye(2)[None])
    return draws, draws.slopes(Points(REFERENCE, np.exp(log_n), 1.0, 0.0, np.nan))


def test_slopes_of_a_line() -> None:
    x = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(line(x)[1][0], np.stack([np.ones(3), x], axis=1))


def test_independent_rows_have_the_textbook_covariance() -> None:
    """Straight line, flat prior: the slope's variance is σ²/Σ(x − x̄)², the mean's σ²/n."""
    x = np.array([-1.0, 0.5, 2.0, 2.5])
    slopes = line(x)[1][0]
    covariance = np.linalg.inv(fisher(slopes, np.arange(4), NOISE, 0.0))
    assert covariance[1, 1] == pytest.approx(NOISE**2 / ((x - x.mean()) ** 2).sum())
    at_mean = np.array([1.0, x.mean()])
    assert at_mean @ covariance @ at_mean == pytest.approx(NOISE**2 / 4)


def test_one_trunk_shares_its_error() -> None:
    """n rows of one trunk leave (1 − s)·σ²/n + s·σ² on their mean, and tell the slope better than independent rows would."""
    x = np.array([-1.0, 0.0, 1.0])
    slopes = line(x)[1][0]
    together = np.linalg.inv(fisher(slopes, np.zeros(3, dtype=int), NOISE, SHARE))
    assert together[0, 0] == pytest.approx(NOISE**2 * ((1 - SHARE) / 3 + SHARE))
    assert together[1, 1] == pytest.approx((1 - SHARE) * NOISE**2 / 2)


def made(seed: int, weight: bool = True) -> tuple[Information, Array, Array]:
    random = np.random.default_rng(seed)
    slopes, group = random.normal(size=(2, 12, 4)), random.integers(0, 3, 12)
    group[:3] = range(3)
    root = random.normal(size=(2, 4, 4))
    directions = random.normal(size=(2, 5, 4))
    total = directions.transpose(0, 2, 1) @ directions if weight else None
    return Information.of(slopes, root @ root.transpose(0, 2, 1), group, NOISE, SHARE, total), slopes, group


@pytest.mark.parametrize("seed", range(3))
def test_covariance_is_that_of_generalised_least_squares(seed: int) -> None:
    one, slopes, group = made(seed)
    chosen = np.random.default_rng(seed).random(12) < 0.5
    error = NOISE**2 * ((1 - SHARE) * np.eye(12) + SHARE * (group[:, None] == group))[np.ix_(chosen, chosen)]
    found = one.of_parameters(one.covariance(chosen))
    for draw in range(2):
        rows, prior = slopes[draw, chosen], np.linalg.inv(one.of_parameters(one.before)[draw])
        np.testing.assert_allclose(found[draw], np.linalg.inv(prior + rows.T @ np.linalg.solve(error, rows)), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(fisher(rows, group[chosen], NOISE, SHARE), rows.T @ np.linalg.solve(error, rows), rtol=1e-9)


@pytest.mark.parametrize("weight", [True, False], ids=["variance", "determinant"])
def test_gains_are_what_one_cell_more_brings(weight: bool) -> None:
    one, _, _ = made(7, weight)
    chosen = np.zeros(12, dtype=bool)
    chosen[[2, 5, 6]] = True
    covariance = one.covariance(chosen)
    gains = one.gains(covariance)
    for number in np.flatnonzero(~chosen):
        more = chosen.copy()
        more[number] = True
        np.testing.assert_allclose(one.with_one(covariance, number), one.covariance(more), rtol=1e-6, atol=1e-10)
        np.testing.assert_allclose(gains[:, number], one.criterion(covariance) - one.criterion(one.covariance(more)), rtol=1e-6, atol=1e-9)
    assert mean_criterion([one, one], chosen) == pytest.approx(float(one.criterion(covariance).mean()))
