"""The forecast along a run, and what is said of the outcome before the end."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from planner.allocate.base import Base
from planner.allocate.replay_cost import cost
from planner.artifacts import sha256_file
from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.errors import InputError, PlannerWarning
from planner.fit.fitted import FittedLaw
from planner.launch.forecast_curve import find_law, forecast_curve
from planner.launch.full import settle
from planner.launch.launch import Launch, prepare
from planner.launch.watch import Tail
from planner.train.full.forecast_curve import LEAST_POINTS, POWER, Expected, ForecastCurve, evaluation_steps, extrapolate, judge
from planner.train.full.metrics import Metrics, read_metrics
from planner.train.full.plan import Settings
from tests.launch.test_launch_method import specialise_only
from tests.train.full.runs import GENERAL, STEPS, allocation
from tests.train.shared import checkpoint

END = Expected(100, 6400.0, 3.0, 2.9, 3.1)
COURSE = ForecastCurve((Expected(40, 2560.0, 3.6, 3.5, 3.7), Expected(60, 3840.0, 3.3, 3.2, 3.4), END))


def with_law(corpus: Corpus, fitted: FittedLaw, folder: Path) -> Launch:
    fitted.save(folder / "law.json", {})
    body = allocation(corpus)
    body = replace(body, source={**body.source, "law_path": "law.json"})
    body.save(folder / "a.json", {"law": sha256_file(folder / "law.json")})
    return prepare(folder / "a.json", folder / "run")


def test_the_forecast_along_a_run_is_the_laws(corpus: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:
    ready = with_law(corpus, fitted, tmp_path)
    run = settle(ready.run, 1, Settings())
    law = find_law(ready, None)
    assert law is not None
    found = forecast_curve(ready, run, law)
    assert [point.step for point in found.points] == [*run.settings.evaluate_at, STEPS]
    plan, per_step = ready.allocation.plan, run.recipe.tokens_per_step
    assert (found.points[-1].loss, found.points[-1].low) == (plan.loss, plan.loss_low)  # the plan's own word stands
    for point in found.points[:-1]:
        pt, spec = min(point.step, GENERAL) * per_step, max(0, point.step - GENERAL) * per_step
        size = {"non_embedding": np.array([plan.params_non_embedding]), "total": np.array([plan.params_total])}
        direct = law.forecast(size, np.array([pt]), np.array([spec]), np.array([plan.unique_spec]), mean=True)
        assert point.tokens == pt + spec and point.loss == pytest.approx(float(direct.loss[0])) and point.high == pytest.approx(float(direct.high[0]))
        assert math.isfinite(point.loss)
    found.save(tmp_path)
    assert ForecastCurve.load(tmp_path) == found


def test_the_forecast_along_a_run_off_a_base_joins_the_plans_end(corpus: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:
    """The law counts the base's embeddings with its own vocabulary, and the general tokens that the base has had."""
    folder = checkpoint(tmp_path / "base", corpus)
    law = replace(fitted, members=tuple(replace(member, params_kind="total") for member in fitted.members))
    path = specialise_only(tmp_path, corpus, folder)
    body = json.loads(path.read_text())
    plan = body["choices"][0]["plan"]
    base = Base.parse(f"name=b,tokens={plan['tokens_pt']:.0f},config={folder}")
    assert base.params_total(1024) != plan["params_total"]
    end = law.forecast(  # as planner.allocate.bases has it
        {"non_embedding": [plan["params_non_embedding"]], "total": [base.params_total(1024)]}, [base.tokens], [plan["tokens_spec"]], [plan["unique_spec"]],
        mean=True,
    )  # fmt: skip
    plan.update(loss=float(end.loss[0]), loss_low=float(end.low[0]), loss_high=float(end.high[0]))
    path.write_text(json.dumps(body))
    ready = prepare(path, tmp_path / "run", base=folder)
    run = settle(ready.run, 1, Settings())
    run = replace(run, settings=replace(run.settings, evaluate_at=(run.steps - 1,)))
    before, last = forecast_curve(ready, run, law).points
    assert (last.loss, last.high) == (plan["loss"], plan["loss_high"])
    assert before.loss == pytest.approx(last.loss, rel=1e-3) and before.high == pytest.approx(last.high, rel=1e-3)


