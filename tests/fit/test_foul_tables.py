"""Tables as people keep them: noisy, without a grid, pasted twice, with a slip of a digit, of two kinds, or silent about some parameter."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from planner.backtest import backtest
from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import fit_data
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.identify import check, levels
from planner.fit.profile import profile
from planner.flags import judge_alone
from planner.runs import read_runs
from planner.units import format_count
from tests.cli.test_commands import run

SIZES, RATIOS = np.geomspace(1e7, 1e9, 5), (5, 10, 20, 40, 80)


def truth(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return losses of Chinchilla's law."""
    return np.asarray(1.69 + 406.4 / n**0.34 + 410.7 / d**0.28)


def grid(noise: float, luck: int = 0, sizes: np.ndarray = SIZES, ratios: object = RATIOS, **columns: object) -> pd.DataFrame:
    """Draw a table of one stage."""
    n, d = (values.ravel() for values in np.meshgrid(sizes, ratios, indexing="ij"))
    d = d * n
    loss = truth(n, d) * np.exp(noise * np.random.default_rng(luck).normal(size=len(n)))
    return pd.DataFrame({"params_non_embedding": n, "tokens_pt": d, "loss_spec": loss, **columns})


def read(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write a table and read it as a user's."""
    frame.to_csv(folder / "runs.csv", index=False)
    return read_runs(folder / "runs.csv")


def fitted_to(frame: pd.DataFrame, law: str = "chinchilla", **more: object) -> FittedLaw:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlannerWarning)
        return fit(fit_data(frame), law, resamples=60, largest=False, **more)  # type: ignore[arg-type]


def test_noise_alone_flags_no_run(tmp_path: Path) -> None:
    table = read(grid(0.03, sizes=np.geomspace(1e7, 1e9, 8), ratios=np.geomspace(5, 100, 20)), tmp_path)
    assert (table["flags"] == "").all()
    clean = grid(0.002, sizes=np.geomspace(1e7, 1e9, 8), ratios=np.geomspace(5, 100, 20))
    clean.loc[30, "loss_spec"] *= 1.04
    assert read(clean, tmp_path)["flags"].to_numpy().nonzero()[0].tolist() == [30], "beside little noise the same bend is a bad run"


def test_levels_of_a_table_without_a_grid_are_many() -> None:
    values = np.geomspace(1, 100, 2000)
    assert len(levels(values)) == pytest.approx(np.log(100) / 0.05, abs=2)
    assert levels(np.array([1.0, 1.01, 1.04, 3.0, 3.1, 0.0])).tolist() == [1.0, 3.0]


def test_passes_give_the_distinct_text(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,tokens_spec,epochs_spec,loss_spec"
    rows = ["1e6,1e7,8e6,4,3.0", "2e6,1e7,8e6,1,2.9", "4e6,1e7,0,,2.9"]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([columns, *rows]))
    found = read_runs(path)
    assert found["unique_spec"].tolist()[:2] == [2e6, 8e6] and found["epochs_spec"].tolist()[:2] == [4.0, 1.0]
    path.write_text(f"{columns},unique_spec\n1e6,1e7,8e6,4,3.0,8e6")
    with pytest.raises(InputError, match="row 2: epochs_spec = 4 contradicts tokens_spec / unique_spec"):
        read_runs(path)


def test_a_table_that_is_pasted_twice_counts_once(tmp_path: Path) -> None:
    once = grid(0.005)
    table = read(pd.concat([once, once]), tmp_path)
    assert (table["flags"] == "copy").tolist() == [False] * 25 + [True] * 25
    assert fit_data(table).count == 25
    other = once.assign(seed=1), once.assign(seed=2)
    assert (read(pd.concat(other), tmp_path)["flags"] == "").all(), "other seeds are no copies"


@pytest.mark.parametrize(
    ("column", "pair", "sentence"),
    [
        ("recipe", ("a", "b"), "the runs mix 2 fingerprints of recipe: a, b"),
        ("vocab_size", (32000, 128256), "the runs mix vocabularies of 32000, 128256 words"),
        ("base", ("", "x"), "25 of 50 runs start from a checkpoint, the others from scratch"),
    ],
)
def test_runs_of_two_kinds_are_refused_and_none_is_called_bad(tmp_path: Path, column: str, pair: tuple[object, object], sentence: str) -> None:
    one, other = (grid(0.003, seed, **{column: value}) for seed, value in enumerate(pair))
    other["loss_spec"] *= 1.12
    table = read(pd.concat([one, other]), tmp_path)
    assert (table["flags"] == "").all()
    with pytest.raises(DataError, match=sentence):
        fit_data(table)


