"""What another trainer is given: files that parse, in which every number is the plan's."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import ast
import math
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.allocate.allocation import Allocation
from planner.corpus.store import Corpus
from planner.errors import InputError, PlannerWarning
from planner.launch.export import export
from planner.launch.export_common import NORM_EPSILON, ROPE_THETA
from planner.launch.full import stages
from planner.launch.launch import Launch, prepare

pytest.importorskip("torch")

from planner.train.segment import rate_at
from tests.launch.test_launch import KEPT
from tests.launch.test_launch_method import specialise_only
from tests.train.full.runs import GENERAL, RECIPE, SPECIAL, STEPS, allocation
from tests.train.shared import checkpoint


def planned(corpus: Corpus, folder: Path, **change: Any) -> Launch:
    allocation(corpus, replace(RECIPE, **change)).save(folder / "allocation.json", {})
    return prepare(folder / "allocation.json", folder / "the run's; $(touch pwned)", seed=3)


def rates(ready: Launch) -> list[float]:
    """List the rates of all steps of both stages, as our own trainer has them."""
    jobs = stages(ready.run, device="cpu", threads=1)
    return [rate_at(job.segment, ready.run.spec.recipe, step) for job in jobs for step in range(job.segment.last_step)]


def assigned(text: str) -> dict[str, Any]:
    """Read the constants of a module, and where each is from."""
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id not in ("GENERAL_TEXT", "SPECIALIST_TEXT"):
            assert "  # " in lines[node.lineno - 1], lines[node.lineno - 1]
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_torchtitans_numbers_are_the_plans(corpus: Corpus, tmp_path: Path, family: str) -> None:
    ready = planned(corpus, tmp_path, family=family, lr_exponent=0.3, weight_decay=0.07, beta2=0.97, clip_norm=0.8)
    path = export(ready, "torchtitan", ready.folder, 2, 2)
    assert path.stem.isidentifier()
    numbers, plan, recipe = assigned(path.read_text()), Allocation.load(tmp_path / "allocation.json").plan, ready.run.spec.recipe
    shape = plan.model_shape
    for key in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab", "tied"):
        assert numbers[key.upper()] == getattr(shape, key)
    assert numbers["GENERAL_STEPS"] == GENERAL == plan.tokens_pt / recipe.tokens_per_step
    assert numbers["TOTAL_STEPS"] == STEPS == (plan.tokens_pt + plan.tokens_spec) / recipe.tokens_per_step
    assert numbers["COOLDOWN_STEPS"] == round(recipe.cooldown_fraction * SPECIAL)
    assert numbers["LEARNING_RATE"] == recipe.learning_rate(plan.params_non_embedding)
    assert (numbers["SEQ_LEN"], numbers["BATCH_SEQUENCES"], numbers["MICRO_BATCH"], numbers["SEED"]) == (32, 4, 2, 3)
    assert (numbers["BETAS"], numbers["WEIGHT_DECAY"], numbers["CLIP_NORM"], numbers["WARMUP_STEPS"]) == ((0.9, 0.97), 0.07, 0.8, 10)
    assert numbers["TOKENIZER"] == str(corpus.tokenizer_path)
    text = path.read_text()
    assert ("qwen3" in text, "llama3" in text) == (family == "qwen3", family == "llama")
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert set(numbers) <= used  # no number is written down and then not used


@pytest.mark.parametrize("length", [0, 1, 10, GENERAL])
def test_torchtitans_rate_is_the_recipes_at_every_step(corpus: Corpus, tmp_path: Path, length: int) -> None:
    """Its schedule, as its lr_scheduler.py computes it from the exported numbers, against ours."""
    ready = planned(corpus, tmp_path, warmup_steps=length)
    numbers = assigned(export(ready, "torchtitan", ready.folder, 1, 4).read_text())
    total, warmup = numbers["TOTAL_STEPS"], numbers["WARMUP_STEPS"]
    decay = round(total * (numbers["COOLDOWN_STEPS"] / total))
    stable = total + 1 - warmup - decay
    for step, ours in enumerate(rates(ready)):
        factor = (step + 1) / warmup if step < warmup else 1.0
        if step >= warmup + stable:
            factor = 1 - math.sqrt((step + 1 - warmup - stable) / decay)
        assert numbers["LEARNING_RATE"] * factor == pytest.approx(ours, rel=1e-12), step


def test_megatrons_arguments_are_the_plans(corpus: Corpus, tmp_path: Path) -> None:
    """The script is run by bash, with a stand-in for torchrun that writes its arguments down."""
    ready = planned(corpus, tmp_path, weight_decay=0.07)
    path = export(ready, "megatron", ready.folder, 2, 2)
    (tmp_path / "torchrun").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" END >> {shlex.quote(str(tmp_path / "calls"))}\n')
    (tmp_path / "torchrun").chmod(0o755)
    data = {"GENERAL_DATA": "a;touch pwned", "SPECIALIST_DATA": "0.75 $(touch pwned) 0.25 *", "CHECKPOINTS": "c"}
    subprocess.run(["bash", str(path)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", **data}, cwd=tmp_path, check=True)
    calls = [call.split("\n") for call in (tmp_path / "calls").read_text().strip().removesuffix("END").split("END\n")]
    assert len(calls) == 2 and not list(tmp_path.rglob("pwned"))
    first, second = ({key: value for key, value in zip(call, call[1:], strict=False) if key.startswith("--")} for call in calls)
    plan, recipe = Allocation.load(tmp_path / "allocation.json").plan, ready.run.spec.recipe
    shape = plan.model_shape
    expected = {
        "--num-layers": shape.layers, "--hidden-size": shape.hidden, "--ffn-hidden-size": shape.intermediate, "--num-attention-heads": shape.heads,
        "--num-query-groups": shape.kv_heads, "--kv-channels": shape.head_dim, "--vocab-size": shape.vocab, "--seq-length": recipe.seq_len,
        "--global-batch-size": recipe.batch_sequences, "--micro-batch-size": 2, "--lr": recipe.learning_rate(plan.params_non_embedding),
        "--lr-warmup-samples": 4 * (recipe.warmup_steps - 1), "--lr-decay-samples": 4 * STEPS,
        "--lr-wsd-decay-samples": 4 * round(recipe.cooldown_fraction * SPECIAL), "--phase-transition-iterations": GENERAL,
        "--weight-decay": 0.07, "--adam-beta1": recipe.beta1, "--adam-beta2": recipe.beta2, "--adam-eps": recipe.epsilon, "--clip-grad": recipe.clip_norm,
        "--init-method-std": 1 / math.sqrt(shape.hidden), "--nproc-per-node": 2, "--seed": 4, "--rotary-base": ROPE_THETA, "--norm-epsilon": NORM_EPSILON,
    }  # fmt: skip
    for key, value in expected.items():
        assert float(first[key]) == float(second[key]) == value, key
    assert (first["--train-samples"], second["--train-samples"]) == (str(4 * GENERAL), str(4 * STEPS))
    blends = [call[call.index("--data-path") + 1 : call.index("--save")] for call in calls]
    assert blends == [["a;touch", "pwned"], ["0.75", "$(touch", "pwned)", "0.25", "*"]]  # words, as a blend is given, and not looked into
    assert first["--lr-wsd-decay-style"] == "minus_sqrt" and "--qk-layernorm" in first and "--untie-embeddings-and-output-weights" not in first
    arguments = [line for line in path.read_text().splitlines() if re.match(r" {4}--", line) and "stage" not in line and "train-samples" not in line]
    arguments = arguments + [line for line in path.read_text().splitlines() if "phase-transition" in line]
    assert len(arguments) > 30 and all("  # " in line for line in arguments)
    assert "which Megatron decays" not in path.read_text()


def test_megatrons_file_says_that_an_output_layer_of_its_own_is_decayed(corpus: Corpus, tmp_path: Path) -> None:
    answer = allocation(corpus)
    shape = replace(answer.plan.model_shape, tied=False)
    answer = replace(answer, plan=replace(answer.plan, params_total=float(shape.params_total), shape=shape.to_dict()))
    answer.save(tmp_path / "allocation.json", {})
    text = export(prepare(tmp_path / "allocation.json", tmp_path / "run"), "megatron", tmp_path / "run", 2, 2).read_text()
    assert "--untie-embeddings-and-output-weights" in text
    head = text[: text.index("set -euo pipefail")]
    assert "matrix of its own, which Megatron decays" in head and all(line.startswith("#") for line in head.splitlines())


@pytest.mark.parametrize("warmup", [0, 1, 10, GENERAL])
def test_megatrons_rate_is_the_recipes_at_every_step(corpus: Corpus, tmp_path: Path, warmup: int) -> None:
    """Its schedule, as its optimizer_param_scheduler.py computes it from the arguments, against ours; the second call takes the first one's state."""
    ready = planned(corpus, tmp_path, warmup_steps=warmup)
    text = export(ready, "megatron", ready.folder, 1, 4).read_text()
    given = {key: float(value) for key, value in re.findall(r"^ {4}--(lr[a-z-]*|min-lr) ([\d.e-]+)", text, re.MULTILINE)}
    first, total, cooldown = (given[f"lr-{key}-samples"] / 4 for key in ("warmup", "decay", "wsd-decay"))
    top, low = given["lr"], given["lr-warmup-init"]
    assert low <= top and first < total  # else Megatron stops
    for step, ours in enumerate(rates(ready)):
        past = step - (total - cooldown)
        if first > 0 and step <= first:
            theirs = low + (top - low) * step / first
        else:
            theirs = top if past <= 0 else top * (1 - math.sqrt(past / cooldown))
        assert theirs == pytest.approx(ours, rel=1e-12), step
    # It computes wd_incr_steps from --train-samples, and refuses a checkpoint in which it differs, but with this.
    assert re.search(r"^ {4}--override-opt-param-scheduler  # ", text, re.MULTILINE) and not re.search("^ {4}--use-checkpoint-opt", text, re.MULTILINE)