def test_what_replay_costs_is_in_the_forecast_along_the_run(corpus: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:
    """As it is in the plan's own; on top of a base what is replayed makes up for the cost and no more."""
    ready = with_law(corpus, fitted, tmp_path)
    run, plan = settle(ready.run, 1, Settings()), ready.allocation.plan
    at = (*(step for step in run.settings.evaluate_at if step <= GENERAL), STEPS - 1)
    run = replace(run, settings=replace(run.settings, evaluate_at=at))
    kept = {"replay_fraction": 0.3, "tokens_replayed": 1.0}

    def of(share: float, sunk: float = 0.0) -> ForecastCurve:
        body = replace(ready.allocation, plan=replace(plan, replay_fraction=share), general=kept)
        return forecast_curve(replace(ready, allocation=body, sunk=sunk), run, fitted)

    free, paid = of(0.0).points, of(0.3).points
    for before, after in zip(free[:-1], paid[:-1], strict=True):
        added = float(cost(0.3)) if before.step > GENERAL else 0.0
        assert after.loss == pytest.approx(before.loss * math.exp(added)) and after.low <= before.loss
    assert paid[-2].step > GENERAL and paid[-2].high / paid[-2].loss > free[-2].high / free[-2].loss
    assert of(0.3, 1e4).points[-2].loss >= of(0.0, 1e4).points[-2].loss * math.exp(float(cost(0.3))) * (1 - 1e-9)


def test_the_folder_of_a_law_means_the_law(corpus: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:
    with_law(corpus, fitted, tmp_path)
    asked = ["launch", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"), "--dry-run", "--law", str(tmp_path)]
    assert CliRunner().invoke(app, asked).exit_code == 0


def test_another_law_is_refused_or_left_out(corpus: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:
    ready = with_law(corpus, fitted, tmp_path)
    replace(fitted, noise=0.1).save(tmp_path / "other.json", {})
    with pytest.raises(InputError, match="not the law that the plan was made with"):
        find_law(ready, tmp_path / "other.json")
    (tmp_path / "other.json").rename(tmp_path / "law.json")
    with pytest.warns(PlannerWarning, match="has changed"):
        assert find_law(ready, None) is None
    (tmp_path / "law.json").write_text("{")
    with pytest.warns(PlannerWarning, match="has changed"):
        assert find_law(ready, None) is None
    (tmp_path / "law.json").unlink()
    assert find_law(ready, None) is None
    assert len(forecast_curve(ready, settle(ready.run, 1, Settings()), None).points) == 1


def test_before_the_cooldown_only_a_loss_under_the_interval_or_far_above_says_anything() -> None:
    assert judge(COURSE, [(40, 3.9, 1.0)]) is None  # above: a constant rate is expected to be
    assert judge(COURSE, [(40, 3.55, 1.0)]) is None
    assert judge(COURSE, [(40, 4.62, 1.0)]) is None
    verdict = judge(COURSE, [(40, 4.63, 1.0)])
    assert verdict is not None and verdict.outside and "25 % above" in verdict.text
    verdict = judge(COURSE, [(40, 3.9, 1.0), (60, 3.19, 1.0)])
    assert verdict is not None and verdict.outside and "left below" in verdict.text
    assert judge(COURSE, [(50, 1.0, 1.0)]) is None  # no forecast was made for that step


def cooling(end: float, slope: float, noise: float = 0.0, points: int = 4) -> list[tuple[int, float, float]]:
    random = np.random.default_rng(0)
    return [(70 + k, end + slope * rate**POWER + noise * random.normal(), rate) for k, rate in enumerate(np.linspace(0.8, 0.1, points).tolist())]


@pytest.mark.parametrize(("end", "outside", "word"), [(3.0, False, "inside"), (3.4, True, "above"), (2.7, True, "below")])
def test_in_the_cooldown_the_end_is_read_off_the_rate(end: float, outside: bool, word: str) -> None:
    verdict = judge(COURSE, [(40, 3.9, 1.0), *cooling(end, 0.3)], stage_from=45)  # the first is of another text
    assert verdict is not None and verdict.outside == outside and word in verdict.text and f"heading for {end:.4f} " in verdict.text
    # Two losses before the cooldown are taken in by their mean.
    verdict = judge(COURSE, [(50, end + 0.4, 1.0), (60, end + 0.2, 1.0), *cooling(end, 0.3)], stage_from=45)
    assert verdict is not None and f"heading for {end:.4f} " in verdict.text


def test_a_run_far_outside_is_told_so_at_the_first_loss_in_its_cooldown() -> None:
    """Of three that lie there; one nearer by is told so later."""
    told = []
    for end in (3.0, 3.17, 3.4):
        losses = [(50, end + 0.2, 1.0), (60, end + 0.2, 1.0), *((70 + 10 * k, end + 0.2 * rate**POWER, rate) for k, rate in enumerate((0.5, 0.29, 0.13)))]
        verdicts = [judge(COURSE, losses[: 3 + k], stage_from=45) for k in range(3)]
        told.append([verdict is not None and verdict.outside for verdict in verdicts])
    assert told == [[False] * 3, [False, True, True], [True] * 3]


def test_a_loss_under_the_interval_in_the_cooldown_is_told_at_once() -> None:
    verdict = judge(COURSE, [(50, 3.5, 1.0), (60, 3.5, 1.0), (90, 2.89, 0.9)], stage_from=45)
    assert verdict is not None and verdict.outside and "below" in verdict.text


def test_noise_widens_what_is_said_and_too_few_points_say_nothing() -> None:
    assert judge(COURSE, cooling(3.4, 0.3, points=1)) is None
    verdict = judge(COURSE, cooling(3.1, 0.3, noise=0.1))
    assert verdict is not None and not verdict.outside  # above, but by less than can be told
    ends = []
    random = np.random.default_rng(3)
    for _ in range(400):
        rates = np.linspace(0.9, 0.1, 8)
        middle, error = extrapolate([(rate, 3.0 + 0.3 * rate**POWER + 0.1 * random.normal()) for rate in rates])
        ends.append(abs(middle - 3.0) < error)
    assert 0.86 < np.mean(ends) < 0.95  # 90 % promised; the error of 400 is 1.5 %


@pytest.mark.parametrize(("steps", "start", "count"), [(460, 397, 6), (72, 62, 5), (100_000, 70_000, 40), (10, 9, 4), (30, 0, 3)])
def test_losses_are_measured_before_and_in_the_cooldown(steps: int, start: int, count: int) -> None:
    found = evaluation_steps(steps, start, count)
    assert found == tuple(sorted(set(found))) and all(0 < step < steps for step in found)
    if steps - start > 4:
        assert sum(step > start for step in found) >= LEAST_POINTS
    assert evaluation_steps(steps, start, 0) == ()


def test_evaluations_on_the_way_cost_little(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    ready = prepare(tmp_path / "a.json", tmp_path / "run")
    counts = {}
    for eval_tokens, ranks in product((64, 640, 6400), (1, 2, 4)):
        spec = replace(ready.run.spec, eval_tokens=eval_tokens)
        run = settle(replace(ready.run, spec=spec), ranks, Settings())
        once = ranks * eval_tokens / 3  # every rank measures all of it
        counts[eval_tokens, ranks] = len(run.settings.evaluate_at)
        cost = counts[eval_tokens, ranks] * once
        assert cost <= 0.05 * run.steps * run.recipe.tokens_per_step + 3 * once  # three in the cooldown at least, if any
    assert counts[64, 1] > counts[64, 4] > 0 == counts[6400, 1]
    affordable = 0.05 * run.steps * run.recipe.tokens_per_step
    assert counts[64, 4] <= affordable / (4 * 64 / 3) < counts[64, 1]


@pytest.mark.parametrize("damage", [b"\x00\xff{}", b'{"kind": "st', b"[" * 100_000, b"7", b'{"kind": "step"}', b""])
def test_a_damaged_line_costs_that_line_only(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(tmp_path, Settings(), "run", resumed_at=0)
    for step in range(1, 6):
        metrics.write("step", step, loss=4.0)
    metrics.close()
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:], b""]))
    assert [line["step"] for line in Tail(path).new()] == [1, 2, 4, 5]
    Metrics(tmp_path, Settings(), "run", resumed_at=4).close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 4]


def test_a_follower_reads_on_after_a_rollback_and_not_half_a_line(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, Settings(), "run", resumed_at=0)
    tail = Tail(tmp_path / "metrics.jsonl")
    assert tail.new() == []
    for step in (1, 2, 3):
        metrics.write("step", step, loss=4.0)
    assert [line["step"] for line in tail.new()] == [1, 2, 3] and tail.new() == []
    metrics.rewind(1)
    metrics.write("step", 2, loss=math.nan)
    assert [(line["step"], line["loss"]) for line in tail.new()] == [(1, 4.0), (2, None)]
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "ste')
    assert tail.new() == []
    metrics = Metrics(tmp_path, Settings(), "run", resumed_at=1)  # a resumed run drops the half line and what it trains again
    metrics.close()
    assert [line["step"] for line in tail.new()] == [1]


def test_a_word_on_the_forecast_goes_with_the_steps_that_it_was_about(tmp_path: Path) -> None:
    """After a rollback the run is another one from there on; that there was one, and stops, stay told."""
    metrics = Metrics(tmp_path, Settings(), "run", resumed_at=0)
    for step in (2, 4):
        metrics.write("event", step, what="forecast", outside=step == 4, reason="heading")
    metrics.write("event", 4, what="rollback", reason="spike")
    metrics.rewind(3)
    metrics.close()
    assert [(line["step"], line["what"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [(2, "forecast"), (4, "rollback")]


def test_the_figure_shows_measured_beside_forecast() -> None:
    from planner.launch.watch import Progress
    from planner.report.loss_curve import loss_curve as draw
    from planner.report.style import sheet

    lines = [
        {"kind": "evaluation", "step": 40, "tokens": 2560, "loss_spec": 3.9, "rate_share": 1.0},
        {"kind": "evaluation", "step": 60, "tokens": 3840, "loss_spec": 3.5, "rate_share": 1.0},
        {"kind": "event", "step": 45, "what": "rollback", "reason": "spike"},
    ]
    progress = Progress("run", 100, 70, 64, COURSE, tuple(lines), {"status": "ok", "loss_spec": 3.05})
    _, (axis,) = sheet()
    draw(axis, progress)
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}
    assert drawn["measured"] == ([2560, 3840], [3.9, 3.5])
    assert drawn["forecast, if cooled down there"] == ([2560.0, 3840.0, 6400.0], [3.6, 3.3, 3.0])
    assert drawn["outcome"] == ([6400], [3.05])
    assert any(x == [45 * 64, 45 * 64] for x, _ in drawn.values())  # where the run was rolled back
