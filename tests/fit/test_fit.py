"""Fits: published numbers, a known truth, intervals that cover, and tables that cannot carry a law."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.extrapolation import AXIS_NAMES, tell_far
from planner.allocate.request import Request
from planner.cli.fit_tables import show
from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import FitData, fit_data
from planner.fit.estimate import Estimate, estimate
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.holdout import sizes_held, slices
from planner.fit.identify import check
from planner.fit.sample import Sample
from planner.fit.select import choose, score_laws
from planner.fit.support import RAY, Support
from planner.flags import flag_runs
from planner.laws import LAWS, Law, Points, Reference
from planner.runs import read_runs
from planner.units import format_count
from tests.conftest import TRUTH, true_log_loss

TABLES = Path(os.environ.get("PLANNER_TABLES", Path(__file__).parents[3] / "shared" / "data"))


def test_reaches_the_published_objective_of_chinchilla() -> None:
    """arXiv 2404.10102: 240 rows, the 5 highest losses left out; objective Σ Huber_1e-3 = 1.0182740e-3."""
    table = TABLES / "chinchilla_epoch.csv"
    if not table.exists():
        pytest.skip(f"the public table {table.name} is not here; set PLANNER_TABLES to its folder")
    rows = pd.read_csv(table).sort_values("loss").head(240)
    points = Points(Reference(1e9, 1e10), rows["N"], rows["D"], 0.0, np.nan)
    found = estimate(LAWS["chinchilla"], points, np.log(rows["loss"].to_numpy()), np.random.default_rng(0))
    assert found.objective <= 1.0182741e-3
    assert found.status == "converged"
    e, a, b, alpha, beta = found.theta
    assert (e, alpha, beta) == pytest.approx((1.8172, 0.3478, 0.3658), abs=2e-3)
    assert a * 1e9**alpha == pytest.approx(482.01, rel=0.03) and b * 1e10**beta == pytest.approx(2085.43, rel=0.03)


def test_agrees_with_scipy(synthetic: FitData) -> None:
    from scipy.optimize import minimize

    from planner.fit.scale import Scale
    from planner.fit.solver import huber

    law = LAWS["transfer-saturating"]
    points = synthetic.points(synthetic.reference)
    found = estimate(law, points, synthetic.log_loss, np.random.default_rng(0))
    scale = Scale(law)

    def loss(free: np.ndarray) -> float:
        return float(huber(synthetic.log_loss - law.log_loss(scale.to_theta(free[None]), points)[0], 1e-3).sum())

    start = scale.to_free(found.theta[None])[0]
    other = min(minimize(loss, start + shift, method="L-BFGS-B", options={"maxiter": 3000}).fun for shift in (0.0, 0.1, -0.1))
    assert found.objective <= other * (1 + 1e-4)


def test_a_law_that_meets_all_runs_has_converged(synthetic: FitData) -> None:
    """Its objective is all rounding, of which no step gains."""
    law = LAWS["bounded-saturating"]
    points = synthetic.points(synthetic.reference)
    truth = estimate(law, points, synthetic.log_loss, np.random.default_rng(0), starts=6).theta
    for seed in range(4):
        found = estimate(law, points, law.log_loss(truth[None], points)[0], np.random.default_rng(seed), starts=6)
        assert found.objective < 1e-24 and found.status == "converged", seed


@pytest.mark.slow
def test_auto_finds_a_law_that_forecasts_beyond(synthetic: FitData) -> None:
    law = fit(synthetic, resamples=40)
    assert law.holdout["mean_absolute_percent"] < 1.5
    assert 0.003 < law.noise < 0.01
    # a place that no run has been to, inside the box
    args = ([1.1e5], [1.3e6], [6e5], [1e5])
    forecast = law.forecast({"non_embedding": args[0]}, *args[1:])
    truth = float(np.exp(true_log_loss(*args)[0]))
    assert abs(np.log(forecast.loss[0] / truth)) < 0.02
    assert forecast.low[0] < truth < forecast.high[0]


def test_of_many_rows_some_choose_the_law_and_all_make_it(synthetic: FitData, monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice by all of 20,000 rows took three times as long."""
    laws = [LAWS[name] for name in ("bounded-penalised", "transfer-saturating", "additive-penalised")]
    by_all = score_laws([synthetic], laws)
    asked: list[int] = []

    def count(law: Law, points: Points, *rest: Any, **named: Any) -> Estimate:
        asked.append(points.count)
        return estimate(law, points, *rest, **named)

    monkeypatch.setattr("planner.fit.sample.MOST_ROWS", 110)
    monkeypatch.setattr("planner.fit.select.estimate", count)
    found = score_laws([synthetic], laws)
    assert asked.count(synthetic.count) == len([score for score in found if score.held]) < len(asked) == asked.count(synthetic.count) + asked.count(110)
    for score, whole in zip(found, by_all, strict=True):
        assert score.estimate.law is whole.estimate.law and score.reference == synthetic.reference and score.outliers.shape == (synthetic.count,)
        assert score.held.keys() == whole.held.keys() and score.mean == pytest.approx(whole.mean, rel=0.5)
        if score.held:
            assert score.estimate.objective == pytest.approx(whole.estimate.objective, rel=1e-6) and score.estimate.starts >= 12