def test_the_constants_are_those_of_transformers() -> None:
    from planner.ladder import shape_for
    from planner.train.model import build_config

    for family in ("qwen3", "llama"):
        config = build_config(shape_for(1e4, family=family, vocab=300), 32)
        theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
        assert (theta, config.rms_norm_eps) == (ROPE_THETA, NORM_EPSILON)


@pytest.mark.parametrize("target", ["torchtitan", "megatron"])
def test_export_says_what_was_forecast_and_replayed(corpus: Corpus, tmp_path: Path, target: str) -> None:
    body = replace(allocation(corpus), general={**KEPT, "replay_fraction": 0.25, "tokens_replayed": 320.0})
    body.save(tmp_path / "a.json", {})
    ready = prepare(tmp_path / "a.json", tmp_path / "run")
    text = export(ready, target, ready.folder, 1, 4).read_text()
    assert "5 nats/token, 4 to 5.6" in text and "Mix 0.25 of general text" in text
    assert f"{body.plan.unique_spec:.0f} distinct tokens (plan.unique_spec), {body.plan.epochs_spec:.6g} passes over them" in text
    assert ('SPECIALIST_DATA="0.75 SPECIALIST 0.25 GENERAL"' if target == "megatron" else "the text registered as SPECIALIST_TEXT yields both") in text
    assert not ready.folder.exists()


