"""The solver recovers what made the data, agrees with a slow path through scipy, and keeps what is fixed."""

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize

from planner.fit.data import FitData
from planner.fit.estimate import estimate
from planner.fit.scale import Scale
from planner.fit.solver import DELTA, _solved, huber, objective, solve
from planner.laws import LAWS, Points, Reference

SURFACES = {"symmetric": (1.0, 0.5, 0.5, 0.3, 0.3), "chinchilla": (1.8172, 0.3577, 0.4564, 0.3478, 0.3658), "lopsided": (0.5, 1.5, 0.05, 0.1, 0.8)}


def grid(repeats: bool = False) -> Points:
    """Lay runs over five sizes, both ends of both stages, and three amounts of distinct text."""
    rows = [
        (n, 0.0 if repeats else pt, spec, unique)
        for n in (2e4, 5e4, 1e5, 3e5, 9e5)
        for pt in (0.0, 3e5, 1e6, 4e6)
        for spec in (0.0, 2e5, 8e5, 3e6)
        for unique in (5e4, 2e5, 2e6)
        if pt + spec > 0 and not (repeats and spec == 0)
    ]
    return Points(Reference(1e5, 1e6), *np.array(rows).T)


@pytest.mark.parametrize("name", SURFACES)
def test_recovers_one_stage_surfaces(name: str) -> None:
    law, truth = LAWS["chinchilla"], np.array(SURFACES[name])
    n, d = np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(2e5, 2e7, 7))
    points = Points(Reference(1e5, 1e6), n.ravel(), d.ravel(), 0.0, np.nan)
    found = estimate(law, points, law.log_loss(truth[None], points)[0], np.random.default_rng(0))
    np.testing.assert_allclose(found.theta, truth, rtol=1e-6)


@pytest.mark.parametrize("name", [law.name for law in LAWS.values() if law.target == "spec"])
def test_recovers_the_surface_of_every_law(name: str) -> None:
    law = LAWS[name]
    points = grid(law.repeats)
    truth = Scale(law).draw(np.random.default_rng(22), 1)
    log_loss = law.log_loss(truth, points)[0]
    found = estimate(law, points, log_loss, np.random.default_rng(0), starts=32)
    np.testing.assert_allclose(law.log_loss(found.theta[None], points)[0], log_loss, atol=1e-6)
    # Where the runs determine them at all, the parameters come back too; offsets beside exponents are a ridge of their own.
    if found.diagnosis.condition < 1e7:
        np.testing.assert_allclose(found.theta, truth[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "truth", "seed"),
    [
        ("additive-saturating", (0.2458, 0.1196, 0.5917, 2.541, 0.1372, 0.5113, 0.1998, 0.01716, 0.4425, 3.113), 14),
        ("additive-penalised", (0.8775, 0.6684, 0.1992, 0.4247, 0.1606, 0.2367, 0.2706, 0.01822, 0.9972, 0.0003173, 0.8054, 0.2477, 0.6417), 4),
        ("gap-penalised", (0.3258, 0.2528, 1.929, 0.5134, 0.6712, 0.3042, 0.2969, -0.1625, 2.103, 0.2083, 0.1407, 0.0006194, 0.803, 0.993, 0.6711), 36),
    ],
)
def test_a_bent_valley_is_followed_to_the_law_that_meets_all_runs(name: str, truth: tuple[float, ...], seed: int) -> None:
    law = LAWS[name]
    points = Points(Reference(1e5, 2e6), *np.array([
        (n, pt, spec, unique)
        for n in (1e4, 2.5e4, 6e4, 1.5e5, 4e5, 1e6) for pt in (0, 4e5, 1.6e6, 6e6) for spec in (0, 8e4, 4e5, 2e6) for unique in (4e4, 2e5, 2.4e6)
        if (pt or spec) and (spec or unique == 2e5)
    ]).T)  # fmt: skip
    found = estimate(law, points, law.log_loss(np.array([truth]), points)[0], np.random.default_rng(seed))
    assert found.status != "max_iterations"
    np.testing.assert_allclose(found.theta, truth, rtol=1e-6)


def test_a_parameter_that_no_run_shows_where_it_stands_is_said() -> None:
    """Every model is far larger than its text can use, so that what a size is worth has no say."""
    law = LAWS["data-constrained"]
    truth = np.array([1.105, 0.064, 0.486, 0.154, 39.85, 1.244])
    points = Points(Reference(1e5, 2e6), *np.array([
        (n, 0, unique * passes, unique) for n in (1e4, 2.5e4, 6e4, 1.5e5, 4e5, 1e6) for unique in (6e4, 2e5, 8e5) for passes in (0.8, 2, 5, 12, 40)
    ]).T)  # fmt: skip
    found = estimate(law, points, law.log_loss(truth[None], points)[0], np.random.default_rng(3))
    np.testing.assert_allclose(np.delete(found.theta, 1), np.delete(truth, 1), rtol=1e-6)
    assert found.status == "ill_conditioned" and found.diagnosis.flat == ("A",)