def test_a_crashed_run_makes_no_other_one_overfitted(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec,status"
    rows = ["1e6,1e7,1e6,1e6,0.7,crashed", "1e6,1e7,2e6,1e6,3.0,ok", "1e6,1e7,4e6,1e6,2.9,ok"]
    (tmp_path / "runs.csv").write_text("\n".join([columns, *rows]))
    assert read_runs(tmp_path / "runs.csv")["flags"].tolist() == ["unfinished", "", ""]


def test_seeds_are_compared_at_the_same_replay(tmp_path: Path) -> None:
    parts = [grid(0.001, seed, seed=seed, replay_fraction=share) for seed in range(2) for share in (0.0, 0.3)]
    for part in parts:
        part["loss_general"] = part["loss_spec"] * (1 - 0.1 * part["replay_fraction"])
    data = fit_data(read(pd.concat(parts), tmp_path), target="general")
    assert data.replicate_sd == pytest.approx(0.001, rel=0.3)


def two_stages(**columns: object) -> pd.DataFrame:
    """Runs off trunks of three sizes."""
    n, d, s = (values.ravel() for values in np.meshgrid([1e6, 3e6, 1e7], [1e8, 2e8, 4e8], [0, 2e7, 8e7], indexing="ij"))
    frame = pd.DataFrame({"params_non_embedding": n, "tokens_pt": d, "tokens_spec": s, "unique_spec": np.where(s, 1e7, np.nan)})
    return frame.assign(loss_spec=truth(n, d + 3 * s), **columns)


def test_runs_that_replay_are_left_out_of_the_law_of_the_specialist_loss(tmp_path: Path) -> None:
    plain = two_stages()
    several = plain[plain["tokens_spec"] > 0].assign(replay_fraction=0.3)
    data = fit_data(read(pd.concat([plain, several]), tmp_path))
    assert data.count == len(plain) and data.replaying == len(several) and data.replay_fraction is None
    everywhere = fit_data(read(plain.assign(replay_fraction=np.where(plain["tokens_spec"] > 0, 0, 0.3)), tmp_path))
    assert everywhere.replaying == 0, "a run without a specialist stage replays nothing, whatever its column says"
    with pytest.raises(DataError, match="all 18 runs with a specialist stage replay general text in it.*some without replay, or .* --target general"):
        fit_data(read(plain.assign(replay_fraction=0.3), tmp_path))
    few = fit_data(read(pd.concat([plain.iloc[:4], several]), tmp_path))
    with pytest.raises(DataError, match="only 4 runs can be used for a fit .18 more have replayed general text, which .* describes; the rest"):
        check(few)


@pytest.mark.parametrize("column", ["replay_fraction", "early_fraction"])
def test_a_run_that_replays_or_has_early_text_flags_none_that_does_not(tmp_path: Path, column: str) -> None:
    """The smallest size alone has a share, which lowers its loss below that of all larger ones: that says nothing of them."""
    frame = grid(0.001).assign(tokens_spec=1e8, unique_spec=1e9)
    frame["tokens_pt"] = np.tile(np.geomspace(1e9, 1e10, 5), 5)
    frame["loss_spec"] = truth(frame["params_non_embedding"].to_numpy(), frame["tokens_pt"].to_numpy())
    small = frame["params_non_embedding"] == SIZES[0]
    frame.loc[small, "loss_spec"] = 0.9 * frame["loss_spec"].min()
    assert read(frame, tmp_path)["flags"].str.contains("smaller_but_better|larger_but_worse").any()
    frame[column] = np.where(small, 0.3, 0.0)
    assert not read(frame, tmp_path)["flags"].str.contains("smaller_but_better|larger_but_worse").any()


def test_a_parameter_that_nothing_measures_may_be_anything(tmp_path: Path) -> None:
    once = grid(0.003).rename(columns={"tokens_pt": "tokens_spec"})
    table = read(once.assign(unique_spec=once["tokens_spec"]), tmp_path)
    first, second = (fitted_to(table, "data-constrained", seed=seed) for seed in (0, 7))
    member = first.members[0]
    assert "R_D*" in member.unmeasured and not set(member.ridge) & set(member.unmeasured)
    for number, parameter in enumerate(member.law.parameters):
        if parameter.name in member.unmeasured:
            low, high = member.interval(number)
            assert low < 1.3 * parameter.start[0] and high > parameter.start[1] / 1.3
            assert member.theta[number] == second.members[0].theta[number], "it does not hang on the seed"
    size, tokens = {"non_embedding": np.array([1e8, 1e8])}, np.array([1e10, 1e10])
    forecast = first.forecast(size, 0 * tokens, tokens, tokens / [1, 40])
    width = np.log(forecast.high / forecast.low)
    assert width[1] > 5 * width[0]
    first.save(tmp_path / "law.json", {})
    assert FittedLaw.load(tmp_path / "law.json").members[0].unmeasured == member.unmeasured


def test_a_slip_of_a_digit_is_named_and_moves_neither_support_nor_noise(tmp_path: Path) -> None:
    clean = grid(0.004)
    spoilt = clean.copy()
    spoilt.loc[24, "tokens_pt"] *= 1000
    before, table = fitted_to(read(clean, tmp_path)), read(spoilt, tmp_path)
    with pytest.warns(PlannerWarning, match=r"row26 lies \+.* % off the law, .* likely a data error"):
        after = fit(fit_data(table), "chinchilla", resamples=60, largest=False)
    assert after.support.high["tokens_pt"] <= before.support.high["tokens_pt"]
    assert after.noise < 1.5 * before.noise and after.drift > 0


def test_a_slip_of_a_digit_makes_no_forecast_look_worse(tmp_path: Path) -> None:
    """A run that is named as a likely mistake counts neither in held-out errors, nor in the drift, nor in what the largest size was forecast to."""
    sound = grid(0.003, sizes=np.geomspace(1e7, 1e9, 7), ratios=np.geomspace(5, 80, 6))
    clean = fit(fit_data(read(sound, tmp_path)), "chinchilla", resamples=60)
    for row, factor in ((25, 2.0), (len(sound) - 1, 0.6)):
        foul = sound.copy()
        foul.loc[row, "loss_spec"] *= factor
        with pytest.warns(PlannerWarning, match=f"row{row + 2} lies .* likely a data error"):
            law = fit(fit_data(read(foul, tmp_path).assign(flags="")), "chinchilla", resamples=60)
        assert law.drift < clean.drift + 0.005 and law.scores[0]["mean"] < 1.5 * clean.scores[0]["mean"]
        assert law.holdout["worst_percent"] < 2 and f"row{row + 2}" not in law.holdout["run_ids"]


@pytest.mark.parametrize(("seed", "warned"), [(None, False), (1, True)])
def test_losses_in_other_runs_rows_are_said_to_teach_nothing(tmp_path: Path, seed: int | None, warned: bool) -> None:
    frame = grid(0.003)
    if seed is not None:
        frame["loss_spec"] = np.random.default_rng(seed).permutation(frame["loss_spec"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PlannerWarning)
        fit(fit_data(read(frame, tmp_path).assign(flags="")), "chinchilla", resamples=60, largest=False)
    assert any("size and tokens hardly explain the loss" in str(item.message) for item in caught) == warned


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"loss_spec": lambda frame: np.exp(3 * frame["loss_spec"])}, "are these perplexities"),
        ({"tokens_pt": lambda frame: frame["tokens_pt"] / 1e3}, "write them in full, or as 30B"),
    ],
)
def test_columns_in_another_unit_are_asked_about(tmp_path: Path, change: dict[str, object], named: str) -> None:
    with pytest.raises((InputError, DataError), match=named):
        fit_data(read(grid(0.003).assign(**change), tmp_path))  # type: ignore[arg-type]