@pytest.mark.parametrize("changes", [{"tokens_pt": 0.0}, {"tokens_spec": 0.0}, {"tokens_spec": 1e9}, {"unique_spec": 1e3}, {"replay_fraction": 0.3}])
def test_rare_runs_are_drawn_with_the_many(changes: dict[str, float]) -> None:
    """Of 19,378 runs 16 had a specialist stage; 4 of them were drawn, and the law that fitted those was at a bound and half as far off again."""
    count, rare = 20000, np.arange(20000) % 1250 == 7
    random = np.random.default_rng(0)
    size, general = np.exp(random.uniform(11, 16, count)), np.exp(random.uniform(15, 20, count))
    more = {"tokens_pt": general, "tokens_spec": np.full(count, 1e6), "unique_spec": np.full(count, 1e6), "replay_fraction": np.zeros(count)}
    more = {name: np.where(rare, changes.get(name, values), values) for name, values in more.items()}
    named = {"run_ids": [str(k) for k in range(count)], "params_by": {"non_embedding": size}, "cluster": np.arange(count), "replicate_sd": None}
    drawn = Sample.of(FitData(**named, **more, log_loss=size, flops=size), 0).drawn
    assert drawn[rare].all() and 5000 <= drawn.sum() < 5200


def test_intervals_widen_outside_the_support(fitted: FittedLaw) -> None:
    inside = fitted.forecast({"non_embedding": [1e5]}, [1e6], [4e5], [2e5])
    near = fitted.forecast({"non_embedding": [1e6]}, [1e7], [4e5], [2e5])
    far = fitted.forecast({"non_embedding": [1e9]}, [1e11], [4e8], [2e8])
    width = [float(item.high[0] / item.low[0]) for item in (inside, near, far)]
    assert width[0] < width[1] < width[2]


def test_parameter_intervals_hold_the_truth_mostly(fitted: FittedLaw) -> None:
    member = fitted.members[0]
    held = [low <= TRUTH[p.name] <= high for p, (low, high) in ((p, member.interval(k)) for k, p in enumerate(member.law.parameters))]
    assert sum(held) >= 8


def test_the_law_survives_its_file(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {"runs": "0"})
    again = FittedLaw.load(tmp_path / "law.json")
    args = ({"non_embedding": [3e4, 5e5]}, [0.0, 1e7], [1e6, 0.0], [1e5, np.nan])
    np.testing.assert_allclose(again.forecast(*args).high, fitted.forecast(*args).high, rtol=1e-6)
    np.testing.assert_array_equal(again.forecast(*args).loss, fitted.forecast(*args).loss)


def test_slices_hold_the_largest_and_never_too_much(synthetic: FitData) -> None:
    found = {piece.name: piece for piece in slices(synthetic)}
    first = {"largest params", "largest tokens_pt", "largest tokens_spec", "most epochs", "largest flops"}
    assert first < set(found) <= first | {"larger params", "larger tokens_pt", "larger tokens_spec", "more epochs", "larger flops"}
    assert all(piece.held.mean() <= 0.45 for piece in found.values())
    assert (found["larger params"].held >= found["largest params"].held).all() and found["larger params"].held.sum() > found["largest params"].held.sum()
    assert {piece.name for piece in slices(synthetic, origins=1)} == first
    assert synthetic.params[found["largest params"].held].min() == synthetic.params.max()
    assert synthetic.params[~found["largest params"].held].max() < synthetic.params.max()
    assert found["largest params"].factor == pytest.approx(2.0)


