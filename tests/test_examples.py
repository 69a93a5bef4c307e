"""Every case of examples/ runs as it stands, answers what it asks, and never looks like a measurement."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.main import app

ROOT = Path(__file__).parents[1]
CASES = sorted(path for path in (ROOT / "examples").glob("*.toml") if "[options]" in path.read_text(encoding="utf-8"))


def run(case: Path, tmp_path: Path, *more: str) -> tuple[int, str, str, dict]:
    out = tmp_path / "answer.json"
    result = CliRunner().invoke(app, ["allocate", "--case", str(case), "--out", str(out), *more])
    return result.exit_code, result.stdout, result.stderr, json.loads(out.read_text()) if out.exists() else {}


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_case_answers(case: Path, tmp_path: Path) -> None:
    code, out, err, answer = run(case, tmp_path)
    assert code == 0, err
    assert answer and out
    assert "asks: " in err and "arXiv" in err


def test_llamat_compares_two_bases(tmp_path: Path) -> None:
    _, out, err, answer = run(ROOT / "examples" / "llamat.toml", tmp_path)
    assert "ILLUSTRATION, NOT MEASURED" in out and "not a measured result" in err
    assert {choice["base"] for choice in answer["choices"]} == {"LLaMA-2-7B", "LLaMA-3-8B"}
    assert all(choice["plan"]["flops"] <= 1.3e21 * (1 + 1e-6) for choice in answer["choices"])
    assert answer["longer"].startswith("LLaMA-3-8B") and "of the resamples" in answer["longer"]
    assert "ι > 0" in answer["longer"] and "so the runs do not determine its sign" in err
    assert "FROM SCRATCH IS FORECAST BETTER" in err and "regret, expected / 90 %" in out
    refused = CliRunner().invoke(app, ["allocate", "--case", str(ROOT / "examples" / "llamat.toml"), "--no-allow-extrapolation"])
    assert refused.exit_code == 2 and "too far beyond the runs" in refused.stderr


def test_astrollama_counts_epochs_and_methods(tmp_path: Path) -> None:
    case = ROOT / "examples" / "astrollama.toml"
    _, out, err, qlora = run(case, tmp_path)
    assert "ILLUSTRATION, NOT MEASURED" in out and "the effect of qlora on the loss is not measured" in err
    _, _, _, full = run(case, tmp_path, "--method", "full", "--gpu-memory", "80")
    (one,), (two,) = qlora["choices"], full["choices"]
    assert one["plan"]["epochs_spec"] > 1.3 * two["plan"]["epochs_spec"]
    assert one["bytes_per_gpu"] < 0.15 * two["bytes_per_gpu"]
    assert {worth["change"].split(" (")[0] for worth in qlora["worths"]} >= {"10 % more compute", "twice the specialist text"}


def test_kale_prices_the_share_of_instruction_tuning(tmp_path: Path) -> None:
    _, out, err, answer = run(ROOT / "examples" / "kale_lm_chem.toml", tmp_path)
    assert "no law here covers what the later stage does" in out and "No law here has a third stage" in err
    costs = [item["higher_percent"] for item in answer["kept"]]
    assert costs == sorted(costs) and costs[0] > 0
    assert all(item["low"] <= item["higher_percent"] <= item["high"] for item in answer["kept"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = 'x'", "no table"),
        ("[options]\nbudget = 3", "'budget' is not an option"),
        ("[options]\nflops = [1, 2]", "flops = [1, 2] has the wrong type; write one value"),
        ("[options]\nflops = 'much'\nspec_tokens = 3", "'much'"),
        ("[options", "case.toml"),
    ],
)
def test_a_bad_case_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(text)
    code, out, err, answer = run(path, tmp_path, "--law", str(ROOT / "examples" / "law_interaction.json"))
    assert code == 2 and not answer and not out
    assert message in err and "Traceback" not in err


def test_the_command_line_goes_before_the_case(tmp_path: Path) -> None:
    _, _, _, answer = run(ROOT / "examples" / "llamat.toml", tmp_path, "--flops", "1e20", "--spec-tokens", "1B")
    assert answer["request"]["flops"] == 1e20 and answer["request"]["unique_spec"] == 1e9
