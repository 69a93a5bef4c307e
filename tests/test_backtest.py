"""Backtests: a known law is followed at no cost, a wrong one is not; nothing of the runs above enters; refusals; the file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from planner.artifacts import read_artifact
from planner.backtest import KIND, VERSION, Backtest, backtest, default_cutoffs
from planner.decisions import ANY, HINDSIGHT, LARGEST, MOST_SPECIALIST, PLAN
from planner.errors import DataError, InputError, PlannerWarning, StateError
from planner.fit.data import FitData
from planner.flags import flag_runs
from planner.runs import read_runs
from tests.conftest import LAW

TRUE = LAW.name
pytestmark = pytest.mark.filterwarnings("ignore:no size has two trunks")


def as_table(data: FitData, folder: Path) -> pd.DataFrame:
    """Write runs as a table and read it."""
    columns = {
        "params_non_embedding": data.params, "tokens_pt": data.tokens_pt, "tokens_spec": data.tokens_spec, "unique_spec": data.unique_spec,
        "loss_spec": np.exp(data.log_loss), "flops": data.flops, "trunk_id": [f"t{k}" for k in data.cluster], "seed": 0,
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(folder / "runs.csv", index=False)
    return read_runs(folder / "runs.csv")


@pytest.fixture(scope="module")
def frame(synthetic: FitData, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return as_table(synthetic, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def replayed(frame: pd.DataFrame) -> Backtest:
    return backtest(frame, TRUE, cutoffs=[5e11, 1.5e12], resamples=40)


def one_stage() -> pd.DataFrame:
    """Six budgets of seven sizes each, of a Chinchilla surface."""
    rows = []
    for flops in np.geomspace(1e18, 1e21, 6):
        for factor in np.geomspace(0.1, 10, 7):
            n = factor * 0.02 * flops**0.5
            d = flops / 6 / n
            rows.append({"params_non_embedding": n, "tokens_pt": d, "loss_spec": 1.7 + 400 / n**0.34 + 410 / d**0.28})
    return pd.DataFrame(rows)


@pytest.fixture
def isoflop(tmp_path: Path) -> pd.DataFrame:
    one_stage().to_csv(tmp_path / "runs.csv", index=False)
    return read_runs(tmp_path / "runs.csv")


def test_the_true_law_is_followed_at_hardly_any_cost(replayed: Backtest) -> None:
    assert [item.flops for item in replayed.cutoffs] == [5e11, 1.5e12]
    for item in replayed.cutoffs:
        found = item.summary()
        assert len(item.decisions) >= 3
        assert item.regret_percent[PLAN] < 0.5  # the noise of a run
        assert item.regret_percent[PLAN] < 0.3 * min(item.regret_percent[way] for way in (ANY, LARGEST, MOST_SPECIALIST))
        assert found["mean_absolute_percent"] < 3 and found["coverage"] > 0.75
        assert item.factor == pytest.approx(found["factor"]) and item.factor > 1
        assert item.worst_regret_percent[PLAN] >= item.regret_percent[PLAN]
    # The further, the worse.
    assert replayed.cutoffs[0].factor > replayed.cutoffs[1].factor


def test_every_run_above_is_forecast_once_and_every_decision_is_among_them(replayed: Backtest, frame: pd.DataFrame) -> None:
    rows = frame[frame["flags"].isin(["", "overfitted"])]
    for item in replayed.cutoffs:
        above = rows[rows["flops"] > item.flops]
        assert sorted(one.run_id for one in item.outcomes) == sorted(above["run_id"])
        flags = above.set_index("run_id")["flags"]
        assert all(one.flags == flags[one.run_id] for one in item.outcomes) and item.flagged == (flags != "").sum() > 0
        losses = above.set_index("run_id")["loss_spec"]
        for decision in item.decisions:
            chosen = losses[list(decision.runs)]
            assert decision.best == chosen.idxmin()
            assert decision.regret_percent[PLAN] == pytest.approx(100 * (losses[decision.chosen] / chosen.min() - 1))
            spread = above.set_index("run_id").loc[list(decision.runs), "flops"]
            assert spread.max() <= 1.25 * spread.min() * (1 + 1e-12)


def test_a_law_that_cannot_tell_the_stages_apart_gives_loss_away(frame: pd.DataFrame, replayed: Backtest) -> None:
    with pytest.warns(PlannerWarning, match="does not distinguish"):
        blind = backtest(frame, "chinchilla", cutoffs=[1.5e12], resamples=20)
    (item,) = blind.cutoffs
    assert any("does not distinguish" in note for note in item.notes)
    assert item.regret_percent[PLAN] > 2 and item.regret_percent[HINDSIGHT] > 2
    assert item.regret_percent[PLAN] > replayed.cutoffs[1].regret_percent[PLAN] + 2
    assert item.summary()["mean_absolute_percent"] > 2 * replayed.cutoffs[1].summary()["mean_absolute_percent"]


def test_nothing_of_the_runs_above_enters_a_forecast(isoflop: pd.DataFrame) -> None:
    """Above the cut-off the largest model becomes best: the plan is misled, and forecasts what it did before."""
    limit = 2e19
    high = 6 * isoflop["params_non_embedding"] * isoflop["tokens_pt"] > limit
    worse = isoflop.assign(loss_spec=isoflop["loss_spec"].where(~high, 4 - 0.1 * np.log10(isoflop["params_non_embedding"])))
    (before,), (after,) = (backtest(table, "chinchilla", cutoffs=[limit], resamples=20).cutoffs for table in (isoflop, worse))
    assert [(one.run_id, one.forecast, one.low, one.high) for one in before.outcomes] == [
        (one.run_id, one.forecast, one.low, one.high) for one in after.outcomes
    ]
    assert [one.chosen for one in before.decisions] == [one.chosen for one in after.decisions]
    assert before.regret_percent[PLAN] == 0
    assert after.regret_percent[PLAN] > 1 and after.regret_percent[LARGEST] == 0


def test_a_table_of_one_stage(isoflop: pd.DataFrame) -> None:
    found = backtest(isoflop, "chinchilla", resamples=20)
    assert found.seed_percent is None
    assert len(found.cutoffs) >= 3
    last = found.cutoffs[-1]
    assert last.decisions and all(one.unique_spec is None and len(one.runs) == 7 for one in last.decisions)
    assert MOST_SPECIALIST not in last.regret_percent
    assert [item.regret_percent[PLAN] for item in found.cutoffs if item.rows_below >= 14] == pytest.approx([0.0] * len(found.cutoffs))


def test_default_cutoffs_stand_below_gaps(isoflop: pd.DataFrame) -> None:
    flops = (6 * isoflop["params_non_embedding"] * isoflop["tokens_pt"]).to_numpy()
    levels = np.geomspace(1e18, 1e21, 6)
    for limit in default_cutoffs(flops * np.random.default_rng(0).uniform(0.99, 1.01, len(flops))):
        ratio = levels / limit
        assert ratio[ratio > 1.02].min() > 3, "the next budget is a whole level away"


def test_cutoffs_that_cannot_be_replayed_are_named(frame: pd.DataFrame) -> None:
    found = backtest(frame, TRUE, cutoffs=[1e10, 1.5e12, 1e20], resamples=20)
    assert [item.flops for item in found.cutoffs] == [1.5e12]
    assert [item.flops for item in found.skipped] == [1e10, 1e20]
    assert found.skipped[0].reason == "no run lies below"
    assert "0 runs lie above" in found.skipped[1].reason


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"law": "nonsense"}, InputError, "no law 'nonsense'"),
        ({"cutoffs": [1e25]}, DataError, "no cut-off leaves enough on both sides .1e.25 FLOPs: 0 runs lie above"),
        ({"params_kinds": ("total",)}, InputError, "N cannot be total"),
        ({"keep": ("short_stage",)}, InputError, "short_stage"),
    ],
    ids=str,
)
def test_refusals(isoflop: pd.DataFrame, changes: dict[str, object], kind: type[Exception], what: str) -> None:
    with pytest.raises(kind, match=what):
        backtest(isoflop, **{"law": "chinchilla", "resamples": 20, **changes})  # type: ignore[arg-type]


def test_a_law_with_too_many_parameters_is_refused(frame: pd.DataFrame) -> None:
    few = frame[frame["flags"] == ""].iloc[::6].reset_index(drop=True)
    with pytest.raises(DataError, match=f"cannot identify the law {TRUE}"):
        backtest(few, TRUE, resamples=20)


def test_a_table_without_a_run_to_fit_is_told_what_flags_them(isoflop: pd.DataFrame) -> None:
    flagged = isoflop.assign(flags="under_2_tokens_per_parameter")
    with pytest.raises(DataError, match=f"none of {len(flagged)} runs .* {len(flagged)} under_2_tokens_per_parameter"):
        backtest(flagged, "chinchilla", resamples=20)


def test_the_table_is_not_changed(isoflop: pd.DataFrame) -> None:
    kept = isoflop.copy()
    backtest(isoflop, "chinchilla", cutoffs=[1e20], resamples=20)
    assert_frame_equal(isoflop, kept)


def test_keep_takes_flagged_rows_in(isoflop: pd.DataFrame) -> None:
    flagged = flag_runs(isoflop.assign(flags=["mine" if k % 7 == 0 else "" for k in range(len(isoflop))]))
    without, within = (backtest(flagged, "chinchilla", cutoffs=[2e19], keep=keep, resamples=20).cutoffs[0] for keep in ((), ("mine",)))
    assert within.rows_below == without.rows_below + 3 and len(within.outcomes) == len(without.outcomes) + 3


def test_what_a_run_came_to_keeps_it_in_and_how_it_was_made_keeps_it_out(isoflop: pd.DataFrame) -> None:
    """To leave out what turned out badly would be to choose by the outcome: a run that the plan takes costs what it costs."""
    limit, high = 2e19, 6 * isoflop["params_non_embedding"] * isoflop["tokens_pt"] > 2e19
    plain = backtest(isoflop, "chinchilla", cutoffs=[limit], resamples=20).cutoffs[0]
    chosen = {one.chosen for one in plain.decisions}
    bad = isoflop["run_id"].isin(chosen)
    assert plain.regret_percent[PLAN] == 0 and plain.flagged == 0 and (bad & high).any()
    worse = isoflop.assign(loss_spec=isoflop["loss_spec"].where(~bad, 1.1 * isoflop["loss_spec"]))
    for flag, counts in (("larger_but_worse", True), ("overfitted", True), ("short_stage", False), ("overfitted;mostly_warmup", False)):
        found = backtest(worse.assign(flags=worse["flags"].mask(bad, flag)), "chinchilla", cutoffs=[limit], resamples=20).cutoffs[0]
        assert len(found.outcomes) == len(plain.outcomes) - (0 if counts else len(chosen))
        assert found.flagged == (len(chosen) if counts else 0)
        assert (found.regret_percent[PLAN] > 5) == counts
        sound = found.summary()["unflagged_mean_absolute_percent"]
        assert (found.summary()["mean_absolute_percent"] > sound + 1) == counts
    lost = worse.assign(flags=worse["flags"].mask(bad, "diverged"), status=worse["status"].mask(bad, "diverged"), loss_spec=worse["loss_spec"].mask(bad))
    assert len(backtest(lost, "chinchilla", cutoffs=[limit], resamples=20).cutoffs[0].outcomes) == len(plain.outcomes) - len(chosen)


def test_round_trip(replayed: Backtest, tmp_path: Path) -> None:
    path = tmp_path / "backtest.json"
    replayed.save(path, {"runs": "abc"})
    assert Backtest.load(path) == replayed
    body = read_artifact(path, KIND, VERSION)
    assert body["inputs"] == {"runs": "abc"}
    assert body["cutoffs"][0]["coverage"] == replayed.cutoffs[0].coverage
    assert body["cutoffs"][0]["regret_percent"] == replayed.cutoffs[0].regret_percent
    text = path.read_text()
    path.write_text(text.replace('"factor"', '"other"'))
    with pytest.raises(InputError, match="wrong kind"):
        Backtest.load(path)
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(StateError, match="99"):
        Backtest.load(path)


def test_the_figure_draws_with_and_without_decisions(replayed: Backtest, tmp_path: Path) -> None:
    from dataclasses import replace

    from planner.report.backtest import page

    bare = replace(replayed, cutoffs=tuple(replace(item, decisions=()) for item in replayed.cutoffs))
    for number, result in enumerate((replayed, bare)):
        page(tmp_path / f"{number}.png", result)
        assert (tmp_path / f"{number}.png").stat().st_size > 20_000


def test_forecasts_gone_wild_do_not_press_the_others_into_a_line(replayed: Backtest) -> None:
    from dataclasses import replace

    from matplotlib.figure import Figure

    from planner.report.backtest import errors

    first = replayed.cutoffs[0]
    wild = replace(first, outcomes=(replace(first.outcomes[0], forecast=9 * first.outcomes[0].measured), *first.outcomes[1:]))
    for item, scale in ((first, "linear"), (wild, "symlog")):
        axis = Figure().subplots()
        errors(axis, replace(replayed, cutoffs=(item,)))
        assert axis.get_yscale() == scale


def test_a_judged_run_that_lacks_a_column_is_left_out_of_the_errors(tmp_path: Path) -> None:
    frame = read_runs(Path(__file__).parents[1] / "sweeps" / "medicine" / "runs.csv")
    first = frame.index[frame["flags"] == "overfitted"][0]
    frame.loc[first, "params_total"] = np.nan
    found = backtest(frame, "transfer-saturating", cutoffs=[1.18e12], resamples=20)
    assert frame.loc[first, "run_id"] not in {item.run_id for item in found.cutoffs[0].outcomes}
    assert found.cutoffs[0].flagged > 0
