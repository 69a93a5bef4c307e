"""`--with`: runs of several tables fitted together, such as a sweep's and those designed to follow it."""

from pathlib import Path

import pandas as pd
import pytest

from planner.artifacts import read_json
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.runs import read_runs, read_together
from tests.cli.test_commands import run
from tests.cli.test_fit import GRID

MEDICINE = Path(__file__).parents[2] / "sweeps" / "medicine"
HEADER = "params_non_embedding,tokens_pt,loss_spec"


def halves(folder: Path) -> tuple[Path, Path, Path]:
    """Write a sweep's table, and the same in two: its two seeds, of which the second comes later."""
    whole = pd.read_csv(MEDICINE / "runs.csv", dtype=str, keep_default_na=False)
    later = whole["seed"] == "1"
    paths = (folder / "whole.csv", folder / "first.csv", folder / "later.csv")
    for path, rows in zip(paths, (pd.concat([whole[~later], whole[later]]), whole[~later], whole[later]), strict=True):
        rows.to_csv(path, index=False)
    return paths


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_table_in_two_gives_the_law_and_the_backtest_of_the_whole(tmp_path: Path) -> None:
    whole, first, later = halves(tmp_path)
    asked = ("--law", "root-rote", "--bootstrap", "20", "--no-figures", "--out")
    for command, more in (("fit", ()), ("backtest", ("--cutoffs", "2e12"))):
        one, two = tmp_path / f"{command}1.json", tmp_path / f"{command}2.json"
        assert run(command, str(whole), *more, *asked, str(one))[0] == 0
        code, _, err = run(command, str(first), "--with", str(later), *more, *asked, str(two))
        assert code == 0, err
        (alone, together) = read_json(one), read_json(two)
        assert len(together["inputs"]) == 2 and len(set(together["inputs"].values())) == 2
        for answer in (alone, together):
            del answer["inputs"], answer["created"]
        if command == "fit":
            assert together["source"].pop("with") == ["later.csv"]
            assert alone["source"].pop("runs") == "whole.csv" and together["source"].pop("runs") == "first.csv"
        assert together == alone


def test_flags_that_compare_runs_are_of_all_tables(tmp_path: Path) -> None:
    whole, first, later = halves(tmp_path)
    assert read_together([first, later])["flags"].tolist() == read_runs(whole)["flags"].tolist()
    copied = pd.read_csv(later, dtype=str, keep_default_na=False)
    copied["run_id"] += "-again"
    copied.to_csv(again := tmp_path / "again.csv", index=False)
    finished = read_runs(later)["loss_spec"].notna().sum()
    assert read_together([first, later, again])["flags"].str.contains("copy").sum() == finished > 0


@pytest.mark.parametrize("lacking", ["recipe", "corpus", "vocab_size", "replay_fraction"])
def test_what_one_table_leaves_out_and_another_states_keeps_no_runs_apart(lacking: str, tmp_path: Path) -> None:
    """Tables of earlier versions lack columns that today's state as nothing."""
    whole, first, later = halves(tmp_path)
    assert not {"early_fraction", "base"} & {*pd.read_csv(first)}
    stated = pd.read_csv(later, dtype=str, keep_default_na=False).assign(early_fraction="0.0", base="").drop(columns=lacking)
    stated.to_csv(later, index=False)
    assert read_together([first, later])["flags"].tolist() == read_runs(whole)["flags"].tolist()
    assert read_together([later, first])["flags"].str.contains("overfitted").sum() == read_runs(whole)["flags"].str.contains("overfitted").sum() == 10


def test_a_flag_that_a_table_states_itself_stays(tmp_path: Path) -> None:
    _, first, later = halves(tmp_path)
    rows = pd.read_csv(first, dtype=str, keep_default_na=False)
    at = int((rows["flags"] == "").to_numpy().argmax())
    rows.loc[at, "flags"] = "negative_curvature"
    rows.to_csv(first, index=False)
    assert read_together([first, later])["flags"].iloc[at] == "negative_curvature"


