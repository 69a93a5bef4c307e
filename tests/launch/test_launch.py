"""An allocation carried out on real text, its checkpoint loaded, its outcome held against the forecast."""

import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from planner.allocate.allocation import Allocation, Arm, Plan
from planner.allocate.early import NAME
from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.engines.local import LocalEngine
from planner.errors import DataError, InputError, StateError
from planner.flops import flops_per_token
from planner.ladder import shape_for
from planner.launch.launch import begin, prepare
from planner.runs import read_runs
from planner.verify import verify
from tests.cli.test_commands import run
from tests.conftest import TINY_RECIPE
from tests.launch.segments import carry_out

pytest.importorskip("torch")

from tests.train.full.runs import forks  # noqa: E402  (it imports torch)

KEPT = {"loss": 3.0, "loss_low": 2.9, "loss_high": 3.1}
"""Of a plan under a limit on the general loss."""


def allocation(corpus: Corpus) -> Allocation:
    """A plan of 250 general and 210 specialist steps for a model of 10k parameters."""
    shape = shape_for(1e4, family="qwen3", vocab=corpus.vocab_size)
    pt, spec, size = 250 * 64.0, 210 * 64.0, float(shape.params_non_embedding)
    flops = (pt + spec) * flops_per_token(shape, 32)
    plan = Plan(
        size, float(shape.params_total), pt, spec, 5000.0, spec / 5000, spec / (pt + spec), flops, 6 * size * (pt + spec), 4.0, 2.0, 5.6, shape.to_dict()
    )  # fmt: skip
    source = {
        "recipe": TINY_RECIPE.to_dict(), "vocab_size": corpus.vocab_size, "corpus": corpus.fingerprint, "corpus_path": str(corpus.folder),
        "domain": "mail", "eval_tokens": 640,
    }  # fmt: skip
    span = (0.4, 0.5)
    return Allocation({}, plan, plan, span, (size, size), span, (size, size), 0.1, 0.2, (), {"flops": 1.0}, (), {"share": [], "loss": []}, source)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    allocation(corpus).save(folder / "allocation.json", {})
    ready = prepare(folder / "allocation.json", folder / "run")
    row = carry_out(ready)
    assert row["status"] == "ok" and row["tokens_pt"] == 16000 and row["tokens_spec"] == 13440
    assert row["flops"] == pytest.approx(ready.allocation.plan.flops)
    return folder / "run"


def test_replay_is_laid_out_inside_the_specialist_stage(corpus: Corpus, tmp_path: Path) -> None:
    """A fifth of the stage is general text, taken from the plan's general tokens: 52.5 of 250 steps."""
    replayed = replace(allocation(corpus), general={**KEPT, "replay_fraction": 0.2, "tokens_replayed": 0.25 * 210 * 64.0})
    replayed.save(tmp_path / "allocation.json", {})
    ready = prepare(tmp_path / "allocation.json", tmp_path / "run")
    cell, tip = ready.run.cells[0], ready.run.tree.tips[0]
    assert cell.replay_fraction == 0.2 and tip.steps_pt == round(250 - 52.5) and tip.last_step == round(210 / 0.8)
    realised = {name: (planned, real) for name, planned, real in ready.realised()}
    for name in ("tokens_pt", "tokens_spec", "flops"):
        assert realised[name][1] == pytest.approx(realised[name][0], rel=0.01)


