"""The runs that would say most about a choice among bases."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.base import Base
from planner.allocate.bases import allocate_bases
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.request import Request
from planner.cli.main import app
from planner.fit.fitted import FittedLaw
from planner.method import Method
from planner.next_runs.bases import target_of_bases
from tests.next_runs.shared import unsure

TEXTS = ("name=large,tokens=2M,params=300k,context=128,vocab=1024", "name=middle,tokens=4M,params=150k,context=128,vocab=1024",
         "name=tiny,tokens=1M,params=12k,context=128,vocab=1024")  # fmt: skip
BASES = [Base.parse(text) for text in TEXTS]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_the_region_is_the_bases_that_may_be_best_after_what_may_be_best(fitted: FittedLaw) -> None:
    request = Request(2e12, 2e5, inference_tokens=2e5, tolerance=0.01)
    target = target_of_bases(fitted, request, BASES, Method())
    plans = target.plans
    assert target.weights.sum() == pytest.approx(1) and (target.weights >= 0).all()
    answer = allocate_bases(fitted, request, BASES, Method())
    plan = answer.choices[0].plan
    assert (plans.params[target.best], plans.tokens_pt[target.best]) == (plan.params_non_embedding, plan.tokens_pt)
    assert plans.tokens_spec[target.best] == pytest.approx(plan.tokens_spec, rel=1e-4)
    # Under each resample, what lies within the tolerance of its own best, by an evaluation of every base at the same amounts.
    least = np.full(min(MOST_RESAMPLES, len(fitted.members[0].resamples)), np.inf)
    for base in BASES:
        most = (2e12 - base.flops_inference(2e5)) / Method().flops_per_token(base.shape, 128)
        spec = np.linspace(0, min(most, fitted.support.high["epochs_spec"] * 2e5), 1001)
        size = {"non_embedding": np.full(1001, float(base.shape.params_non_embedding)), "total": np.full(1001, float(base.params_total(1024)))}
        found = fitted.log_loss_resamples(fitted.points(size, np.full(1001, base.tokens), spec, np.full(1001, 2e5)), MOST_RESAMPLES)
        least = np.minimum(least, found.min(1))
    points = fitted.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
    share = (fitted.log_loss_resamples(points, MOST_RESAMPLES) <= least[:, None] + np.log1p(0.0101)).mean(0)
    assert ((share > 0) | (np.arange(len(plans)) == target.best)).all()
    assert set(plans.params) <= {float(base.shape.params_non_embedding) for base in BASES[:2]}, "the tiny one is never near the best"


def allocated(fitted: FittedLaw, folder: Path, *options: str) -> Path:
    fitted.save(folder / "law.json", {})
    out = folder / "bases.json"
    bases = [item for text in TEXTS for item in ("--base", text)]
    code, _, err = run("allocate", "--law", str(folder / "law.json"), "--flops", "2e12", "--spec-tokens", "200k", *bases, "--out", str(out), *options)
    assert code == 0, err
    return out


def test_a_design_for_a_choice_among_bases(fitted: FittedLaw, tmp_path: Path) -> None:
    answer = allocated(unsure(fitted, 3.0), tmp_path)
    common = ["sweep", "design", "--decision", str(answer), "--corpus", str(tmp_path / "corpus"), "--dry-run", "--json"]
    code, out, err = run(*common, "--flops", "5e12")
    assert code == 0, err
    found, plan = json.loads(out), json.loads(answer.read_text())["choices"][0]["plan"]
    assert found["recommended"]["params_non_embedding"] == plan["params_non_embedding"] and found["recommended"]["tokens_pt"] == plan["tokens_pt"]
    assert found["recommended"]["tokens_spec"] == pytest.approx(plan["tokens_spec"], rel=1e-4)
    assert found["before"]["deviation_percent"] > found["design"]["deviation_percent"] and found["naive"]["criterion"] > found["design"]["criterion"]
    assert found["design"]["regret_percent"] < found["before"]["regret_percent"]
    # Another question at the same budget, a model of one's own, has another plan at stake.
    other = run("sweep", "design", "--law", str(tmp_path / "law.json"), "--corpus", str(tmp_path / "corpus"), "--dry-run", "--json", "--flops", "5e12",
                "--target-flops", "2e12", "--spec-tokens", "200k")  # fmt: skip
    assert json.loads(other[1])["recommended"]["params_non_embedding"] != plan["params_non_embedding"]


def test_plan_allocate_prints_them(fitted: FittedLaw, corpus_law: FittedLaw, tmp_path: Path) -> None:
    unsure(corpus_law, 3.0).save(tmp_path / "law.json", {})
    bases = [item for text in TEXTS for item in ("--base", text)]
    code, out, err = run("allocate", "--law", str(tmp_path / "law.json"), "--flops", "2e12", "--spec-tokens", "200k", *bases, "--out",
                         str(tmp_path / "bases.json"), "--next-runs", "5e12")  # fmt: skip
    assert code == 0, err
    assert "Plans within 0.5 % of each base's best" in out and "this design" in out and "naive grid" in out
    assert not (tmp_path / "next").exists()
    # As sure as the law is in truth one base is so far ahead that there is next to nothing to lose.
    answer = allocated(fitted, tmp_path, "--next-runs", "5e12")
    assert "no run would change this decision" in run("sweep", "design", "--decision", str(answer), "--dry-run", "--flops", "5e12")[2]


@pytest.fixture
def corpus_law(fitted: FittedLaw) -> FittedLaw:
    return replace(fitted, source={**fitted.source, "corpus_path": "corpus"})


def test_bases_beyond_any_run_are_refused_in_one_sentence(fitted: FittedLaw, tmp_path: Path) -> None:
    fitted.save(tmp_path / "law.json", {})
    out = tmp_path / "bases.json"
    code, _, err = run("allocate", "--law", str(tmp_path / "law.json"), "--flops", "1e21", "--spec-tokens", "30B", "--base",
                       "name=seven,tokens=2T,params=7B", "--allow-extrapolation", "--out", str(out))  # fmt: skip
    assert code == 0, err
    code, text, err = run("sweep", "design", "--decision", str(out), "--corpus", str(tmp_path / "corpus"), "--dry-run", "--flops", "5e12")
    (error,) = (line for line in err.splitlines() if line.startswith("error: "))
    assert code == 2 and not text and "too far beyond any run to design for them: model size 7" in error
    assert "give a budget that pays for runs of 7" in error


@pytest.mark.parametrize("key", ["bases", "method"])
def test_answers_without_what_was_asked_are_refused(fitted: FittedLaw, tmp_path: Path, key: str) -> None:
    answer = allocated(fitted, tmp_path)
    body = json.loads(answer.read_text())
    del body["request"][key]
    answer.write_text(json.dumps(body))
    code, text, err = run("sweep", "design", "--decision", str(answer), "--flops", "5e12")
    assert code == 2 and not text and err.count("\n") == 1 and ("older version" in err if key == "bases" else "'method'" in err)


def test_bases_that_are_none_are_refused(fitted: FittedLaw, tmp_path: Path) -> None:
    answer = allocated(fitted, tmp_path)
    body = json.loads(answer.read_text())
    for change in ({"tokens": -1.0}, {"context": "long"}, {"shape": {}}, {"shape": {**body["request"]["bases"][0]["shape"], "layers": 0}}):
        broken = {**body, "request": {**body["request"], "bases": [{**body["request"]["bases"][0], **change}]}}
        answer.write_text(json.dumps(broken))
        code, text, err = run("sweep", "design", "--decision", str(answer), "--flops", "5e12")
        assert code == 2 and not text and err.count("\n") == 1 and err.startswith("error: "), change


def test_a_law_that_changed_is_refused(fitted: FittedLaw, tmp_path: Path) -> None:
    answer = allocated(fitted, tmp_path)
    (tmp_path / "law.json").write_text((tmp_path / "law.json").read_text() + " ")
    code, _, err = run("sweep", "design", "--decision", str(answer), "--flops", "5e12")
    assert code == 2 and "has changed since" in err