def test_domains_of_one_corpus_are_not_mixed(tmp_path: Path) -> None:
    tables = [MEDICINE.parent / "three" / name for name in ("medicine", "nature")]
    code, _, err = run("fit", str(tables[0]), "--with", str(tables[1]), "--out", str(tmp_path / "law.json"))
    assert code == 2 and f"{tables[0] / 'runs.csv'} has runs of the domain 'medicine', and {tables[1] / 'runs.csv'} of 'nature'" in err, err


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize(("seed", "known"), [("", None), ("-3", None), ("1e29", None), ("7", 7)])
def test_a_law_knows_the_largest_seed_that_a_sweep_could_have(seed: str, known: int | None, tmp_path: Path) -> None:
    _, first, _ = halves(tmp_path)
    pd.read_csv(first, dtype=str, keep_default_na=False).assign(seed=seed).to_csv(first, index=False)
    law = tmp_path / "law.json"
    assert run("fit", str(first), "--law", "root-rote", "--bootstrap", "20", "--no-figures", "--out", str(law))[0] == 0
    assert FittedLaw.load(law).source.get("last_seed") == known


def test_runs_without_a_name_are_told_apart(tmp_path: Path) -> None:
    tables = [tmp_path / "one" / "runs.csv", tmp_path / "two" / "runs.csv"]
    for table, rows in zip(tables, (GRID[:12], GRID[12:]), strict=True):
        table.parent.mkdir()
        table.write_text("\n".join([HEADER, *rows]) + "\n")
    frame = read_together(tables)
    assert frame["run_id"].tolist() == [f"{table}:row{2 + number}" for table, count in zip(tables, (12, 8), strict=True) for number in range(count)]
    assert frame["loss_spec"].tolist() == [float(line.split(",")[2]) for line in GRID]


def test_what_cannot_stand_together_is_refused(tmp_path: Path) -> None:
    _, first, later = halves(tmp_path)
    with pytest.raises(InputError, match=r"both have a run n\d+-s1"):
        read_together([first, later, _copy(later, tmp_path / "copy.csv")])
    with pytest.raises(DataError, match="mix 2 fingerprints of corpus"):
        read_together([first, MEDICINE.parent / "nature" / "runs.csv"])
    for asked, said in (
        ((str(first), "--with", str(later), "--with", str(tmp_path / "." / "later.csv")), f"{later} is named twice"),
        ((str(first), "--with", str(first)), f"{first} is named twice"),
        ((str(MEDICINE.parent), "--with", str(first)), f"--with adds to one table, and {MEDICINE.parent} holds 4"),
        ((str(first), "--with", str(tmp_path / "none")), "there is no file or folder"),
        ((str(first), "--with", str(later), "--out", str(later)), "would overwrite"),
    ):
        for command in ("fit", "backtest"):
            code, _, err = run(command, *asked, "--no-figures")
            assert code == 2 and said in err, err


def _copy(table: Path, place: Path) -> Path:
    place.write_bytes(table.read_bytes())
    return place


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_design_follows_all_runs_of_its_law_and_says_how_to_fit_them_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, second = tmp_path / "deep" / "mine", tmp_path / "the second"
    (tmp_path / "deep").mkdir()
    _, first, later = halves(tmp_path)
    for folder, table in ((mine, first), (second, later)):
        folder.mkdir()
        _copy(table, folder / "runs.csv")
    (mine / "sweep.toml").write_text((MEDICINE / "sweep.toml").read_text().replace("seeds = [1]", "seeds = [0]"))
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    assert run("fit", "link", "--with", "the second", "--law", "root-rote", "--bootstrap", "20", "--no-figures", "--keep", "overfitted")[0] == 0
    assert read_json(mine / "law.json")["source"]["last_seed"] == 1
    (mine / "sweep.toml").write_text("[[[broken")  # what it says is in the law
    asked = ("--flops", "2e12", "--target-flops", "1e14", "--corpus", "corpus", "--out", "next/sweep.toml")
    code, _, err = run("sweep", "design", "--law", "link", *asked)
    assert code == 0 and "with seed 2:" in err, err
    assert "plan fit deep/mine --with 'the second' --with next --keep overfitted" in err, err
