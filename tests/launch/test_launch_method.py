"""Launches off an open checkpoint and with adapters: what is planned is what is trained, and the merged checkpoint is what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.allocate.allocation import Allocation, Plan
from planner.artifacts import write_artifact
from planner.corpus.store import Corpus
from planner.errors import InputError
from planner.launch.launch import prepare
from planner.method import TARGETS, Method
from planner.pretrained import Pretrained
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from planner.verify import verify
from tests.conftest import TINY_RECIPE
from tests.launch.segments import carry_out
from tests.launch.test_launch import allocation
from tests.train.shared import InlineEngine, checkpoint, lay_out

torch = pytest.importorskip("torch")


def specialise_only(folder: Path, corpus: Corpus, base: Path, method: str = "full", rank: int = 4, targets: tuple[str, ...] = TARGETS) -> Path:
    """Write an answer of `plan allocate --base`: 300 steps on specialist text, after 2M tokens of somebody else's."""
    shape = Pretrained.open(base).shape
    spec, size = 300 * 64.0, float(shape.params_non_embedding)
    plan = Plan(size, float(shape.params_total), 2e6, spec, 5000.0, spec / 5000, 0.01, 1e9, 1e9, 4.0, 0.1, 9.0, shape.to_dict())
    recipe = {**replace(TINY_RECIPE, lora_rank=4).to_dict()}
    source = {"recipe": recipe, "vocab_size": corpus.vocab_size, "corpus": corpus.fingerprint, "corpus_path": str(corpus.folder), "domain": "mail",
              "eval_tokens": 640}  # fmt: skip
    body = {
        "request": {"method": {"name": method, "rank": rank, "targets": list(targets)}},
        "choices": [{"plan": plan.__dict__, "extrapolation": {"flops": 1.0}}], "warnings": [],
        "source": source,
    }  # fmt: skip
    write_artifact(folder / "allocation.json", "bases", 1, body)
    return folder / "allocation.json"


@pytest.mark.parametrize(("kind", "method"), [("llama", "full"), ("llama", "lora"), ("gpt2", "full"), ("gpt_neox", "lora")])
def test_a_specialise_only_plan_starts_from_its_base(tmp_path: Path, corpus: Corpus, kind: str, method: str) -> None:
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss

    base = checkpoint(tmp_path / "base", corpus, kind)
    path = specialise_only(tmp_path, corpus, base, method)
    with pytest.raises(InputError, match="starts from an open checkpoint; name its folder with --base"):
        prepare(path, tmp_path / "run")
    ready = prepare(path, tmp_path / "run", base=base)
    assert {name: planned == realised for name, planned, realised in ready.realised() if name != "flops"}["tokens_pt"]
    tip = ready.run.tree.tips[0]
    assert tip.steps_pt == 0 and tip.method == method and ready.run.tree.segments[0].parent_id is None
    row = carry_out(ready, InlineEngine())
    assert row["branch_kind"] == "annealed" and row["base_tokens"] == 2e6 and row["method"] == method
    model = AutoModelForCausalLM.from_pretrained(ready.checkpoint)
    loss, _ = heldout_loss(model, corpus.tokens("mail", "heldout"), 32, max_tokens=640, device=torch.device("cpu"))
    assert loss == pytest.approx(row["loss_spec"], rel=1e-5)
    assert (tmp_path / "run" / "adapter").is_dir() == (method == "lora")
    assert not list((tmp_path / "run" / "state").glob("*.safetensors"))
    assert verify(tmp_path / "run").measured == row["loss_spec"]


def test_a_base_is_launched_with_the_replay_of_its_plan(tmp_path: Path, corpus: Corpus) -> None:
    """A fifth of the stage is general text; none of it counts as tokens that the base has had."""
    base = checkpoint(tmp_path / "base", corpus)
    path = specialise_only(tmp_path, corpus, base)
    body = json.loads(path.read_text())
    choice = body["choices"][0]
    replayed = choice["plan"]["tokens_spec"] / 4
    choice["general"] = {"replay_fraction": 0.2, "tokens_replayed": replayed}
    choice["plan"]["tokens_pt"] += replayed
    path.write_text(json.dumps(body))
    ready = prepare(path, tmp_path / "run", base=base)
    tip = ready.run.tree.tips[0]
    assert (tip.replay_fraction, tip.steps_pt, ready.sunk) == (0.2, 0, 2e6)
    assert tip.last_step == pytest.approx(300 / 0.8, abs=1)
    realised = {name: (planned, got) for name, planned, got in ready.realised()}
    assert realised["tokens_pt"][1] == pytest.approx(realised["tokens_pt"][0], rel=1e-4)
    assert realised["tokens_spec"][1] == pytest.approx(realised["tokens_spec"][0], rel=0.01)


def test_a_plan_that_trains_nothing_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    base = checkpoint(tmp_path / "base", corpus)
    path = specialise_only(tmp_path, corpus, base)
    body = json.loads(path.read_text())
    body["choices"][0]["plan"] |= {"tokens_spec": 0.0, "flops": 0.0}
    path.write_text(json.dumps(body))
    with pytest.raises(InputError, match="trains nothing: its base stays as it is"):
        prepare(path, tmp_path / "run", base=base)


def test_adapters_are_those_that_the_plan_was_counted_with(tmp_path: Path, corpus: Corpus) -> None:
    base = checkpoint(tmp_path / "base", corpus)
    ready = prepare(specialise_only(tmp_path, corpus, base, "lora", 2, ("q_proj",)), tmp_path / "run", base=base)
    recipe = ready.run.spec.recipe
    assert (recipe.lora_rank, recipe.lora_targets) == (2, ("q_proj",))
    tip = ready.run.tree.tips[0]
    assert ready.run.tree.flops_of_run(tip) == 300 * recipe.tokens_per_step * Method("lora", 2, ("q_proj",)).flops_per_token(tip.shape, recipe.seq_len)


