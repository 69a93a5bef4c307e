"""Resamples: weights are by trunk, and their spread is that of fresh tables."""

from pathlib import Path

import numpy as np
import pytest

from planner.errors import InputError
from planner.fit.data import FitData, fit_data
from planner.fit.estimate import estimate
from planner.fit.resample import draw_weights, fit_weighted, scheme_for
from planner.fit.solver import DELTAS, solve
from planner.laws import LAWS, Points, Reference
from planner.runs import read_runs


@pytest.mark.parametrize("scheme", ["multinomial", "fractional"])
def test_rows_of_a_trunk_share_their_weight(scheme: str) -> None:
    cluster = np.array([0, 0, 1, 2, 2, 2, 3])
    weights = draw_weights(cluster, 4000, scheme, np.random.default_rng(0))
    assert weights.shape == (4000, 7)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    trunks = weights[:, [0, 2, 3, 6]]
    np.testing.assert_allclose(trunks.sum(1), 4.0)
    np.testing.assert_allclose(trunks.mean(0), 1.0, atol=0.06)
    # Both have the variance of drawing 4 trunks of 4, up to a factor near 1.
    assert 0.5 < trunks.var(0).mean() < 1.2
    whole = np.allclose(trunks, np.round(trunks))
    assert whole == (scheme == "multinomial")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="bayes"):
        draw_weights(np.arange(3), 2, "bayes", np.random.default_rng(0))


def test_whole_trunks_are_drawn_only_where_no_size_is_lost(synthetic: FitData) -> None:
    assert scheme_for(synthetic.params, synthetic.cluster) == "fractional"
    sizes = np.repeat([1e4, 1e5, 1e6], 20)
    assert scheme_for(sizes, np.repeat(np.arange(3), 20)) == "fractional"
    assert scheme_for(sizes, np.repeat(np.arange(12), 5)) == "multinomial"
    for count in (60, 5000):
        assert scheme_for(np.geomspace(1e4, 1e6, count), np.arange(count)) == "multinomial"


def test_the_spread_is_that_of_fresh_tables() -> None:
    law, truth, reference = LAWS["chinchilla"], np.array([1.8, 0.36, 0.46, 0.35, 0.37]), Reference(1e5, 1e6)
    random = np.random.default_rng(4)
    points = Points(reference, np.exp(random.uniform(9.2, 14.0, 150)), np.exp(random.uniform(12.0, 17.0, 150)), 0.0, np.nan)
    clean = law.log_loss(truth[None], points)[0]
    fresh, drawn = [], []
    for seed in range(60):
        log_loss = clean + 0.01 * np.random.default_rng(seed).normal(size=150)
        found = estimate(law, points, log_loss, random, starts=4)
        fresh.append(found.theta)
        if seed < 6:
            drawn.append(fit_weighted(law, points, log_loss, draw_weights(np.arange(150), 200, "multinomial", random), found.theta[None])[0].std(0))
    ratio = np.mean(drawn, axis=0) / np.std(fresh, axis=0)
    assert (ratio > 0.7).all() and (ratio < 1.4).all()


def test_a_resample_that_creeps_along_a_ridge_comes_to_its_end() -> None:
    """One ceiling of the loss is hardly measured on this sweep: first-order steps were a fortieth above the least objective after 200 of them."""
    data = fit_data(read_runs(Path(__file__).parents[2] / "sweeps" / "nature" / "runs.csv")).under("total")
    law, points = LAWS["ceiling-rote"], data.points(data.reference)
    whole = estimate(law, points, data.log_loss, np.random.default_rng(0))
    weights = draw_weights(data.cluster, 60, "fractional", np.random.default_rng(1))
    theta, value = fit_weighted(law, points, data.log_loss, weights, whole.theta[None])
    longer = solve(law, points, data.log_loss, theta, weights, deltas=DELTAS[-1:], iterations=2000, exact=True).objective
    assert np.quantile(value / longer, 0.95) < 1 + 1e-4 and (value < 1.01 * longer).all()
