"""Profiles: their intervals hold the truth about as often as they say, and ridges are named."""

import numpy as np
import pytest

import planner.fit.profile as profile_module
from planner.fit.estimate import estimate
from planner.fit.profile import profile, ridge
from planner.laws import LAWS, Points, Reference

TRUTH = np.array([1.8, 0.36, 0.46, 0.35, 0.37])


def runs(rows: int, random: np.random.Generator) -> tuple[Points, np.ndarray]:
    points = Points(Reference(1e5, 1e6), np.exp(random.uniform(9.2, 14.0, rows)), np.exp(random.uniform(12.0, 17.0, rows)), 0.0, np.nan)
    return points, LAWS["chinchilla"].log_loss(TRUTH[None], points)[0]


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    law, held = LAWS["chinchilla"], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        points, log_loss = runs(120, random)
        log_loss = log_loss + 0.01 * random.standard_t(4, size=points.count)
        found = estimate(law, points, log_loss, random, starts=6)
        held += [item.low <= value <= item.high for item, value in zip(profile(law, points, log_loss, found.theta), TRUTH, strict=True)]
    # 200 intervals of 90 %; those of one table go together, so the band is wide.
    assert 0.80 <= np.mean(held) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("noise", [5e-4, 1e-4])
def test_intervals_cover_the_truth_at_low_noise(noise: float) -> None:
    """Where each parameter is known to far under the least step of the grid; they held a third of it with straight lines between its values."""
    law, held = LAWS["chinchilla"], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        points, log_loss = runs(60, random)
        log_loss = log_loss + noise * random.normal(size=points.count)
        found = estimate(law, points, log_loss, random, starts=0, warm=TRUTH[None])
        held += [item.low <= value <= item.high for item, value in zip(profile(law, points, log_loss, found.theta), TRUTH, strict=True)]
    assert 0.75 <= np.mean(held) < 1


@pytest.mark.parametrize("noise", [2e-4, 5e-3])
def test_ends_are_those_of_a_fine_grid(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    law, (points, log_loss) = LAWS["chinchilla"], runs(60, random)
    log_loss = log_loss + noise * random.normal(size=points.count)
    found = estimate(law, points, log_loss, random, starts=0, warm=TRUTH[None])
    items = profile(law, points, log_loss, found.theta)
    monkeypatch.setattr(profile_module, "REACH", np.geomspace(1e-4, 6.5, 150))
    monkeypatch.setattr(profile_module, "AGAIN", 0)
    for item, fine in zip(items, profile(law, points, log_loss, found.theta), strict=True):
        assert (item.open_low, item.open_high) == (fine.open_low, fine.open_high)
        assert max(abs(item.low - fine.low), abs(item.high - fine.high)) < 0.03 * (fine.high - fine.low), item.name
        inside = item.excess[(item.value >= item.low) & (item.value <= item.high)]
        assert (inside <= 1).all() and len(inside) >= 5, "too few values to see a parabola by"


def test_the_excess_grows_away_from_the_best_value() -> None:
    random = np.random.default_rng(1)
    points, log_loss = runs(150, random)
    log_loss = log_loss + 0.01 * random.normal(size=points.count)
    found = estimate(LAWS["chinchilla"], points, log_loss, random)
    for item in profile(LAWS["chinchilla"], points, log_loss, found.theta, ["α", "β"]):
        at = int(np.argmin(item.excess))
        assert item.excess[at] == 0 and (np.diff(item.excess[at:]) > -1e-2).all() and (np.diff(item.excess[: at + 1]) < 1e-2).all()
        assert not item.open_low and not item.open_high and item.low < item.value[at] < item.high


def test_a_ridge_is_named() -> None:
    """Repeats so few that any R* fits."""
    random = np.random.default_rng(2)
    law = LAWS["data-constrained"]
    n, unique = random.choice([2e4, 1e5, 5e5], 90), random.choice([3e5, 1e6, 4e6], 90)
    points = Points(Reference(1e5, 1e6), n, 0.0, unique * random.choice([0.5, 1.0, 1.3], 90), unique)
    log_loss = law.log_loss(np.array([[1.5, 0.4, 0.5, 0.35, 15.0, 5.0]]), points)[0] + 0.01 * random.normal(size=90)
    found = estimate(law, points, log_loss, random)
    named = ridge(law, points, log_loss, found.theta)
    assert "R_D*" in named and "α" not in named
