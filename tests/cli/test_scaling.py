"""`plan scaling` and `plan allocate --accuracy` as a user meets them."""

import json
from pathlib import Path

import pytest

from planner.allocate.allocation import Allocation
from planner.artifacts import sha256_file
from planner.fit.fitted import FittedLaw
from tests.cli.test_commands import run

TABLE = "name,loss,accuracy\na,6.0,0.26\nb,5.4,0.3\nc,4.8,0.38\nd,4.2,0.5\ne,3.6,0.62\nf,3.0,0.7\ng,2.2,0.75\n"


@pytest.fixture
def law(fitted: FittedLaw, tmp_path: Path) -> Path:
    path = tmp_path / "law.json"
    fitted.save(path, {})
    return path


def test_curves_are_printed_and_written(law: Path) -> None:
    out = law.with_name("scaling.json")
    arguments = ["scaling", "--law", str(law), "--out", str(out), "--from", "2e12", "--to", "2e14", "--points", "4", "--spec-tokens", "200k,50k"]
    code, shown, err = run(*arguments, "--figure")
    assert code == 0, err
    for title in ("Best plans with 50k", "Best plans with 200k", "Exponents of the best plan", "less text"):
        assert title in shown
    assert "loss [nats/token]" in shown and "50k for 200k" in shown and "EXTRAPOLATION" in err
    assert out.with_suffix(".png").stat().st_size > 10_000
    body = json.loads(out.read_text(encoding="utf-8"))
    assert body["request"]["budgets"][0] == 2e12 and [curve["unique_spec"] for curve in body["curves"]] == [5e4, 2e5]
    code, shown, err = run(*arguments, "--json")
    assert code == 0 and json.loads(shown)["inputs"] == {"law": sha256_file(law)}
    assert json.loads(shown) == json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "offender", "remedy"),
    [
        (["--spec-tokens", "200k,much"], "'much'", "write a number"),
        (["--spec-tokens", "200k", "--to", "1e20"], "the limit is 1000×", "--allow-extrapolation"),
        (["--spec-tokens", "200k", "--from", "1e14", "--to", "1e13"], "1e+14..1e+13", "--to above --from"),
        (["--spec-tokens", "200k", "--params", "9M"], "without --to budgets end at 10 times the largest run", "smaller --params"),
        (["--spec-tokens", "200k", "--from", "1e8"], "too few", "give at least"),
        (["--spec-tokens", "200k", "--points", "1"], "1 points", "leave out --points"),
        (["--spec-tokens", "0"], "spec-tokens of 0", "positive"),
        ([], "the amount of specialist text is not given", "give --spec-tokens"),
        (["--spec-tokens", "200k", "--params", "2M..1M"], "2M..1M", "smaller size first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_with_a_remedy(arguments: list[str], offender: str, remedy: str, law: Path) -> None:
    out = law.with_name("scaling.json")
    code, shown, err = run("scaling", *arguments, "--law", str(law), "--out", str(out))
    assert code == 2 and not shown and not out.exists()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert offender in err and remedy in err


def test_accuracy_stands_in_table_and_file(law: Path) -> None:
    table, out = law.with_name("table.csv"), law.with_name("a.json")
    table.write_text(TABLE, encoding="utf-8")
    arguments = ["allocate", "--flops", "2e13", "--spec-tokens", "200k", "--law", str(law), "--out", str(out)]
    code, plain, err = run(*arguments)
    assert code == 0 and Allocation.load(out).accuracy is None and "accuracy" not in plain
    code, shown, err = run(*arguments, "--accuracy", str(table), "--chance", "0.25")
    assert code == 0, err
    found = Allocation.load(out).accuracy
    assert found is not None and 0.25 <= found["low"] < found["accuracy"] < found["high"] <= 1
    assert found["chance_given"] and found["curve"]["chance"] == 0.25 and found["rows"] == 7
    assert f"{100 * found['accuracy']:.3g} %" in shown and "accuracy, by 7 models" in shown
    assert json.loads(out.read_text(encoding="utf-8"))["inputs"] == {"law": sha256_file(law), "accuracy": sha256_file(table)}


@pytest.mark.parametrize(
    ("text", "extra", "offender", "remedy"),
    [
        (TABLE.replace("0.7\n", "70\n"), [], "accuracy = 70", "not per cent"),
        (TABLE.replace("accuracy", "score"), [], "no column accuracy", "name, loss, score"),
        (TABLE, ["--chance", "2"], "'2' is more than the whole", "2%"),
        (None, ["--chance", "0.25"], "--chance has no effect", "--accuracy"),
    ],
    ids=["per cent", "no column", "chance above 1", "chance alone"],
)
def test_bad_tables_are_one_sentence_with_a_remedy(text: str | None, extra: list[str], offender: str, remedy: str, law: Path) -> None:
    table, out = law.with_name("table.csv"), law.with_name("a.json")
    if text is not None:
        table.write_text(text, encoding="utf-8")
        extra = [*extra, "--accuracy", str(table)]
    code, shown, err = run("allocate", "--flops", "2e13", "--spec-tokens", "200k", "--law", str(law), "--out", str(out), *extra)
    assert code == 2 and not shown and not out.exists()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert offender in err and remedy in err


def test_scipy_is_imported_for_accuracy_alone(law: Path) -> None:
    import subprocess
    import sys

    arguments = ["allocate", "--flops", "2e13", "--spec-tokens", "200k", "--law", str(law), "--out", str(law.with_name("a.json"))]
    follow = ["scaling", "--spec-tokens", "200k", "--points", "2", "--law", str(law), "--out", str(law.with_name("s.json"))]
    for command in (arguments, follow):
        code = (
            f"import sys; from planner.cli.main import app\ntry: app({command!r})\nexcept SystemExit as error: assert not error.code, error.code\n"
            "print(sorted({'scipy', 'matplotlib', 'pandas', 'torch'} & set(sys.modules)))"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.strip().endswith("[]")


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize(
    ("columns", "law", "shown", "not_shown"),
    [
        ("params_non_embedding,tokens_pt,loss_spec", "chinchilla", "d ln D_pt", ["specialist", "epochs", "D_spec"]),
        ("params_non_embedding,tokens_spec,loss_spec", "data-constrained", "d ln D_spec", ["general", "D_pt", "specialist only"]),
    ],
)
def test_a_law_of_one_stage_is_shown_with_the_tokens_that_it_knows(tmp_path: Path, columns: str, law: str, shown: str, not_shown: list[str]) -> None:
    sizes, tokens = (1e7, 3e7, 1e8, 3e8, 1e9), (2e9, 6e9, 2e10, 6e10)
    rows = [f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 400 / d**0.28}" for n in sizes for d in tokens]
    (tmp_path / "runs.csv").write_text("\n".join([columns, *rows]))
    assert run("fit", str(tmp_path / "runs.csv"), "--law", law, "--no-figures", "--bootstrap", "20")[0] == 0
    text = ["--spec-tokens", "5B"] if law == "data-constrained" else []
    code, words, err = run("scaling", "--law", str(tmp_path), *text, "--points", "4", "--out", str(tmp_path / "s.json"), "--figure")
    assert code == 0, err
    tables = words[: words.index("off: RMS distance of the plans")]
    assert shown in tables and not any(item in tables.replace("distinct specialist", "").replace("specialist tokens", "") for item in not_shown)