def test_bases_that_the_plan_does_not_start_from_are_refused(tmp_path: Path, corpus: Corpus) -> None:
    base = checkpoint(tmp_path / "base", corpus)
    allocation(corpus).save(tmp_path / "fresh.json", {})
    with pytest.raises(InputError, match="from a fresh model, not from a base"):
        prepare(tmp_path / "fresh.json", tmp_path / "run", base=base)
    path = specialise_only(tmp_path, corpus, base)
    with pytest.raises(InputError, match=r"non-embedding parameters, the plan .* or --params \d+\."):
        prepare(path, tmp_path / "run", base=checkpoint(tmp_path / "larger", corpus, num_hidden_layers=3))
    assert not (tmp_path / "run").exists()


def test_a_law_of_adapters_is_launched_with_adapters(tmp_path: Path, corpus: Corpus) -> None:
    answer = allocation(corpus)
    answer = replace(answer, source={**answer.source, "recipe": replace(TINY_RECIPE, lora_rank=1).to_dict()})  # its matrices are 16 wide
    assert prepare(saved(answer, tmp_path / "a.json"), tmp_path / "run").run.tree.tips[0].method == "full"
    lora = prepare(saved(replace(answer, source={**answer.source, "method": "lora"}), tmp_path / "b.json"), tmp_path / "run").run.tree
    assert lora.tips[0].method == "lora" and lora.tips[0].frozen_id == [s.segment_id for s in lora.segments if s.stage == "general"][-1]
    assert lora.flops_total < prepare(tmp_path / "a.json", tmp_path / "run").run.tree.flops_total


@pytest.mark.slow
def test_a_law_of_adapters_in_both_stages_is_launched_as_its_runs_were(tmp_path: Path, corpus: Corpus) -> None:
    """The launched run is the cell that a sweep would train, which is cut elsewhere."""
    pytest.importorskip("peft", reason="peft is not installed")
    base, answer = checkpoint(tmp_path / "base", corpus), allocation(corpus)
    shape, recipe = Pretrained.open(base).shape, replace(TINY_RECIPE, lora_rank=4, special_lr_multiplier=0.5)
    flops = (answer.plan.tokens_pt + answer.plan.tokens_spec) * recipe.method("lora-both").flops_per_token(shape, recipe.seq_len)
    sizes = {"params_non_embedding": float(shape.params_non_embedding), "params_total": float(shape.params_total)}
    plan = replace(answer.plan, **sizes, flops=flops, shape=shape.to_dict())
    source = {**answer.source, "recipe": recipe.to_dict(), "method": "lora-both", "based": True}
    path = saved(replace(answer, plan=plan, source=source), tmp_path / "a.json")
    with pytest.raises(InputError, match="starts from an open checkpoint; name its folder with --base"):
        prepare(path, tmp_path / "run")
    ready = prepare(path, tmp_path / "run", base=base)
    assert {segment.method for segment in ready.run.tree.segments} == {"lora-both"} and len(ready.run.tree.segments) > 3
    assert all(planned == realised or name == "unique_spec" for name, planned, realised in ready.realised())
    row = carry_out(ready, InlineEngine())
    assert row["method"] == "lora-both" and (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in recipe.to_dict().items())
    text = 'base = "../base"\ncell = [{tokens_pt = 16000, tokens_spec = 13440, unique_spec = 5000, method = "lora-both"}]'
    sweep = Sweep.open(lay_out(tmp_path / "sweep", corpus, text, f"[recipe]\n{settings}"))
    assert run_sweep(sweep, InlineEngine()) == {}
    trained = read_runs(tmp_path / "sweep" / "runs.csv").iloc[0]
    assert (trained["loss_spec"], trained["loss_general"], trained["flops"]) == (row["loss_spec"], row["loss_general"], row["flops"])
    general = saved(replace(answer, plan=replace(plan, tokens_spec=0.0), source=source), tmp_path / "b.json")
    assert {segment.method for segment in prepare(general, tmp_path / "other", base=base).run.tree.segments} == {"lora-both"}


def saved(answer: Allocation, path: Path) -> Path:
    answer.save(path, {})
    assert json.loads(path.read_text())["kind"] == "allocation"
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_adapters_after_a_general_stage_off_a_base_name_what_they_stand_on(tmp_path: Path, corpus: Corpus) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    from planner.train.evaluate import heldout_loss

    base, recipe = checkpoint(tmp_path / "base", corpus), replace(TINY_RECIPE, lora_rank=4)
    answer, shape = allocation(corpus), Pretrained.open(base).shape
    sizes = {"params_non_embedding": float(shape.params_non_embedding), "params_total": float(shape.params_total)}
    source = {**answer.source, "recipe": recipe.to_dict(), "method": "lora", "based": True}
    path = saved(replace(answer, plan=replace(answer.plan, **sizes, shape=shape.to_dict()), source=source), tmp_path / "a.json")
    ready = prepare(path, tmp_path / "run", base=base)
    row = carry_out(ready, InlineEngine())
    named = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / named), tmp_path / "run" / "adapter")
    loss, _ = heldout_loss(model, corpus.tokens("mail", "heldout"), recipe.seq_len, max_tokens=ready.run.spec.eval_tokens, device=torch.device("cpu"))
    assert loss == pytest.approx(row["loss_spec"], rel=1e-5)
    assert not list((tmp_path / "run" / "state").glob("*.safetensors")), "the trunk stands in a folder of its own by now"
