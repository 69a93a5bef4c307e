"""`plan backtest` as a new user meets it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.artifacts import sha256_file
from planner.backtest import Backtest
from planner.cli.main import app

MAPS = ["--map", "params_non_embedding=N", "--map", "tokens_pt=D", "--map", "loss_spec=loss", "--law", "chinchilla", "--resamples", "20"]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["backtest", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    rows = ["N,D,loss"]
    for flops in (1e18, 4e18, 2e19, 8e19, 4e20):
        for size in (0.1, 0.2, 0.5, 1, 2):
            n = size * 0.1 * flops**0.5
            rows.append(f"{n:.0f},{flops / 6 / n:.0f},{1.7 + 400 / n**0.34 + 410 / (flops / 6 / n) ** 0.28:.6f}")
    table = tmp_path / "theirs.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def test_a_foreign_table(theirs: Path) -> None:
    code, out, err = run(str(theirs), *MAPS, "--cutoffs", "2.1e19, 8.1e19,1e30")
    assert code == 0, err
    assert "the plan" in out and "2.1e+19" in out and "8.1e+19" in out
    assert "not replayed: 1e+30 FLOPs" in err and "chinchilla (non_embedding)" in err
    result = Backtest.load(theirs.with_name("backtest.json"))
    assert [item.rows_below for item in result.cutoffs] == [15, 20]
    assert json.loads(theirs.with_name("backtest.json").read_text())["inputs"] == {"runs": sha256_file(theirs)}
    assert (theirs.parent / "figures" / "backtest.png").stat().st_size > 10_000


def test_json(theirs: Path, tmp_path: Path) -> None:
    code, out, _ = run(str(theirs), *MAPS, "--cutoffs", "2.1e19", "--json", "--no-figures", "--out", str(tmp_path / "other.json"))
    assert code == 0
    answer = json.loads(out)
    assert answer["kind"] == "backtest" and answer["cutoffs"][0]["regret_percent"]["the plan"] == pytest.approx(0, abs=0.05)
    assert not (tmp_path / "figures").exists() and not theirs.with_name("backtest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "offender", "remedy"),
    [
        (["--cutoffs", "1e19,soon"], "'soon'", "write FLOPs"),
        (["--cutoffs", "1e19,"], "''", "write FLOPs"),
        (["--cutoffs", "1e30"], "1e+30 FLOPs", "--cutoffs"),
        (["--params-kind", "active"], "'active'", "choose one of"),
        (["--params-kind", "total"], "total", "--params-kind"),
        (["--law", "nonsense"], "'nonsense'", "choose one of"),
        (["--map", "seed=absent"], "'absent'", "map to one of"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_refusals_are_one_sentence(theirs: Path, arguments: list[str], offender: str, remedy: str) -> None:
    code, out, err = run(str(theirs), *MAPS, *arguments)
    assert code == 2 and not out
    assert err.startswith("error: ") and err.count("\n") == 1
    assert offender in err and remedy in err
    assert not theirs.with_name("backtest.json").exists()