def test_megatrons_script_goes_on_where_it_was_stopped(corpus: Corpus, tmp_path: Path) -> None:
    """A stage that has ended has no samples left, at which Megatron would stop."""
    ready = planned(corpus, tmp_path)
    path = export(ready, "megatron", ready.folder, 1, 4)
    (tmp_path / "torchrun").write_text(f'#!/bin/bash\necho "$@" >> {shlex.quote(str(tmp_path / "calls"))}\n')
    (tmp_path / "torchrun").chmod(0o755)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "latest_checkpointed_iteration.txt").write_text(str(GENERAL))
    data = {"GENERAL_DATA": "a", "SPECIALIST_DATA": "b", "CHECKPOINTS": "c"}
    subprocess.run(["bash", str(path)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", **data}, cwd=tmp_path, check=True)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert f"--train-samples {4 * STEPS} --data-path b " in call


def test_what_the_other_trainer_would_train_otherwise_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    ready = planned(corpus, tmp_path)
    with pytest.raises(InputError, match=r"2 ranks x a micro-batch of 4 sequences do not divide the batch of 4; give --micro-batch 2"):
        export(ready, "megatron", ready.folder, 2, 4)
    with pytest.raises(InputError, match="micro-batch of 3 sequences do not divide the batch of 4; give --micro-batch 1"):
        export(ready, "megatron", ready.folder, 1, 3)
    for target in ("torchtitan", "megatron"):
        with pytest.raises(InputError, match="special_lr_multiplier = 0.5 gives each stage a rate of its own"):
            export(planned(corpus, tmp_path, special_lr_multiplier=0.5), target, ready.folder, 1, 4)
    base = checkpoint(tmp_path / "base", corpus)
    based = prepare(specialise_only(tmp_path, corpus, base), tmp_path / "run", base=base)
    with pytest.raises(InputError, match=f"starts from the open checkpoint {base}"):
        export(based, "torchtitan", tmp_path / "run", 1, 2)
    assert not list(tmp_path.glob("*torchtitan*")) and not list(tmp_path.glob("*.sh"))


@pytest.mark.parametrize("target", ["torchtitan", "megatron"])
def test_a_warmup_that_the_other_trainer_would_go_on_with_is_refused(corpus: Corpus, tmp_path: Path, target: str) -> None:
    """Where it ends in the last general step both still agree; a run of specialist text alone may warm up until its cooldown."""
    whole = planned(corpus, tmp_path, warmup_steps=GENERAL)
    assert export(whole, target, whole.folder, 1, 4).exists() and rates(whole)[GENERAL - 1] == rates(whole)[GENERAL]
    with pytest.warns(PlannerWarning, match="ends after 40 of 80 warm-up steps: the rate jumps from 0.5 of its peak to the peak where the specialist"):
        cut = planned(corpus, tmp_path, warmup_steps=2 * GENERAL)
    assert rates(cut)[GENERAL] == 2 * rates(cut)[GENERAL - 1]
    with pytest.raises(InputError, match=f"warmup_steps = 80 is more than the 40 steps of the general stage, and {target} would go on warming up"):
        export(cut, target, tmp_path / "cut", 1, 4)
    constant = SPECIAL - round(RECIPE.cooldown_fraction * SPECIAL)
    for warmup in (constant, constant + 1):
        body = allocation(corpus, replace(RECIPE, warmup_steps=warmup))
        replace(body, plan=replace(body.plan, tokens_pt=0.0)).save(tmp_path / "a.json", {})
        alone = prepare(tmp_path / "a.json", tmp_path / "alone")
        if warmup == constant:
            assert export(alone, target, tmp_path / "alone", 1, 4).exists()
            continue
        with pytest.raises(InputError, match=f"= {warmup} is more than the {constant} steps before the cooldown, and {target} would train at other rates"):
            export(alone, target, tmp_path / "met", 1, 4)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("cut", "met"))]


