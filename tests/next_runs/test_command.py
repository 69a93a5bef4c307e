"""`plan sweep design`, from a fit or a prior to a sweep.toml that the other commands of a sweep read."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.design.spec import read_sweep
from planner.design.tree import build_tree
from planner.fit.fitted import FittedLaw


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sweep", "design", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def law(fitted: FittedLaw, tmp_path: Path) -> list[str]:
    fitted.save(tmp_path / "law.json", {})
    return ["--law", str(tmp_path / "law.json"), "--corpus", str(tmp_path / "corpus"), "--flops", "5e12", "--spec-tokens", "200k"]


def test_a_design_from_a_fit_is_a_sweep(law: list[str], tmp_path: Path) -> None:
    out = tmp_path / "next" / "sweep.toml"
    code, text, messages = run(*law, "--target-flops", "1e14", "--out", str(out), "--json")
    assert code == 0, messages
    answer = json.loads(text)
    spec = read_sweep(out)
    assert spec.corpus == (tmp_path / "corpus").resolve()
    cells, left_out = spec.cells(1024, 1.6e6)
    assert len(cells) == answer["design"]["cells"] and not left_out
    assert {cell.seed for cell in cells} == {1}
    tree = build_tree(cells, spec.recipe, 1024, eval_tokens=spec.eval_tokens)
    assert tree.flops_total == pytest.approx(answer["design"]["flops"]) and tree.flops_total <= 5e12
    assert answer["before"]["deviation_percent"] > answer["naive"]["deviation_percent"] > answer["design"]["deviation_percent"]
    assert "trained anew" in messages and "no corpus" in messages
    code, _, messages = run(*law, "--target-flops", "1e14", "--out", str(out))
    assert code == 2 and "exists" in messages


def test_the_table_and_the_dry_run(law: list[str], tmp_path: Path) -> None:
    code, text, messages = run(*law, "--criterion", "I", "--out", str(tmp_path / "x.toml"), "--dry-run")
    assert code == 0, messages
    assert "as a tree" in text and "naive grid" in text and "expected regret" in text
    assert "100 times the law's largest run" in messages
    assert not (tmp_path / "x.toml").exists() and "times the target budget" not in messages
    code, _, messages = run(*law, "--target-flops", "2.5e12", "--dry-run")
    assert code == 0 and "the runs may cost 2 times the target budget" in messages


def test_runs_dearer_than_the_default_target_are_for_one_beyond_them(law: list[str], fitted: FittedLaw) -> None:
    most = 100 * fitted.support.high["flops"]
    axes = "--sizes", "20k,80k,160k", "--tokens-pt", "0,1M,4M,16M", "--tokens-spec", "0,400k,1.6M", "--dry-run"
    for budget, what in ((0.99 * most, "the law's largest run"), (1.01 * most, "the largest candidate run")):
        code, text, messages = run(*law, "--flops", f"{budget:.6g}", *axes, "--json")
        assert code == 0, messages
        target = json.loads(text)["target_flops"]
        assert f"100 times {what}" in messages and "times the target budget" not in messages
        assert target > budget and (target == pytest.approx(most)) == (budget < most)


@pytest.mark.slow
def test_runs_beside_a_law_are_no_smaller_than_the_middle_of_its_own(law: list[str], fitted: FittedLaw, tmp_path: Path) -> None:
    """Cheap small runs would lower the uncertainty most, if the law's form holds down to them and up to the target: nobody knows that."""
    sizes = fitted.support
    middle = math.sqrt(sizes.low["params"] * sizes.high["params"])
    code, text, messages = run(*law, "--flops", "5e13", "--dry-run", "--json")
    assert code == 0, messages
    assert min(cell["size"] for cell in json.loads(text)["cells"]) > 0.97 * middle
    # A budget that pays no run twice as large is spent on what it pays; and who names sizes gets those.
    code, text, messages = run(*law, "--flops", "1.5e12", "--dry-run", "--json")
    assert code == 0 and max(cell["size"] for cell in json.loads(text)["cells"]) < 2 * middle, messages
    code, text, messages = run(*law, "--flops", "5e13", "--sizes", "20k,40k,320k", "--dry-run", "--json")
    assert code == 0 and {cell["size"] for cell in json.loads(text)["cells"]} <= {2e4, 4e4, 3.2e5}, messages