def test_few_runs_that_a_slip_of_units_leaves_are_told_of_as_such(tmp_path: Path) -> None:
    frame = grid(0.003)
    frame["tokens_pt"] /= 1e3
    frame.loc[:2, "tokens_pt"] *= 1e3
    message = rf"only 3 of {len(frame)} runs have a loss_spec and no flag: .*under_2_tokens_per_parameter.*; .* write them in full"
    with pytest.raises(DataError, match=message):
        fit_data(read(frame, tmp_path))


def test_distinct_text_in_another_unit_is_asked_about(tmp_path: Path) -> None:
    n, spec = (values.ravel() for values in np.meshgrid(SIZES, np.geomspace(1e9, 1e11, 6)))
    thousands = spec / np.resize([1, 4], len(spec)) / 1e3
    frame = pd.DataFrame({"params_non_embedding": n, "tokens_spec": spec, "unique_spec": thousands, "loss_spec": truth(n, spec)})
    with pytest.warns(PlannerWarning, match="is unique_spec in another unit than tokens_spec"):
        check(fit_data(read(frame, tmp_path).assign(flags="")))


def test_losses_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all losses are 3, and there is nothing to learn a law from"):
        fit(fit_data(read(grid(0.0).assign(loss_spec=3.0), tmp_path)), resamples=20)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize(("factor", "law"), [(1.0, "chinchilla"), (1.06, "chinchilla"), (0.94, "chinchilla"), (1.06, "auto")])
