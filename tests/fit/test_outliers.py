"""Runs that are likely mistakes: by the laws that fit best, the same for every law, and not by one law that is wrong where they lie."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from planner.errors import PlannerWarning
from planner.fit.data import FitData, fit_data
from planner.fit.fit import fit
from planner.fit.outliers import far_off, find_outliers
from planner.fit.select import score_laws
from planner.laws import LAWS, Reference
from planner.runs import read_runs
from tests.fit.two_stages import two_stages

LAW = LAWS["multiplicative-saturating"]
TRUTH = (1.0, 0.4, 3.0, 0.35, 0.3, 0.3, 0.3, 0.1, 12.0)


def named(data: FitData) -> tuple[set[str], float]:
    """Return the runs that a fit names as likely mistakes, and the noise that it tells."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        law = fit(data, "auto", resamples=20, largest=False)
    return {str(item.message).split()[0] for item in said if "likely a data error" in str(item.message)}, law.noise


@pytest.mark.slow
def test_two_runs_far_off_what_the_others_scatter_by_are_named_and_are_no_noise() -> None:
    for seed in range(3):
        data = two_stages(LAW, TRUTH, Reference(1e5, 2e6), 0.002, seed)
        rows = np.random.default_rng(seed).permutation(data.count)[:2]
        clean = named(data)
        data.log_loss[rows] += np.log([1.046, 0.955])
        found, noise = named(data)
        assert found == {data.run_ids[row] for row in rows} and noise < 1.2 * clean[1]
        assert not clean[0]


def test_what_one_law_alone_leaves_far_off_is_no_mistake() -> None:
    data = fit_data(read_runs(Path(__file__).parents[2] / "sweeps" / "nature" / "runs.csv"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlannerWarning)
        (alone,) = score_laws([data], [LAWS["bounded-saturating"]])
    residual = data.log_loss - alone.estimate.log_loss(data.points(data.reference))
    assert far_off(residual, 10).sum() >= 1 and not alone.outliers.any()
    assert alone.rms_percent == pytest.approx(100 * np.sqrt((residual**2).sum() / (data.count - 10)))


def test_laws_that_fit_best_decide_together_and_the_others_do_not() -> None:
    random = np.random.default_rng(1)
    best = 0.003 * random.normal(size=(3, 60))
    best[:, 7] = 0.2
    best[:2, 9] = 0.1  # the third goes through it
    poor = np.vstack([best, 0.05 * random.normal(size=60)])
    assert np.flatnonzero(find_outliers(best, [5, 6, 7])).tolist() == [7]
    assert np.flatnonzero(find_outliers(poor, [5, 6, 7, 5])).tolist() == [7], "by the scatter of the fourth the run would be none"
    assert np.flatnonzero(find_outliers(best[:2], [5, 6])).tolist() == [7, 9]


def test_runs_that_a_law_goes_through_say_nothing_of_how_far_runs_lie_off() -> None:
    residual = np.concatenate([np.full(18, 1e-6), 0.005 * np.random.default_rng(2).normal(size=9), [0.025]])
    assert not far_off(residual, 18).any() and far_off(residual, 0).any()
    residual[-1] = 0.3
    assert np.flatnonzero(far_off(residual, 18)).tolist() == [27]
