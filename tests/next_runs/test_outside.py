"""What a design beside a law takes for granted, told and, where nothing else is left, refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.allocate.allocate import allocate
from planner.allocate.request import Request
from planner.cli.main import app
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.level import Z
from planner.next_runs.candidates import Setting, candidates
from planner.next_runs.outside import TOO_SMALL, Outside, enough
from planner.next_runs.target import Target
from planner.recipe import Recipe
from planner.units import parse_flops
from tests.next_runs.shared import SETTING
from tests.next_runs.test_one_stage import old

REQUEST = Request(1e14, 2e5)


def test_the_forecast_is_that_of_plan_allocate_and_the_drift_is_in_it(fitted: FittedLaw) -> None:
    law, given = replace(fitted, drift=0.03), candidates(SETTING, 1e13, unique_target=2e5)
    target = Target.of(law, REQUEST)
    found, bare = Outside.of(law, given, target), Outside.of(fitted, given, target)
    plan = allocate(law, REQUEST).plan
    assert (found.loss, found.loss_low, found.loss_high) == pytest.approx((plan.loss, plan.loss_low, plan.loss_high), rel=1e-2)
    deviation, undrifted = (np.log(one.loss / one.loss_low) / Z for one in (found, bare))
    assert deviation**2 - undrifted**2 == pytest.approx((found.drift_percent**2 - bare.drift_percent**2) / 1e4)
    assert found.half_width_percent == pytest.approx(50 * (found.loss_high - found.loss_low) / found.loss)


@pytest.mark.parametrize("flops", [1e12, 1e13, 1e16])
def test_runs_are_held_against_the_box_of_the_law(fitted: FittedLaw, flops: float) -> None:
    law, given = replace(fitted, drift=0.03), candidates(SETTING, flops, unique_target=2e5)
    target = Target.of(law, REQUEST)
    found = Outside.of(law, given, target)
    params, tokens = given.params_by["non_embedding"], given.tokens[0]
    assert found.above["params"] == pytest.approx(max(1, params.max() / 3.2e5)) and found.below["params"] == pytest.approx(max(1, 2e4 / params.min()))
    assert found.above["tokens_pt"] == pytest.approx(max(1, tokens.max() / 4.5e6)) and found.below["tokens_pt"] == 1, "the law has runs with none"
    assert (found.runs, 0 <= found.runs_outside <= found.runs) == (len(given), True)
    assert 0 <= found.drift_after_percent <= found.drift_percent
    assert (found.drift_after_percent < 0.5 * found.drift_percent) == (flops == 1e16)


def test_runs_inside_those_of_the_law_take_nothing_from_the_drift(fitted: FittedLaw) -> None:
    law, given = replace(fitted, drift=0.03), candidates(SETTING, 1e13, unique_target=2e5)
    inside = given.subset(law.support.distance(given.params_by["non_embedding"], *given.tokens) == 0)
    found = Outside.of(law, inside, Target.of(law, REQUEST))
    assert len(inside) > 10 and found.drift_after_percent == found.drift_percent > 0 == found.runs_drift_percent
    assert "no less: only runs closer" in next(found.warnings())


def test_an_axis_that_the_law_has_no_run_on(fitted: FittedLaw) -> None:
    general = replace(fitted.support, high={**fitted.support.high, "tokens_spec": 0.0, "unique_spec": 0.0, "epochs_spec": 0.0})
    target = Target.of(fitted, REQUEST)
    found = Outside.of(replace(fitted, support=general, drift=0.0), candidates(SETTING, 1e13, unique_target=2e5), target)
    assert any("specialist tokens, which those lack" in said and "by any amount" in said for said in found.warnings())


@pytest.mark.parametrize("setting", [SETTING, Setting(Recipe(), 1, np.inf, 1.0, special=False), Setting(Recipe(), 32000, 1e9, 8.0, general=False)])
@pytest.mark.parametrize("least", [2e4, 1e6, 5.7e7, 1e9])
def test_what_is_named_as_enough_pays_runs_of_the_sizes_of_the_law(setting: Setting, least: float) -> None:
    for middle in (least, 15 * least):
        given = candidates(setting, enough(setting, least), unique_target=2e5, smallest=middle)
        assert given.params_by["non_embedding"].min() > 0.9 * least


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """File a law of runs of 20M to 400M parameters, whose form drifts."""
    replace(fit(old(np.random.default_rng(0)), "chinchilla", resamples=40, largest=False), drift=0.02).save(tmp_path / "law.json", {})
    return tmp_path / "law.json"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def test_runs_far_below_those_of_the_law_are_refused_and_the_remedy_helps(large: Path) -> None:
    design = ["sweep", "design", "--law", str(large), "--dry-run"]
    code, out, err = run(*design, "--flops", "1e14")
    assert code == 2 and not out and err.count("error: ") == 1
    assert "below the law's smallest (20M)" in err and f"the limit is {TOO_SMALL:g}×" in err and "--prior" in err
    budget = re.search(r"give at least (\S+) FLOPs", err)
    assert budget is not None
    code, out, err = run(*design, "--flops", budget[1], "--json")
    assert code == 0 and parse_flops(budget[1]) > 1e17, err
    found = json.loads(out)
    assert found["outside"]["below"]["params"] < 1.1 and "law's parameters only" in " ".join(found["warnings"])
    code, _, err = run(*design, "--flops", "1e14", "--sizes", "200k,300k,400k", "--target-flops", "1e20")
    assert code == 2 and "at most 39" in err and "take sizes from 20M" in err


def test_the_drift_is_told_by_the_design_and_by_plan_allocate(large: Path) -> None:
    answer = str(large.with_name("a.json"))
    asked = ["allocate", "--law", str(large), "--flops", "1e22", "--out", answer]
    code, out, err = run(*asked, "--next-runs", "1e18")
    assert code == 0, err
    plan = json.loads(Path(answer).read_text())["plan"]
    other = run("sweep", "design", "--decision", answer, "--flops", "1e18", "--dry-run")
    for said, warned in ((out, err), other[1:]):
        assert "both count uncertainty of the law's parameters only, not drift of its form" in said
        low, high = map(float, re.findall(r"nats/token, (\S+) to (\S+) \(90 %, a half-width of", said)[0])
        assert (low, high) == pytest.approx((plan["loss_low"], plan["loss_high"]), rel=3e-3)
        assert "warning: expected deviation and regret include the uncertainty of the law's parameters only" in warned
        assert "no less: only runs closer" in warned
        assert "runs lie outside those of the law, by up to: general tokens" in warned and "treats it as exact" in warned
    # The answer stands where its next runs are refused.
    Path(answer).unlink()
    code, _, err = run(*asked, "--next-runs", "1e14")
    assert code == 2 and "below the law's smallest" in err and Path(answer).is_file()


def test_runs_that_would_change_nothing_are_not_proposed(fitted: FittedLaw, tmp_path: Path) -> None:
    """Size, text and passes leave one plan: no refit would choose another, and none is proposed."""
    fitted.save(tmp_path / "law.json", {})
    answer = str(tmp_path / "a.json")
    law, budget = ["--law", str(tmp_path / "law.json"), "--flops", "2e13", "--spec-tokens", "200k"], ["--next-runs", "5e12"]
    design = ["sweep", "design", "--decision", answer, "--flops", "5e12", "--dry-run"]
    for bound, idle in ((["--params", "200k", "--general-tokens", "500k", "--max-epochs", "1"], True), ([], False)):
        code, out, err = run("allocate", *law, *bound, *budget, "--out", answer)
        assert code == 0 and ("no run would change this decision" in err) == idle == ("Design: " not in out), err
        code, out, err = run(*design, "--json")
        found = json.loads(out)
        assert code == 0 and ("no run would change this decision" in err) == idle == (not found["cells"])
        assert found["before"]["regret_percent"] < 0.01 or not idle
        assert found["design"]["flops"] <= 5e12 and (found["naive"] is None) == idle
        # What narrows the forecast, or the parameters, is another question.
        assert json.loads(run(*design, "--json", "--criterion", "I")[1])["cells"]
        # Nothing leads to a design that has nothing to say.
        assert ("plan sweep design --flops BUDGET" in run("allocate", *law, *bound, "--out", answer)[2]) != idle
