"""Loss to accuracy: recovery, coverage, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from planner.allocate.accuracy import forecast, read_curve, read_table
from planner.allocate.allocation import Plan
from planner.allocate.sigmoid import Sigmoid, Table, curve, fit_sigmoid
from planner.errors import DataError, InputError

TRUTH = np.array([0.25, 0.85, 4.0, 2.6])


def plan(loss: float, low: float, high: float) -> Plan:
    return Plan(1e5, 1e5, 1e6, 1e5, 1e5, 1.0, 0.1, 1e12, 1e12, loss, low, high)


def table(rows: int, scatter: float, seed: int, least: float = 1.8, most: float = 3.4) -> Table:
    random = np.random.default_rng(seed)
    loss = random.uniform(least, most, rows)
    return Table(loss, np.clip(curve(TRUTH, loss) + scatter * random.normal(size=rows), 0, 1))


def test_noiseless_parameters_are_recovered() -> None:
    found = fit_sigmoid(table(12, 0.0, 0))
    assert found.parameters == pytest.approx(TRUTH, rel=1e-4)
    assert found.scatter < 1e-6
    fixed = fit_sigmoid(table(12, 0.0, 0), chance=0.25)
    assert fixed.parameters == pytest.approx(TRUTH, rel=1e-4) and np.all(fixed.resamples[:, 0] == 0.25)
    assert fixed.degrees == found.degrees + 1


def test_accuracies_far_below_chance_are_refused() -> None:
    """The curve would not go below chance, and the interval would."""
    with pytest.raises(DataError, match=r"accuracies lie more than 0\.1 below chance, 0\.5; the lowest is 0\.2"):
        fit_sigmoid(table(12, 0.0, 0), chance=0.5)


def test_noisy_parameters_lie_in_their_intervals() -> None:
    found = fit_sigmoid(table(40, 0.02, 3))
    low, high = np.quantile(found.resamples, [0.01, 0.99], axis=0)
    assert np.all(low < TRUTH) and np.all(TRUTH < high)
    assert found.scatter == pytest.approx(0.02, rel=0.4)
    assert np.all(found.resamples[:, 2] > 0) and np.all(found.resamples[:, 1] > found.resamples[:, 0])


@pytest.mark.slow
def test_the_interval_covers_models_to_come() -> None:
    """A model whose loss is drawn from the loss interval, and whose accuracy scatters, lies inside about nine times of ten."""
    inside, rounds = 0, 30
    for seed in range(rounds):
        random = np.random.default_rng(1000 + seed)
        body, warnings = forecast(fit_sigmoid(table(15, 0.02, seed), resamples=50), plan(2.4, 2.3, 2.5), seed=seed)
        outcome = curve(TRUTH, 2.4 * np.exp(np.log(2.5 / 2.4) / 1.645 * random.normal())) + 0.02 * random.normal()
        inside += body["low"] <= outcome <= body["high"]
        assert 0 <= body["low"] < body["accuracy"] < body["high"] <= 1 and not warnings
    assert 23 <= inside, inside  # fewer has a chance of 2 % at 90 %; that it is not simply wide is checked below


def test_each_source_of_doubt_widens_the_interval() -> None:
    def width(sigmoid: Sigmoid, of: Plan) -> float:
        body, _ = forecast(sigmoid, of)
        return float(body["high"] - body["low"])

    sharp, scattered = fit_sigmoid(table(15, 1e-4, 1)), fit_sigmoid(table(15, 0.03, 1))
    narrow, wide = plan(2.4, 2.399, 2.401), plan(2.4, 2.3, 2.5)
    assert width(sharp, narrow) < 0.01
    # All from the loss: from 2.3 to 2.5 the curve falls by as much.
    assert width(sharp, wide) == pytest.approx(curve(TRUTH, np.array(2.3)) - curve(TRUTH, np.array(2.5)), rel=0.1)
    assert width(scattered, narrow) > 2 * 1.645 * 0.02
    assert width(scattered, wide) > max(width(scattered, narrow), width(sharp, wide))


def test_a_loss_outside_the_table_is_told_with_how_far() -> None:
    found = fit_sigmoid(table(12, 0.005, 2, least=2.2))
    body, warnings = forecast(found, plan(1.9, 1.85, 1.95))
    assert len(warnings) == 1 and "below the lowest loss" in warnings[0] and f"{found.losses[0] - 1.9:.3g} nats/token" in warnings[0]
    near, _ = forecast(found, plan(2.4, 2.35, 2.45))
    assert body["high"] - body["low"] > near["high"] - near["low"] - 0.05
    assert "above the highest" in forecast(found, plan(4.0, 3.9, 4.1))[1][0]


@pytest.mark.parametrize("kind", ["noise", "rising", "constant"])
def test_accuracy_that_does_not_fall_with_loss_is_refused(kind: str) -> None:
    loss = np.linspace(2, 3, 10)
    noise = np.random.default_rng(4).permutation(np.linspace(0.24, 0.26, 10))
    accuracy = {"noise": noise, "rising": 0.2 * loss, "constant": np.full(10, 0.25)}[kind]
    with pytest.raises(DataError, match="does not fall with loss"):
        fit_sigmoid(Table(loss, accuracy))


def test_a_late_rise_is_no_noise() -> None:
    """Models at chance but for the best ones: the usual shape of a hard benchmark."""
    loss = np.linspace(1.6, 3.4, 12)
    found = fit_sigmoid(Table(loss, curve(np.array([0.25, 0.9, 8.0, 1.8]), loss)))
    assert found.parameters[3] == pytest.approx(1.8, abs=0.02)


def test_chance_must_be_below_the_table() -> None:
    with pytest.raises(InputError, match="chance 1.2"):
        fit_sigmoid(table(10, 0.0, 0), chance=1.2)
    with pytest.raises(DataError, match="above chance, 0.9"):
        fit_sigmoid(table(10, 0.0, 0), chance=0.9)


GOOD = [(3.4, 0.26), (3.1, 0.29), (2.9, 0.36), (2.7, 0.47), (2.4, 0.66)]


def written(path: Path, rows: list[tuple[object, object]], header: str = "accuracy,model,loss") -> Path:
    path.write_text("\n".join([header, *(f"{accuracy},m,{loss}" for loss, accuracy in rows)]) + "\n")
    return path


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    found = read_table(written(tmp_path / "t.csv", list(GOOD)))
    assert found.loss.tolist() == [loss for loss, _ in GOOD] and found.accuracy.tolist() == [accuracy for _, accuracy in GOOD]


@pytest.mark.parametrize(
    ("rows", "header", "message", "remedy"),
    [
        (GOOD[:4], "accuracy,model,loss", "has 4 rows", "at least 5 models"),
        (GOOD, "acc,model,loss", "has no column accuracy", "it has acc, model, loss"),
        ([*GOOD[:4], (2.4, 66.0)], "accuracy,model,loss", "row 6: accuracy = 66 is above 1", "not per cent"),
        ([*GOOD[:4], (2.4, -0.1)], "accuracy,model,loss", "accuracy = -0.1 is out of range", "correct"),
        ([*GOOD[:4], (0.0, 0.6)], "accuracy,model,loss", "row 6: loss = 0 is out of range", "correct"),
        ([*GOOD[:4], ("x", 0.6)], "accuracy,model,loss", "row 6: loss = 'x' is not a number", "correct"),
        ([*GOOD[:4], ("", 0.6)], "accuracy,model,loss", "loss = '' is not a number", "correct"),
        ([*GOOD[:4], (2.7, 0.5)], "accuracy,model,loss", "4 distinct losses", "5 different losses"),
        ([*GOOD[:4], (2.4, "0.6_6")], "accuracy,model,loss", "row 6: accuracy = '0.6_6' is not a number", "correct"),
        ([*GOOD[:4], ("2,4", 0.66)], "accuracy,model,loss", "row 6 has 4 values for 3 columns", "numbers take no comma"),
        (GOOD, "accuracy,loss,loss", "has the column loss 2 times", "name one column loss"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, rows: list[tuple[object, object]], header: str, message: str, remedy: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_table(written(tmp_path / "t.csv", rows, header))
    assert message in str(refusal.value) and remedy in refusal.value.remedy


def test_accuracies_in_per_cent_are_read_where_they_say_so(tmp_path: Path) -> None:
    """As --chance 25% is."""
    path = tmp_path / "models.csv"
    path.write_text("loss,accuracy\n" + "\n".join(f"{loss},{100 * accuracy:g}%" for loss, accuracy in GOOD))
    assert read_table(path).accuracy == pytest.approx([accuracy for _, accuracy in GOOD], rel=1e-9)
    path.write_text(path.read_text().replace("2.4,", "2.4%,"))
    with pytest.raises(InputError, match="loss = '2.4%' is not a number"):
        read_table(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no table"):
        read_table(tmp_path / "none.csv")


def test_a_table_that_carries_no_curve_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", [(loss, 0.9 - accuracy) for loss, accuracy in GOOD])
    with pytest.raises(DataError, match=r"t\.csv: accuracy does not fall with loss"):
        read_curve(path)