@pytest.mark.slow
def test_an_arm_is_launched_and_held_against_its_own_forecast(corpus: Corpus, tmp_path: Path) -> None:
    """Specialist text mixed in from the start, which no recommendation has: as the sweep's loop trains such a cell, on the way and in the record."""
    answer = allocation(corpus)
    plan = replace(answer.plan, unique_spec=float(corpus.subset("mail", 5000).size))
    general, spec, flops = 90 * 64.0, 30 * 64.0, 120 / 460 * plan.flops
    mixed = replace(plan, tokens_pt=general, tokens_spec=spec, share_spec=0.25, flops=flops, loss=5.0, loss_low=3.0, loss_high=5.9)
    half = replace(mixed, share_spec=0.5)
    arms = (Arm("specialist only", None, None, None), Arm(NAME, mixed, 1.0, 0.7), Arm("50/50", half, 1.0, 0.7), Arm("90/10", half, 1.0, 0.7))
    replace(answer, plan=plan, arms=arms).save(tmp_path / "a.json", {})
    with forks():
        code, _, words = run("launch", str(tmp_path / "a.json"), "--arm", "mixed in", "--out", str(tmp_path / "run"), "--threads", "1")
    assert code == 0, words
    ready = prepare(tmp_path / "a.json", tmp_path / "alone", arm=NAME)
    assert ready.realised()[1:3] == [("tokens_pt", general, general), ("tokens_spec", spec, spec)]
    (record,) = (tmp_path / "run" / "records").iterdir()
    row, alone = read_json(record)["row"], carry_out(ready)
    assert (row["branch_kind"], row["early_fraction"], row["tokens_pt"], row["tokens_spec"]) == ("mixed", 0.25, general, spec)
    assert row["loss_spec"] == alone["loss_spec"] and row["flops"] == alone["flops"]
    result = verify(tmp_path / "run")
    assert (result.forecast, result.low, result.high, result.measured) == (5.0, 3.0, 5.9, row["loss_spec"])
    replace(answer, arms=(Arm("broken", replace(mixed, replay_fraction=1.0), 1.0, 0.7),)).save(tmp_path / "b.json", {})
    with pytest.raises(InputError, match="replay_fraction.*the arm broken"):
        prepare(tmp_path / "b.json", tmp_path / "broken", arm="broken")
    for change in ({"share_spec": 1.0}, {"share_spec": 0.0}, {"tokens_pt": 0.0}):
        replace(answer, arms=(Arm(NAME, replace(mixed, **change), 1.0, 0.7),)).save(tmp_path / "b.json", {})
        with pytest.raises(InputError, match="tokens, a share of .*, of the arm mixed in from the start"):
            prepare(tmp_path / "b.json", tmp_path / "broken", arm=NAME)
    began = tmp_path / "run" / "launch.json"
    was = began.read_text(encoding="utf-8")
    began.write_text(was.replace(f'"arm": "{NAME}",', ""), encoding="utf-8")
    with pytest.raises(StateError, match="records a forecast of 5.0, and the recommendation has 4; restore its arm"):
        verify(tmp_path / "run")
    began.write_text(was, encoding="utf-8")
    for options, said in (
        ((), "holds mixed in from the start, not the recommendation; give its --arm"),
        (("--arm", "only"), "--arm 'only' matches no arm of the answer that has a plan; choose one of 'mixed in from the start', '50/50'"),
        (("--arm", "0"), "--arm '0' is part of several arms' names; choose one of"),
        (("--arm", "50/50", "--export", "megatron"), "--export megatron writes the recommendation"),
    ):
        code, _, words = run("launch", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"), "--threads", "1", *options)
        assert code == 2 and said in words, words


def test_the_checkpoint_loads_with_its_tokenizer(launched: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(launched / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(launched / "checkpoint")
    ids = torch.tensor([tokenizer("def message_from_string(s, *args, **kws):")["input_ids"]])
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss < 5.0  # ln 300 = 5.7 untrained
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_the_run_ends_where_the_sweeps_cell_ends(launched: Path, corpus: Corpus, tmp_path: Path) -> None:
    """Cut into pieces or not, the launched run is the cell that a sweep would train."""
    from planner.design.tree import build_tree
    from planner.sweep import run_sweep, single_run

    ready = prepare(launched / "allocation.json", tmp_path / "whole")
    cell = ready.run.cells[0]
    tree = build_tree([cell], TINY_RECIPE, corpus.vocab_size, eval_tokens=640, shapes={cell.size: ready.allocation.plan.model_shape})
    assert len(tree.segments) < len(ready.run.tree.segments)
    whole = single_run(replace(ready.run.spec, folder=tmp_path / "whole"), corpus, "mail", tree)
    assert run_sweep(whole, LocalEngine(1)) == {}
    rows = [read_json(next((folder / "records").iterdir()))["row"]["loss_spec"] for folder in (launched, tmp_path / "whole")]
    assert rows[0] == rows[1]


@pytest.mark.filterwarnings("ignore:.* is realised")  # a small corpus, in whole windows
def test_launching_again_trains_nothing(launched: Path) -> None:
    record = next((launched / "records").iterdir())
    before = record.read_bytes()
    code, _, words = run("launch", str(launched / "allocation.json"), "--out", str(launched))
    assert code == 0 and f"{json.loads(before)['row']['loss_spec']:.4f}" in words and record.read_bytes() == before
    assert not (launched / "full.json").exists(), "nothing was laid down"


def test_verify_holds_the_outcome_against_the_forecast(launched: Path) -> None:
    result = verify(launched)
    measured = read_json(next((launched / "records").iterdir()))["row"]["loss_spec"]
    assert result.measured == measured
    assert result.error == pytest.approx(4.0 - measured) and result.error_percent == pytest.approx(100 * (4.0 - measured) / measured)
    assert result.inside == (2.0 <= measured <= 5.6)
    assert read_json(launched / "verification.json")["inside"] == result.inside
    row = read_runs(launched / "runs.csv").iloc[0]  # by which a fit takes it in
    assert (row["run_id"], row["loss_spec"], row["status"]) == (result.run_id, measured, "ok") and row["recipe"] and row["corpus"]


def test_verify_writes_no_table_over_somebody_elses(launched: Path) -> None:
    place = launched / "runs.csv"
    place.write_text("my table,1\n")
    try:
        with pytest.raises(InputError, match="is no table of runs"):
            verify(launched)
        assert place.read_text() == "my table,1\n"
    finally:
        place.unlink()
    verify(launched)
    verify(launched)


def test_a_forecast_younger_than_the_run_is_refused(launched: Path) -> None:
    path = launched / "launch.json"
    whole = path.read_text()
    body = json.loads(whole)
    body["started"] = "2020-01-01T00:00:00+00:00"
    try:
        path.write_text(json.dumps(body))
        with pytest.raises(StateError, match="younger than the run"):
            verify(launched)
    finally:
        path.write_text(whole)


def test_a_changed_forecast_is_refused(launched: Path) -> None:
    path = launched / "allocation.json"
    whole = path.read_text()
    try:
        path.write_text(whole.replace('"loss_high": 5.6', '"loss_high": 9.6'))
        with pytest.raises(StateError, match="launched with"):
            verify(launched)
        with pytest.raises(StateError, match="another allocation"):
            begin(prepare(path, launched))
    finally:
        path.write_text(whole)


def test_a_plan_that_is_stamped_later_than_now_is_refused_before_it_is_trained(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    body = read_json(tmp_path / "a.json")
    for ahead in (timedelta(minutes=2), timedelta(minutes=-2)):
        created = (datetime.now(timezone.utc) + ahead).isoformat()
        (tmp_path / "a.json").write_text(json.dumps({**body, "created": created}))
        ready = prepare(tmp_path / "a.json", tmp_path / "run")
        if ahead > timedelta(0):
            with pytest.raises(StateError, match=f"was made at {re.escape(created)}, but the clock here shows .*; correct this machine's clock"):
                begin(ready)
            assert not (tmp_path / "run").exists()
    begin(ready)


def test_a_start_killed_before_its_launch_json_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    ready = prepare(tmp_path / "a.json", tmp_path / "run")
    begin(ready)
    (tmp_path / "run" / "launch.json").unlink()
    for name in ("runner.lock", ".runner.lock.1f", ".allocation.json.abc"):
        (tmp_path / "run" / name).write_text("")
    begin(ready)
    assert read_json(tmp_path / "run" / "launch.json")["run_id"] == ready.name
    (tmp_path / "run" / "launch.json").unlink()
    (tmp_path / "run" / "allocation.json").write_text("{}")  # another plan's
    with pytest.raises(StateError, match="is not empty and holds no launch"):
        begin(ready)


def test_a_plan_that_the_corpus_cannot_carry_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    answer = allocation(corpus)
    replace(answer, plan=replace(answer.plan, unique_spec=1e9)).save(tmp_path / "a.json", {})
    with pytest.raises(DataError, match="1B distinct specialist tokens"):
        prepare(tmp_path / "a.json", tmp_path / "run")
    replace(answer, source={**answer.source, "corpus": "other"}).save(tmp_path / "b.json", {})
    with pytest.raises(InputError, match="fingerprint"):
        prepare(tmp_path / "b.json", tmp_path / "run")
    assert not (tmp_path / "run").exists()