def test_a_parameter_that_no_run_measures_trades_off_nothing() -> None:
    """No run repeats its text, so that none says what repeats are worth: the other parameters stand all the same."""
    law = LAWS["transfer-saturating"]
    truth = np.array([1.5, 0.4, 0.3, 0.3, 0.2, 0.1, 1.0, 12.0])
    once = [(n, pt, spec, spec) for n in (2e4, 5e4, 1e5, 3e5, 9e5) for pt in (0.0, 3e5, 1e6, 4e6) for spec in (2e5, 8e5, 3e6)]
    points = Points(Reference(1e5, 1e6), *np.array(once).T)
    found = estimate(law, points, law.log_loss(truth[None], points)[0], np.random.default_rng(0))
    np.testing.assert_allclose(found.theta[:-1], truth[:-1], rtol=1e-6)
    assert found.status == "converged" and found.diagnosis.condition < 1e7 and found.diagnosis.flat == ("R*",)


@pytest.mark.parametrize("name", ["chinchilla", "transfer-saturating", "multiplicative-penalised"])
def test_no_worse_than_scipy_from_the_same_place_and_from_its_own(name: str, synthetic: FitData) -> None:
    law = LAWS[name]
    points = synthetic.points(synthetic.reference)
    found = estimate(law, points, synthetic.log_loss, np.random.default_rng(0))
    scale = Scale(law)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        theta, slope, _ = scale.bend(free[None])
        forecast, slopes = law.log_loss_and_slopes(theta, points)
        residual = synthetic.log_loss - forecast[0]
        pull = np.clip(residual, -DELTA, DELTA)
        return float(huber(residual, DELTA).sum()) * 1e3, -(slopes[0] * slope[0][:, None]) @ pull * 1e3

    def residuals(free: np.ndarray) -> np.ndarray:
        return law.log_loss(scale.to_theta(free[None]), points)[0] - synthetic.log_loss

    here = scale.to_free(found.theta[None])[0]
    warm = minimize(loss, here, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-12}).fun / 1e3
    drawn = scale.to_free(scale.draw(np.random.default_rng(5), 4))
    own = min(
        minimize(loss, least_squares(residuals, start, max_nfev=300).x, jac=True, method="L-BFGS-B", options={"maxiter": 5000}).fun / 1e3
        for start in drawn
    )
    assert found.objective <= warm * (1 + 1e-9)
    assert found.objective <= own * (1 + 1e-9)


def test_weights_of_zero_leave_rows_out(synthetic: FitData) -> None:
    law, points = LAWS["transfer-saturating"], synthetic.points(synthetic.reference)
    kept = synthetic.params < synthetic.params.max()
    start = estimate(law, points, synthetic.log_loss, np.random.default_rng(0)).theta[None]
    weighted = solve(law, points, synthetic.log_loss, start, kept[None].astype(float))
    rest = synthetic.rows(kept)
    alone = solve(law, rest.points(synthetic.reference), rest.log_loss, start, np.ones((1, rest.count)))
    assert weighted.objective[0] == pytest.approx(alone.objective[0], rel=1e-9)


def test_a_batch_gives_what_single_problems_give(synthetic: FitData) -> None:
    law, points = LAWS["transfer-size-penalised"], synthetic.points(synthetic.reference)
    random = np.random.default_rng(3)
    start = estimate(law, points, synthetic.log_loss, random).theta[None]
    weights = random.exponential(size=(9, points.count))
    together = solve(law, points, synthetic.log_loss, np.tile(start, (9, 1)), weights)
    single = [solve(law, points, synthetic.log_loss, start, weights[[k]]).objective[0] for k in range(9)]
    np.testing.assert_allclose(together.objective, single, rtol=1e-8)


@pytest.mark.parametrize("runs_at_once", [1, 2000])
def test_second_derivatives_made_in_parts_are_the_same(runs_at_once: int, synthetic: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, and no part has one problem, whose sums are made in another order."""
    law, points = LAWS["ceiling-near-rote"], synthetic.points(synthetic.reference)
    random = np.random.default_rng(0)
    starts, weights = Scale(law).draw(random, 17), random.exponential(size=(17, points.count))
    whole = solve(law, points, synthetic.log_loss, starts, weights, iterations=6, exact=True)
    monkeypatch.setattr("planner.fit.solver.EXACT_BATCH", runs_at_once)
    parts = solve(law, points, synthetic.log_loss, starts, weights, iterations=6, exact=True)
    np.testing.assert_array_equal(parts.theta, whole.theta)
    np.testing.assert_array_equal(parts.objective, whole.objective)


def test_what_is_fixed_stays(synthetic: FitData) -> None:
    law, points = LAWS["transfer-saturating"], synthetic.points(synthetic.reference)
    best = estimate(law, points, synthetic.log_loss, np.random.default_rng(0))
    start = best.theta[None].copy()
    start[0, 3] *= 1.3
    fixed = np.zeros((1, len(law.parameters)), dtype=bool)
    fixed[0, 3] = True
    found = solve(law, points, synthetic.log_loss, start, np.ones((1, points.count)), fixed=fixed)
    assert found.theta[0, 3] == pytest.approx(start[0, 3], rel=1e-6)
    at_start = objective(law, start, points, synthetic.log_loss, np.ones((1, points.count)))[0]
    assert best.objective < found.objective[0] < at_start


def test_a_singular_problem_does_not_cost_the_others_their_step() -> None:
    matrix, right = np.stack([np.ones((2, 2)), np.diag([2.0, 4.0])]), np.array([[1.0, 1.0], [2.0, 2.0]])
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.solve(matrix, right[:, :, None])
    np.testing.assert_allclose(_solved(matrix, right), [[0.5, 0.5], [1.0, 0.5]])