def test_sizes_that_are_held_out_together_are_all_named(synthetic: FitData, fitted: FittedLaw) -> None:
    (size,) = sizes_held(fitted.holdout)
    assert size == synthetic.params.max() and len(sizes_held({"params": 2.0})) == 1, "files of before hold the largest alone"
    random = np.random.default_rng(0)
    n, d = np.exp(random.uniform(np.log(1e7), np.log(1e9), 80)), np.exp(random.uniform(np.log(1e9), np.log(1e11), 80))
    log_loss = np.log(1.7 + 400 / n**0.34 + 410 / d**0.28) + 0.002 * random.normal(size=80)
    data = FitData([str(k) for k in range(80)], {"non_embedding": n}, d, np.zeros(80), np.full(80, np.nan), log_loss, 6 * n * d, np.arange(80), None)
    found = fit(data, "chinchilla", resamples=20).holdout
    rest = sorted(n)[: -found["rows"]]
    assert sizes_held(found) == (sorted(n)[-found["rows"]], max(n))
    assert found["factor_most"] == pytest.approx(max(n) / max(rest))


def test_support_tells_how_far(synthetic: FitData) -> None:
    support = Support.of(synthetic)
    factors = support.factors([3.2e6], [4.5e7], [0.0], [np.nan], [1e15])
    assert factors["params"][0] == pytest.approx(10)
    assert factors["tokens_pt"][0] == pytest.approx(10)
    assert factors["tokens_spec"][0] == 1 and factors["epochs_spec"][0] == 1
    most = float((synthetic.params * (synthetic.tokens_pt + synthetic.tokens_spec)).max())
    assert support.distance([3.2e6], [4.5e7], [0.0], [np.nan])[0] == pytest.approx(np.log(3.2e6 * 4.5e7 / most))
    assert support.distance([3.2e6], [4e6], [0.0], [np.nan])[0] == pytest.approx(np.log(10))
    assert support.distance([1e5], [1e5], [3e5], [1e5])[0] == 0  # between zero, which was trained, and the least tokens_pt


def test_the_box_of_two_tables_is_that_of_their_rows_together(synthetic: FitData) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        first = (synthetic.params < random.choice([3e4, 1e5, 2e5])) ^ (random.random(synthetic.count) < 0.05)
        assert Support.of(synthetic.rows(first)).joined(Support.of(synthetic.rows(~first))) == Support.of(synthetic)
    tied = replace(synthetic, tokens_pt=20 * synthetic.params)
    small = tied.params < 1e5
    assert Support.of(tied.rows(small)).joined(Support.of(tied.rows(~small))) == Support.of(tied)
    assert RAY in Support.of(tied).low and RAY not in Support.of(tied).joined(Support.of(synthetic)).low


def test_none_of_what_every_run_has_is_outside(synthetic: FitData) -> None:
    """Not inside, as if runs without it had been trained; no nearer than one token is."""
    support = Support.of(synthetic.rows((synthetic.tokens_pt > 0) & (synthetic.tokens_spec > 0)))
    for axis, none, one in (("tokens_pt", (0.0, 4e5), (1.0, 4e5)), ("tokens_spec", (9e5, 0.0), (9e5, 1.0))):
        assert support.factors(8e4, *none, 2e5)[axis] == np.inf and Support.of(synthetic).factors(8e4, *none, 2e5)[axis] == 1
        far = np.log(support.low[axis])
        assert far <= support.distance(8e4, *none, 2e5) < np.inf and far <= support.distance(8e4, *one, 2e5) < 3 * far
        assert Support.of(synthetic).distance(8e4, *none, 2e5) == 0


def test_fewer_passes_than_any_run_made_are_new_ground_down_to_one(synthetic: FitData) -> None:
    repeated = synthetic.rows((synthetic.epochs == 0) | (synthetic.epochs == 4.0))
    support = Support.of(repeated)
    assert support.low["epochs_spec"] == 4.0 and support.zero["epochs_spec"]  # runs without specialist text say nothing of one pass
    found = support.factors(8e4, 9e5, 2e5, 2e5 / np.array([0.5, 1.0, 2.0, 4.0, 8.0]))["epochs_spec"]
    assert list(found) == pytest.approx([4.0, 4.0, 2.0, 1.0, 2.0])
    assert support.distance(8e4, 9e5, 5e4, 5e4) == pytest.approx(np.log(4))
    assert (Support.of(synthetic).factors(8e4, 9e5, 2e5, 2e5 / np.array([0.1, 0.5, 1.0]))["epochs_spec"] == 1.0).all()


