"""`--with`: runs of several tables fitted together, such as a sweep's and those designed to follow it."""

from pathlib import Path

import pandas as pd
import pytest

from planner.artifacts import read_json
from planner.errors import DataError, InputError
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
        ((str(MEDICINE.parent), "--with", str(first)), f"--with adds to one table, and {MEDICINE.parent} holds 3"),
        ((str(first), "--with", str(tmp_path / "none")), "there is no file or folder"),
        ((str(first), "--with", str(later), "--out", str(later)), "would be written over"),
    ):
        for command in ("fit", "backtest"):
            code, _, err = run(command, *asked, "--no-figures")
            assert code == 2 and said in err, err


def _copy(table: Path, place: Path) -> Path:
    place.write_bytes(table.read_bytes())
    return place


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_design_follows_all_runs_of_its_law_and_says_how_to_fit_them_together(tmp_path: Path) -> None:
    mine, second = tmp_path / "mine", tmp_path / "second"
    _, first, later = halves(tmp_path)
    for folder, table in ((mine, first), (second, later)):
        folder.mkdir()
        _copy(table, folder / "runs.csv")
    (mine / "sweep.toml").write_text((MEDICINE / "sweep.toml").read_text().replace("seeds = [1]", "seeds = [0]"))
    assert run("fit", str(mine), "--with", str(second), "--law", "root-rote", "--bootstrap", "20", "--no-figures")[0] == 0
    assert read_json(mine / "law.json")["source"]["last_seed"] == 1
    asked = ("--flops", "2e12", "--target-flops", "1e14", "--out", str(tmp_path / "next" / "sweep.toml"))
    code, _, err = run("sweep", "design", str(mine), *asked)
    assert code == 0 and "with seed 2:" in err, err
    assert f"plan fit {mine} --with {second / 'runs.csv'} --with {tmp_path / 'next'}" in err
