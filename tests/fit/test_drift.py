"""How fast forecasts go astray beyond the runs: by how much laws that describe the runs about as well disagree there."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.fit import select
from planner.fit.data import FitData, fit_data
from planner.fit.drift import AS_GOOD, CHANCE, drift
from planner.fit.extrapolation_probe import ExtrapolationProbe
from planner.fit.fit import fit
from planner.fit.select import Score, choose, score_laws, screen_others
from planner.laws import LAWS, Law, Points, Reference
from planner.laws.base import Parameter
from planner.laws.dual import exp, log
from planner.runs import read_runs

MEDICINE = Path(__file__).parents[2] / "sweeps" / "medicine" / "runs.csv"
NEAR_LAWS = ("root-rote", "ceiling-rote", "root-near-rote")
NOISE = 0.01


@pytest.fixture(scope="module")
def medicine() -> FitData:
    """The recorded sweep."""
    return fit_data(read_runs(MEDICINE))


@pytest.fixture(scope="module")
def scores(medicine: FitData) -> list[Score]:
    """Three laws that describe it about as well, and one that does not."""
    return score_laws([medicine], [LAWS[name] for name in (*NEAR_LAWS, "additive-saturating")])


def _of_one_stage(noise: float, seed: int) -> FitData:
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 3e6, 6), np.geomspace(2e6, 1e8, 6)))
    points = Points(Reference(1e6, 1e7), n, d, 0.0, np.nan)
    loss = LAWS["chinchilla"].log_loss(np.array([[1.5, 0.6, 0.7, 0.35, 0.35]]), points)[0] + noise * np.random.default_rng(seed).normal(size=len(n))
    nothing, count = np.zeros(len(n)), len(n)
    return FitData([str(row) for row in range(count)], {"non_embedding": n}, d, nothing, nothing + np.nan, loss, 6 * n * d, np.arange(count), None)


def test_it_is_what_the_median_law_as_good_differs_by_at_twice_the_dearest_runs(scores: list[Score], medicine: FitData) -> None:
    best = scores[0]
    near = [score for score in scores if score.rms_percent <= AS_GOOD * min(item.rms_percent for item in scores) and score.held]
    assert {score.estimate.law.name for score in near} == {*NEAR_LAWS}
    dear = medicine.rows(medicine.flops >= np.quantile(medicine.flops, 0.75))
    squares = []
    for size, passes in ((2.0, 1.0), (1.0, 2.0)):
        cells = (size * dear.params, size * dear.tokens_pt, size * passes * dear.tokens_spec, size * dear.unique_spec)
        each = np.array([score.estimate.log_loss(Points(score.reference, *cells)) for score in [best, *near]])
        away = ExtrapolationProbe.of(medicine, repeated=passes > 1).distance
        outside = away > np.log(1.2)
        squares.append((np.median(np.abs(each[1:] - each[0]), axis=0)[outside] / away[outside]) ** 2)
    assert drift([best], scores, medicine, NOISE) == pytest.approx(np.sqrt(np.mean([each.mean() for each in squares])))


def test_a_law_alone_does_not_drift_and_a_poor_one_does(scores: list[Score], medicine: FitData) -> None:
    poor = next(score for score in scores if score.estimate.law.name == "additive-saturating")
    assert drift([scores[0]], [scores[0]], medicine, NOISE) == 0
    assert drift([replace(poor, drift=0.0)], scores, medicine, NOISE) > 1.5 * drift([scores[0]], scores, medicine, NOISE) > 0


def test_a_law_that_was_named_is_held_against_those_that_were_not(medicine: FitData, scores: list[Score]) -> None:
    alone = fit(medicine, "root-rote", resamples=20, largest=False)
    assert alone.drift > 0.5 * drift([scores[0]], scores, medicine, NOISE)


def test_slices_count_where_they_go_astray_by_more_than_chance(scores: list[Score], medicine: FitData) -> None:
    """As where all laws are wrong together."""
    alike = drift([scores[0]], scores, medicine, NOISE)
    for rate, expected in ((CHANCE * NOISE, alike), (5 * CHANCE * NOISE, np.sqrt(24) * CHANCE * NOISE)):
        astray = replace(scores[0], drift=rate)
        assert drift([astray], [astray, *scores[1:]], medicine, NOISE) == pytest.approx(expected)


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_where_one_law_is_right_beyond_all_doubt_there_is_next_to_none(noise: float) -> None:
    found = fit(_of_one_stage(noise, 0), "chinchilla", resamples=20, largest=False)
    assert found.drift < 0.01


def test_runs_beyond_are_twice_as_large_or_repeat_twice_as_often(medicine: FitData) -> None:
    larger, again = (ExtrapolationProbe.of(medicine, repeated=repeated) for repeated in (False, True))
    dear = medicine.rows(medicine.flops >= np.quantile(medicine.flops, 0.75))
    assert larger.runs.params == pytest.approx(2 * dear.params) and larger.runs.tokens_pt == pytest.approx(2 * dear.tokens_pt)
    assert larger.runs.epochs == pytest.approx(dear.epochs) and again.runs.epochs == pytest.approx(2 * dear.epochs)
    assert larger.distance.max() == pytest.approx(np.log(4)) and again.runs.params is not dear.params
    assert again.runs.params == pytest.approx(dear.params)


def test_laws_that_were_not_asked_for_see_so_many_rows_at_most(medicine: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(tables: list[FitData], *given: object) -> list[Score]:
        seen.append(tables[0].count)
        return []

    monkeypatch.setattr(select, "_screen", counted)
    monkeypatch.setattr(select, "MOST_ROUGHLY", 30)
    screen_others(medicine, [LAWS["root-rote"]], 0)
    assert seen == [30]


EDGE = 2.0
"""ln N/N0 between the largest size of `_of_one_stage` and twice that."""


def _raises(p: Any, x: Any) -> Any:
    if x.log_n.max() > EDGE:
        raise ValueError("no such size in the table")
    return LAWS["chinchilla"].loss(p, x)


def _no_number(p: Any, x: Any) -> Any:
    return LAWS["chinchilla"].loss(p, x) + 0.0 * np.log(EDGE - x.log_n.max())


def _overflows(p: Any, x: Any) -> Any:
    return LAWS["chinchilla"].loss(p, x) + exp(3000 * (x.log_n - EDGE))


def _somebodys(loss: Callable[[Any, Any], Any]) -> Law:
    return replace(LAWS["chinchilla"], name="somebodys", loss=loss)


@pytest.fixture
def one_stage() -> FitData:
    """Runs whose largest size lies short of `EDGE`."""
    data = _of_one_stage(0.004, 3)
    assert EDGE - np.log(2) < np.log(data.params.max() / data.reference.params) < EDGE
    return data


@pytest.mark.parametrize("loss", [_raises, _no_number])
def test_a_law_that_cannot_be_computed_beyond_the_runs_has_no_say(loss: Any, one_stage: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fit(one_stage, "chinchilla", resamples=20, largest=False).drift
    monkeypatch.setitem(LAWS, "somebodys", _somebodys(loss))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert fit(one_stage, "chinchilla", resamples=20, largest=False).drift == pytest.approx(plain, rel=1e-3) and plain > 0


@pytest.mark.parametrize("loss", [_raises, _no_number, _overflows])
def test_nor_does_it_forecast_beside_laws_that_can(loss: Any, one_stage: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAWS, "somebodys", _somebodys(loss))
    scores = score_laws([one_stage], [LAWS[name] for name in ("somebodys", "chinchilla", "kaplan")])
    alike = [replace(score, held={"largest params": 1.0}) for score in scores]
    assert [score.estimate.law.name for score in choose(alike, one_stage)] == ["kaplan", "chinchilla"]


def test_where_the_forecast_itself_is_no_number_anything_may_come(one_stage: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAWS, "somebodys", _somebodys(_no_number))
    alone, *_ = score_laws([one_stage], [LAWS["somebodys"]])
    assert choose([alone], one_stage) == [alone]
    assert drift([alone], [alone], one_stage, NOISE) > 1


def test_a_law_without_a_number_at_some_start_says_nothing_to_those_who_did_not_ask(one_stage: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(p: Any, x: Any) -> Any:
        return LAWS["chinchilla"].loss(p, x) - 0.02 * log(p["c"] - x.log_n)

    law = replace(_somebodys(loss), parameters=(*LAWS["chinchilla"].parameters, Parameter("c", 0.5, 9.0, (1.0, 6.0), "ratio")))
    monkeypatch.setitem(LAWS, "somebodys", law)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for seed in range(3):
            screen_others(one_stage, [LAWS["chinchilla"]], seed)


@pytest.mark.parametrize("fails", ["raises", "no number", "on fewer runs"])
def test_a_law_that_cannot_forecast_the_largest_size_does_without_that(fails: str, one_stage: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = one_stage.params == one_stage.params.max()
    ends = [float(np.log(one_stage.params.max() / data.reference.params)) for data in (one_stage, one_stage.rows(~largest))]
    assert ends[1] > ends[0]

    def loss(p: Any, x: Any) -> Any:
        if fails == "on fewer runs" and np.size(x.log_n) == (~largest).sum():
            raise ValueError("where is the rest?")
        beyond = np.max(x.log_n) > np.mean(ends)
        if fails == "raises" and beyond:
            raise ValueError("no such size in the table")
        return LAWS["chinchilla"].loss(p, x) + (np.nan if beyond else 0.0)

    monkeypatch.setitem(LAWS, "somebodys", _somebodys(loss))
    assert fit(one_stage, "somebodys", resamples=20).holdout == {}