def test_off_the_ray_of_tied_general_tokens_is_new_ground(synthetic: FitData, fitted: FittedLaw, tmp_path: Path) -> None:
    """Where general tokens follow the size, another ratio is outside though size and tokens are each inside; elsewhere there is no such axis."""
    tied = replace(synthetic, tokens_pt=20 * synthetic.params)
    support = Support.of(tied)
    assert support.distance(8e4, 20 * 8e4 * np.array([0.5, 1.0, 2.0]), 4e5, 2e5) == pytest.approx([np.log(2), 0.0, np.log(2)], abs=1e-9)
    assert Support.of(synthetic).distance(8e4, 20 * 8e4 * np.array([0.5, 1.0, 2.0]), 4e5, 2e5) == pytest.approx(0.0)
    law = replace(fitted, support=support)
    law.save(tmp_path / "law.json", {})
    assert FittedLaw.load(tmp_path / "law.json").support == support
    for on, ratio in ((True, 20.0), (False, 5.0)):
        factors = law.support.factors(8e4, ratio * 8e4, 4e5, 2e5, 1e12)
        said = list(tell_far(law, 1e12, {name: float(factor) for name, factor in factors.items() if name in AXIS_NAMES}))
        assert any("have 20 general tokens per parameter" in text for text in said) != on
    off = allocate(law, Request(1.2e12, 1e5, params=4e4, max_epochs=4.0))
    assert off.extrapolation["pt_per_param"] > 2 and not off.settled and any("have 20 general tokens per parameter" in text for text in off.warnings)


def test_off_the_total_of_runs_with_as_many_tokens_is_said_to_be_new_ground(synthetic: FitData, fitted: FittedLaw) -> None:
    """A few runs of another total are in the box, and what is said of it is said of those too."""
    tied = replace(synthetic, tokens_pt=4 * synthetic.tokens_spec.max() - synthetic.tokens_spec)
    strayed = replace(tied, tokens_pt=np.where(np.arange(tied.count) < 2, 10, 1) * tied.tokens_pt)
    total = float(4 * synthetic.tokens_spec.max())
    for data, most in ((tied, total), (strayed, float((strayed.tokens_pt + strayed.tokens_spec).max()))):
        law = replace(fitted, support=Support.of(data))
        said = format_count(total) if most == total else f"{format_count(total)} to {format_count(most)}, nearly all the same,"
        for on, factor in ((True, 1.0), (False, 0.5)):
            factors = law.support.factors(8e4, factor * total - 1e5, 1e5, 1e5, 1e12)
            told = list(tell_far(law, 1e12, {name: float(value) for name, value in factors.items() if name in AXIS_NAMES}))
            assert any(f"the runs of the law have {said} tokens in both stages together" in text for text in told) != on


def test_the_convention_of_n_changes_nothing_where_both_are_proportional(synthetic: FitData) -> None:
    both = replace(synthetic, params_by={"non_embedding": synthetic.params, "total": 3 * synthetic.params})
    scores = score_laws([both, both.under("total")], [LAWS["bounded-penalised"]])
    assert {score.params_kind for score in scores} == {"non_embedding", "total"}
    assert scores[0].drift == pytest.approx(scores[1].drift, rel=0.05)
    assert scores[0].mean == pytest.approx(scores[1].mean, rel=0.05)


def table(tmp_path: Path, rows: list[str]) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text("params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1e5,1e6,0,,3.0"], "only 1 run can"),
        ([f"1e5,{k}e6,0,,3.0" for k in range(1, 12)], "1 distinct model size"),
        ([f"{n},{d},{d / 2},1e9,3.0" for n in ("1e5", "3e5", "1e6") for d in (2e6, 3e6, 4e6, 5e6)], "same tokens_spec / tokens_pt"),
        ([f"{n},{d},1e6,1e9,3.0" for n in ("1e5", "3e5", "1e6") for d in (2e6, 3e6, 4e6, 5e6)], "one value"),
    ],
    ids=["too few", "one size", "collinear", "one value"],
)
def test_tables_that_cannot_carry_a_law_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(fit_data(read_runs(table(tmp_path, rows))))