def test_a_design_for_a_decision_has_all_of_its_limits(fitted: FittedLaw, tmp_path: Path) -> None:
    """The plan in question is the one that was recommended, not the one that there would be without limits."""
    fitted.save(tmp_path / "law.json", {})
    answer = tmp_path / "answers" / "a.json"
    answer.parent.mkdir()
    asked = ["allocate", "--law", str(tmp_path / "law.json"), "--flops", "1e14", "--spec-tokens", "200k", "--params", "60k", "--general-tokens", "2M",
             "--max-epochs", "8", "--out", str(answer)]  # fmt: skip
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.stderr
    plan = json.loads(answer.read_text())["plan"]
    common = ["--flops", "5e12", "--decision", str(answer), "--corpus", str(tmp_path / "corpus"), "--dry-run"]
    code, text, messages = run(*common, "--json")
    assert code == 0, messages
    recommended = json.loads(text)["recommended"]
    assert recommended["params_non_embedding"] == plan["params_non_embedding"] and recommended["tokens_pt"] <= 2e6
    assert recommended["tokens_spec"] == pytest.approx(plan["tokens_spec"], rel=0.1)
    code, _, messages = run(*common, "--target-flops", "1e14", "--spec-tokens", "1M")
    assert code == 2 and "--decision already states --target-flops, --spec-tokens" in " ".join(messages.split())
    (tmp_path / "law.json").write_text((tmp_path / "law.json").read_text() + " ")
    code, _, messages = run(*common)
    assert code == 2 and "has changed since" in messages and "allocate again" in " ".join(messages.split())


def test_runs_that_cost_more_than_the_decision_are_told_with_a_remedy_that_is_allowed(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {})
    answer = str(tmp_path / "a.json")
    asked = ["allocate", "--law", str(tmp_path / "law.json"), "--flops", "1e13", "--spec-tokens", "200k", "--out", answer]
    assert CliRunner().invoke(app, asked).exit_code == 0
    code, _, messages = run("--flops", "2e13", "--decision", answer, "--criterion", "I", "--dry-run")
    messages = " ".join(messages.split())
    assert code == 0 and "times the target budget: give them fewer FLOPs" in messages and "--target-flops" not in messages