def test_a_size_that_is_off_is_said(tmp_path: Path, place: int, factor: float, law: str) -> None:
    """Trained with a rate that does not suit it, for instance: its runs agree with each other and not with those of other sizes."""
    sizes = np.geomspace(1e7, 1e9, 7)
    frame = grid(0.004, sizes=sizes)
    frame.loc[frame["params_non_embedding"] == sizes[place], "loss_spec"] *= factor
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PlannerWarning)
        fit(fit_data(read(frame, tmp_path).assign(flags="")), law, resamples=60)
    found = [str(item.message) for item in caught if "off a law fitted to all other sizes" in str(item.message)]
    named = [f"the 5 runs of {format_count(sizes[place])} parameters lie {'+' if factor > 1 else '-'}" in text for text in found]
    assert named == ([True] if factor != 1 else []) and not any("skill" in text for text in found)


@pytest.mark.parametrize(("factor", "said"), [(1.06, "above their .*either it was trained"), (0.94, "below their .*either the smaller ones were trained")])
def test_a_largest_size_that_is_off_its_forecast_is_said(tmp_path: Path, factor: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where leaving it out does not make all well."""
    monkeypatch.setattr("planner.fit.fit.find_size_outlier", lambda score, data: None)
    frame = grid(0.004, sizes=np.geomspace(1e7, 1e9, 7))
    frame.loc[frame["params_non_embedding"] == frame["params_non_embedding"].max(), "loss_spec"] *= factor
    with pytest.warns(PlannerWarning, match=f"the losses of the largest size lie .* % {said} less well"):
        fit(fit_data(read(frame, tmp_path).assign(flags="")), "chinchilla", resamples=60)


def test_the_luck_of_single_trunks_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    trunks = [f"t{number // 5}" for number in range(25)]
    with pytest.warns(PlannerWarning, match="the between-trunk variance is not measured"):
        check(fit_data(read(grid(0.003, trunk_id=trunks, seed=0), tmp_path)))
    twice = pd.concat([grid(0.003, seed, trunk_id=[f"{name}-{seed}" for name in trunks], seed=seed) for seed in (0, 1)])
    check(fit_data(read(twice, tmp_path)))


@pytest.mark.filterwarnings("ignore:no size has two trunks")
def test_one_name_for_all_trunks_leaves_intervals_a_width(tmp_path: Path) -> None:
    """With one cluster every resample is the table itself: each size is a trunk at the least, and that so few are left is said."""
    frame = read(grid(0.005, trunk_id="main", seed=0), tmp_path)
    data = fit_data(frame)
    assert len(np.unique(data.cluster)) == len(SIZES)
    with pytest.warns(PlannerWarning, match=f"all 25 runs branch off only {len(SIZES)} trunks: intervals and regrets may well be too narrow"):
        check(data)
    member = fitted_to(frame).members[0]
    assert (np.std(member.resamples, axis=0) > 1e-3 * np.abs(member.theta)).all()


@pytest.mark.slow
def test_profiles_of_small_tables_hold_the_truth(tmp_path: Path) -> None:
    inside = []
    for seed in range(12):
        data = fit_data(read(grid(0.005, 100 + seed), tmp_path))
        law = fitted_to(read(grid(0.005, 100 + seed), tmp_path)).members[0]
        known = {"E": 1.69, "A": 406.4 / law.reference.params**0.34, "B": 410.7 / law.reference.tokens**0.28, "α": 0.34, "β": 0.28}
        for item in profile(law.law, data.points(law.reference), data.log_loss, law.theta):
            inside.append(item.low <= known[item.name] <= item.high)
    assert np.mean(inside) > 0.8, "it was 75 % before"


def test_no_run_below_a_cut_off_is_flagged_by_what_is_above_it(tmp_path: Path) -> None:
    frame = grid(0.002, ratios=np.geomspace(5, 100, 8))
    frame["flops"] = 6 * frame["params_non_embedding"] * frame["tokens_pt"]
    # The chord from the next run, which costs more and is far too good, would make the dearest one below a bad run.
    size = frame["params_non_embedding"] == SIZES[2]
    at, above = frame.index[size][4], frame.index[size][5]
    frame.loc[above, "loss_spec"] *= 0.8
    table = read(frame, tmp_path)
    assert table["flags"][at] == "negative_curvature"
    limit = float(frame["flops"][at])
    assert (judge_alone(table[table["flops"] <= limit])["flags"] == "").all()
    with pytest.warns(PlannerWarning, match="likely a data error"):  # by all runs, the one above is
        (cutoff,) = backtest(table, "chinchilla", cutoffs=[limit], resamples=20).cutoffs
    assert cutoff.rows_below == int((frame["flops"] <= limit).sum())


def test_a_flag_that_takes_many_runs_is_said(tmp_path: Path) -> None:
    frame = grid(0.002).assign(tokens_pt=np.tile([2e9, 5e9, 1e10, 2e10, 5e10], 5))
    # Larger models are worse, as where their rates were never tuned.
    sizes = frame["params_non_embedding"].to_numpy()
    frame["loss_spec"] = truth(sizes, frame["tokens_pt"].to_numpy()) * (sizes / 1e7) ** 0.15
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = run("fit", str(tmp_path / "runs.csv"), "--law", "chinchilla", "--no-figures", "--bootstrap", "20")[2]
    assert "of 25 runs are flagged larger_but_worse and kept out, too many to be isolated bad runs" in words


def test_a_vocabulary_padded_by_size_is_one(tmp_path: Path) -> None:
    sizes = grid(0.003)["params_non_embedding"]
    table = read(grid(0.003).assign(vocab_size=np.where(sizes > 1e8, 50688, 50304)), tmp_path)
    assert fit_data(table).count == 25


def test_a_resumed_run_is_no_copy_of_the_crashed_one(tmp_path: Path) -> None:
    frame = grid(0.003).assign(status="ok")
    table = read(pd.concat([frame.iloc[:1].assign(status="crashed"), frame]), tmp_path)
    assert table["flags"].tolist() == ["unfinished", *[""] * 25]


def test_whole_passes_for_a_part_of_one_and_nullable_columns(tmp_path: Path) -> None:
    columns = {"params_non_embedding": [1e6, 2e6], "tokens_pt": [1e7, 1e7], "tokens_spec": [1.3e6, 2e6], "unique_spec": [1e6, 2e6], "epochs_spec": [1, 1]}
    frame = pd.DataFrame({**columns, "loss_spec": [3.0, 2.9], "status": ["ok", None]})
    assert read(frame, tmp_path)["epochs_spec"].tolist() == [1.3, 1.0]
    frame.convert_dtypes().to_parquet(tmp_path / "runs.parquet")
    assert read_runs(tmp_path / "runs.parquet")["unique_spec"].tolist() == [1e6, 2e6]


@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_of_two_stages_flags_no_run_and_a_ruined_one_stands_out(seeds: int, tmp_path: Path) -> None:
    """Noise of 2 % makes many differences of 3 %: it is read from seeds, or from neighbours in size."""
    random = np.random.default_rng(1)
    cells = [
        {"params_non_embedding": n, "tokens_pt": pt, "tokens_spec": u * passes, "unique_spec": u, "seed": seed, "trunk_id": f"{n}-{pt}",
         "loss_spec": 1.6 + 0.9 * (n / 1e7) ** -0.25 + 1.5 * (1 + pt / 1e8) ** -0.25 * (1 + u * (2 - 1 / passes) / 1e7) ** -0.2}
        for n in 1e6 * 1.3 ** np.arange(8) for pt in (2e7, 1e8, 5e8) for u in (2e6, 1e7) for passes in (1, 3, 10, 30) for seed in range(seeds)
    ]  # fmt: skip
    frame = pd.DataFrame(cells)
    noisy = frame.assign(loss_spec=frame["loss_spec"] * np.exp(0.02 * random.normal(size=len(frame))))
    assert not (read(noisy, tmp_path)["flags"] != "").any()
    ruined = frame["tokens_spec"].eq(3e8) & frame["tokens_pt"].eq(5e8) & frame["params_non_embedding"].eq(1e6)
    worse = read(noisy.assign(loss_spec=noisy["loss_spec"].where(~ruined, 1.3 * noisy["loss_spec"])), tmp_path)
    assert (worse["flags"].eq("overfitted") == ruined).all()
    quiet = read(frame.assign(loss_spec=frame["loss_spec"].where(~ruined, 1.05 * frame["loss_spec"])), tmp_path)
    assert (quiet["flags"].eq("overfitted") == ruined).all(), "without noise as much less counts"