def test_one_epoch_only_is_warned_of(tmp_path: Path) -> None:
    rows = [f"{n},{d},{s},1e9,3.0" for n in ("1e5", "3e5", "1e6") for d in (2e6, 4e6, 8e6) for s in (1e6, 3e6, 6e6)]
    with pytest.warns(PlannerWarning, match="more than one epoch"):
        check(fit_data(read_runs(table(tmp_path, rows))))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1e5,1e6,0,,-3", "row 3: loss_spec = -3 is not positive"),
        ("0,1e6,0,,3", "row 3: params_non_embedding"),
        ("1e5,x,0,,3", "row 3: tokens_pt = 'x'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_runs(table(tmp_path, ["1e5,1e6,0,,3.0", row]))


def test_flagged_rows_stay_out_unless_kept(tmp_path: Path) -> None:
    rows = [f"{n},{d},0,,3.0" for n in ("1e5", "3e5", "1e6") for d in (1e5, 4e6, 8e6, 1.6e7)]
    frame = read_runs(table(tmp_path, rows))
    assert list(frame["flags"][frame["flags"] != ""]) == ["under_2_tokens_per_parameter"] * 3
    assert fit_data(frame).count == 9
    assert fit_data(frame, keep=("under_2_tokens_per_parameter",)).count == 12
    with pytest.raises(InputError, match="no run has the flag 'short_stage'; choose under_2_tokens_per_parameter"):
        fit_data(frame, keep=("short_stage",))
    frame.loc[11, "status"] = "diverged"  # and has a loss
    with pytest.raises(InputError, match="--keep diverged: a diverged run is never fitted"):
        fit_data(flag_runs(frame), keep=("diverged",))


def test_a_law_without_an_irreducible_loss_does_not_promise_less_than_was_ever_measured(synthetic: FitData, fitted: FittedLaw) -> None:
    """Far outside, the interval reaches up to the lowest loss measured; inside the runs it is left as it is."""
    bare = fit(synthetic, "root-rote", resamples=20)
    inside, far = ({"non_embedding": [1e5]}, [1e6], [4e5], [2e5]), ({"non_embedding": [1e10]}, [1e12], [4e8], [2e8])
    assert bare.least_loss == pytest.approx(float(np.exp(synthetic.log_loss.min())))
    assert bare.forecast(*far).loss[0] < bare.least_loss <= bare.forecast(*far).high[0]
    assert bare.forecast(*inside).high[0] < 1.1 * bare.forecast(*inside).loss[0]
    assert "E" in {parameter.name for parameter in fitted.members[0].law.parameters}


def test_a_law_that_leaves_far_more_than_seeds_differ_by_says_so(fitted: FittedLaw) -> None:
    few, many = (replace(fitted, source={**fitted.source, "replicate_sd": fitted.noise / ratio}) for ratio in (3.9, 4.1))
    assert "runs scatter around the law by 4.1 times the noise between seeds" in many.unexplained and not few.unexplained
    assert not replace(fitted, source={**fitted.source, "replicate_sd": None}).unexplained
    assert many.unexplained in allocate(many, Request(4e12, 2e5)).warnings
    with pytest.warns(PlannerWarning, match="4.1 times the noise between seeds"):
        show(many)


def test_a_law_that_no_slice_could_test_is_not_chosen() -> None:
    data = fit_data(read_runs(Path(__file__).parents[2] / "sweeps" / "computing" / "runs.csv"))
    cheap = data.rows(data.flops <= np.sort(data.flops)[32])
    scores = score_laws([cheap.under(kind) for kind in cheap.params_by], [LAWS["root-rote"], LAWS["floor-rote"], LAWS["gap-penalised"]])
    tightest = min(scores, key=lambda score: score.rms_percent)
    assert tightest.estimate.law.name == "gap-penalised"  # 15 parameters on 33 runs
    assert not tightest.held
    assert scores[0].held and scores[0].estimate.law.name != "gap-penalised"


def test_a_law_that_was_never_held_against_a_slice_is_warned_of(tmp_path: Path) -> None:
    rows = [f"{n},{d},0,,{1.5 + 20 * n**-0.3 + 200 * d**-0.3}" for n in (1e5, 2e5, 4e5, 1e6) for d in (1e7, 3e7, 1e8)]
    data = fit_data(read_runs(table(tmp_path, rows)))
    with pytest.warns(PlannerWarning, match="the error outside the runs was not measured"):
        fit(data, "chinchilla", resamples=20)


def test_a_law_that_says_what_another_says_is_not_counted_twice() -> None:
    data = fit_data(read_runs(Path(__file__).parents[2] / "sweeps" / "nature" / "runs.csv")).under("total")
    scores = score_laws([data], [LAWS[name] for name in ("ceiling-near-rote", "floor-near-rote", "ceiling-rote")])
    floor = next(score for score in scores if score.estimate.law.name == "floor-near-rote")
    assert floor.estimate.status == "at_bound" and floor.mean == pytest.approx(scores[0].mean, rel=0.01)  # its floor is at nothing
    assert [score.estimate.law.name for score in choose(scores, data)] == ["ceiling-rote", "ceiling-near-rote"]