def test_a_run_of_specialist_text_alone_has_the_specialists_rate(corpus: Corpus, tmp_path: Path) -> None:
    body = allocation(corpus, replace(RECIPE, special_lr_multiplier=0.5))
    body = replace(body, plan=replace(body.plan, tokens_pt=0.0))
    body.save(tmp_path / "a.json", {})
    ready = prepare(tmp_path / "a.json", tmp_path / "run")
    text = export(ready, "torchtitan", ready.folder, 1, 4).read_text()
    assert assigned(text)["LEARNING_RATE"] == 0.5 * RECIPE.learning_rate(body.plan.params_non_embedding)
    assert "plan.params_non_embedding x special_lr_multiplier" in text


def test_only_the_stages_and_texts_that_there_are_are_asked_for(corpus: Corpus, tmp_path: Path) -> None:
    """Before the first step: a text that is missing must not be noticed when the other one has been trained on."""
    whole = allocation(corpus).plan
    (tmp_path / "torchrun").write_text('#!/bin/bash\ntouch "$(dirname "$0")/trained"\n')
    (tmp_path / "torchrun").chmod(0o755)
    for needed, plan in {
        ("general", "specialist"): whole, ("general",): replace(whole, tokens_spec=0.0), ("specialist",): replace(whole, tokens_pt=0.0)
    }.items():  # fmt: skip
        replace(allocation(corpus), plan=plan).save(tmp_path / "a.json", {})
        ready = prepare(tmp_path / "a.json", tmp_path / "run")
        text = export(ready, "torchtitan", ready.folder, 1, 4).read_text()
        assert tuple(name for name in ("general", "specialist") if f"def {name}_stage" in text and f"--config {name}_stage" in text) == needed
        assert text.count("_stage():") == text.count("--config") == len(needed) and ast.parse(text)
        script = export(ready, "megatron", ready.folder, 1, 4)
        given = {"CHECKPOINTS": "c", **{f"{name.upper()}_DATA": "d" for name in needed}}
        for lacking in given:
            there = {key: value for key, value in given.items() if key != lacking}
            done = subprocess.run(["bash", str(script)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", **there}, capture_output=True, text=True, check=False)
            assert done.returncode and not (tmp_path / "trained").exists(), lacking
            assert len(done.stderr.splitlines()) == 1 and f" {lacking}: " in done.stderr
        subprocess.run(["bash", str(script)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", **given}, check=True)
        (tmp_path / "trained").unlink()