def test_decisions_of_less_than_a_pass_and_of_older_answers(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {})
    answer = tmp_path / "a.json"
    asked = ["allocate", "--law", str(tmp_path / "law.json"), "--flops", "1e14", "--spec-tokens", "2M", "--max-epochs", "0.5", "--out", str(answer)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    code, _, messages = run("--flops", "5e12", "--decision", str(answer), "--corpus", str(tmp_path / "corpus"), "--dry-run")
    assert code == 0, messages
    body = json.loads(answer.read_text())
    answer.write_text(json.dumps(body | {"kind": "domains"}))
    code, _, messages = run("--flops", "5e12", "--decision", str(answer))
    assert code == 2 and "is an answer for many domains" in " ".join(messages.split()) and "--next-runs" in messages
    del body["source"]["law_path"]
    answer.write_text(json.dumps(body))
    code, _, messages = run("--flops", "5e12", "--decision", str(answer))
    assert code == 2 and "does not say where its law is" in " ".join(messages.split())


def test_the_hint_of_plan_allocate_runs(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {})
    answer = str(tmp_path / "a.json")
    result = CliRunner().invoke(app, ["allocate", "--law", str(tmp_path / "law.json"), "--flops", "2e15", "--spec-tokens", "200k", "--out", answer])
    hint = next(line for line in " ".join(result.stderr.split()).split("plan sweep design ")[1:])
    assert hint.startswith(f"--flops BUDGET --decision {answer}")
    code, _, messages = run("--flops", "5e12", "--decision", answer, "--corpus", str(tmp_path / "corpus"), "--dry-run")
    assert code == 0, messages


@pytest.fixture
def sweep(corpus: Corpus, tmp_path: Path) -> Path:
    axes = 'sizes = ["20k", "60k", "180k"]\ntokens_pt = [0, "300k", "1M"]\ntokens_spec = [0, "100k", "300k"]\nunique_spec = ["20k", "60k"]\n'
    recipe = "[recipe]\nseq_len = 32\nbatch_sequences = 8\nwarmup_steps = 20\n"
    (tmp_path / "sweep.toml").write_text(f'corpus = "{corpus.folder.resolve()}"\nmax_epochs = 16\n{axes}{recipe}', encoding="utf-8")
    return tmp_path


def test_without_a_law_a_prior_is_a_remedy(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep)
    code, _, messages = run(".", "--flops", "5e12")
    assert code == 2 and "there is no law.json" in messages and "or --prior where nothing is fitted yet" in messages


def test_a_design_from_a_prior_and_a_check(sweep: Path) -> None:
    out = sweep / "next" / "sweep.toml"
    arguments = [str(sweep), "--prior", "--form", "transfer-size-penalised"]
    axes = ["--sizes", "20k,40k,60k,110k,180k", "--tokens-pt", "0,300k,1M", "--tokens-spec", "0,60k,200k", "--unique-spec", "10k,40k"]
    code, text, messages = run(*arguments, *axes, "--flops", "5e12", "--out", str(out), "--json")
    assert code == 0, messages
    answer = json.loads(text)
    assert math.isfinite(answer["design"]["regret_percent"]) and answer["design"]["criterion"] < answer["naive"]["criterion"]
    assert "outside" not in answer and "law's parameters only" not in messages, "nothing is fitted, so nothing lies outside"
    planned = CliRunner().invoke(app, ["sweep", "plan", str(out.parent), "--json"])
    assert planned.exit_code == 0
    assert json.loads(planned.stdout)["flops"] == pytest.approx(answer["design"]["flops"])
    code, text, messages = run(*arguments, "--check")
    assert code == 0, messages
    assert "this design" in text
    (sweep / "sweep.toml").write_text((sweep / "sweep.toml").read_text().replace('["20k", "60k", "180k"]', '["60k"]'))
    code, _, messages = run(*arguments, "--check")
    assert code == 2 and "1 distinct model size" in messages


@pytest.mark.parametrize(
    ("arguments", "offender", "remedy"),
    [
        (["--flops", "1e6"], "too few for a tree", "give at least"),
        (["--flops", "5e12", "--sizes", "80k"], "1 distinct model size", "at least 3 sizes"),
        (["--flops", "5e12", "--criterion", "A"], "'A'", "V, I, D"),
        (["--flops", "5e12", "--prior"], "exclude each other", "leave one out"),
        (["--flops", "5e12", "--form", "chinchilla"], "--form chinchilla", "--prior"),
        (["--check"], "--check", "name the sweep"),
        ([], "--flops", "1e14"),
        (["--flops", "5e12", "--trunk-share", "1"], "--trunk-share 1", "below 1"),
        (["--flops", "5e12", "--max-epochs", "0.5"], "--max-epochs 0.5", "16"),
    ],
)
def test_bad_input_is_one_sentence_with_a_remedy(law: list[str], arguments: list[str], offender: str, remedy: str) -> None:
    code, text, messages = run(*law[:4], *arguments, "--out", "nowhere/sweep.toml")
    assert code == 2 and not text
    (error,) = (line for line in messages.splitlines() if line.startswith("error: "))
    assert offender in error and remedy in error


def test_a_law_of_runs_off_checkpoints_designs_nothing(fitted: FittedLaw, tmp_path: Path) -> None:
    replace(fitted, source={**fitted.source, "based": True}).save(tmp_path / "law.json", {})
    code, _, messages = run("--law", str(tmp_path / "law.json"), "--corpus", str(tmp_path / "corpus"), "--flops", "5e12", "--dry-run")
    assert code == 2 and "is of runs from checkpoints" in messages
