"""Adapters on an open checkpoint, trained by one rank and by two: what one trains is what the sweep's loop trains, and a run goes on on any number."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="peft is not installed")

from safetensors import safe_open
from typer.testing import CliRunner

from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.launch.launch import prepare
from planner.method import Method
from planner.train.evaluate import heldout_loss
from planner.train.full import shard
from planner.train.full.loop import Training
from planner.train.size import memory, saved_bytes
from planner.verify import verify
from tests.launch.segments import carry_out
from tests.launch.test_launch_method import specialise_only
from tests.train.full.runs import RECIPE, SETTINGS, adapted, finish, lay, losses, row, run_here, start, steps_of, wait_for
from tests.train.shared import checkpoint

pytestmark = pytest.mark.slow

LORA = replace(RECIPE, lora_rank=4, lora_lr_multiplier=0.3)
"""At a calm rate: at three times of it rounding grows a thousandfold within these steps, by micro-batches on one rank just as by two ranks."""
CLOSE = 1e-5
"""Largest difference of a training loss [nats/token] that another order of summation may make over these few steps."""


@pytest.fixture(scope="module")
def base(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("open") / "base", corpus)


@pytest.fixture(scope="module")
def one(corpus: Corpus, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one rank, undisturbed."""
    folder = tmp_path_factory.mktemp("one") / "run"
    lay(folder, corpus, recipe=LORA, base=base)
    assert run_here(folder)
    return folder


def largest(first: Path, second: Path) -> float:
    return max(abs(a - b) for a, b in zip(losses(first), losses(second), strict=True))


def test_one_rank_is_the_sweeps_own_loop_to_the_bit(one: Path, corpus: Corpus, base: Path, tmp_path: Path) -> None:
    adapted(corpus, base, LORA).save(tmp_path / "a.json", {})
    expected = carry_out(prepare(tmp_path / "a.json", tmp_path / "run", base=base))
    assert row(one) == {**expected, "sweep": "run"} and expected["method"] == "lora-both"


def test_what_is_frozen_takes_half_in_bfloat16_and_changes_no_loss(
    corpus: Corpus, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[set[tuple[bool, Any]]] = []
    opened = Training._open

    def look(self: Training, stage: int, **told: bool) -> None:
        opened(self, stage, **told)
        kept.append({(item.requires_grad, item.dtype) for item in self.model.parameters()})

    monkeypatch.setattr(Training, "_open", look)
    found = []
    for name in ("halved", "whole"):
        lay(tmp_path / name, corpus, recipe=LORA, base=base, settings=replace(SETTINGS, precision="bf16"))
        assert not run_here(tmp_path / name, stop_at=8)
        found.append([line["loss"] for line in steps_of(tmp_path / name).values()])
        monkeypatch.setattr(shard, "_halve_frozen", lambda model: None)
    assert kept == [{(True, torch.float32), (False, torch.bfloat16)}, {(True, torch.float32), (False, torch.float32)}]
    assert found[0] == found[1] and len(found[0]) == 8


def test_adapters_are_saved_alone_and_the_checkpoint_has_them_merged(one: Path, corpus: Corpus, base: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(one / "checkpoint")
    loss, _ = heldout_loss(loaded, corpus.tokens("mail", "heldout"), RECIPE.seq_len, max_tokens=640, device=torch.device("cpu"))
    assert loss == pytest.approx(row(one)["loss_spec"], rel=1e-5) == verify(one).measured
    assert (one / "adapter" / "adapter_model.safetensors").is_file() and not (one / "adapter-trunk").exists(), "the open checkpoint is what they stand on"
    state = next((one / "states").glob("step-*/*.safetensors"))
    with safe_open(state, framework="pt") as file:
        names = list(file.keys())
    assert names and all("lora_" in name for name in names), "what lies frozen is not saved again"


def test_a_run_that_changes_its_ranks_ends_as_an_undisturbed_one(one: Path, corpus: Corpus, base: Path, tmp_path: Path) -> None:
    """Two ranks that are killed, then one that is stopped, then two to the end; SIGTERM is the same with adapters as without."""
    folder = tmp_path / "run"
    lay(folder, corpus, ranks=2, recipe=LORA, base=base)
    process = start(folder, {"wait": 0.05})
    wait_for(folder, process, 17)
    process.kill()
    lay(folder, corpus, recipe=LORA, base=base)
    assert not run_here(folder, stop_at=30)
    lay(folder, corpus, ranks=2, recipe=LORA, base=base)
    finish(folder, start(folder))
    assert largest(one, folder) < CLOSE
    assert row(folder)["loss_spec"] == pytest.approx(row(one)["loss_spec"], abs=CLOSE)
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:.* is realised")  # a small corpus, in whole windows
def test_the_command_line_gives_ranks_to_adapters_on_a_base(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    def plan(method: str, *more: str) -> tuple[int, str, str]:
        path = specialise_only(tmp_path, corpus, base, method)
        result = CliRunner().invoke(app, ["launch", str(path), "--base", str(base), "--out", str(tmp_path / "run"), *more])
        return result.exit_code, result.stdout, " ".join(result.stderr.split())

    code, _, said = plan("lora", "--export", "torchtitan")
    assert code == 2 and "--export torchtitan does not support adapters, and the plan uses lora" in said
    assert not (tmp_path / "run").exists()
    code, out, said = plan("lora", "--ranks", "2")
    assert code == 0 and "2 on cpu, fp32" in out and "specialist loss" in said, said
    assert (tmp_path / "run" / "adapter").is_dir() and row(tmp_path / "run")["method"] == "lora"


def test_packed_matrices_on_two_ranks_train_as_on_one(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    """They stay whole on each; two ranks go on from what one has left, near the sweep's own loop, which one rank is to the bit."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    alone, changed = tmp_path / "alone", tmp_path / "changed"
    for folder, stop in ((alone, None), (changed, 20)):
        lay(folder, corpus, recipe=LORA, base=base, method="qlora-both")
        assert run_here(folder, stop_at=stop) == (stop is None)
    expected = carry_out(prepare(tmp_path / "alone.json", tmp_path / "run", base=base))
    assert row(alone) == {**expected, "sweep": "alone"} and expected["method"] == "qlora-both"
    lay(changed, corpus, ranks=2, recipe=LORA, base=base)
    finish(changed, start(changed))
    assert largest(alone, changed) < CLOSE and row(changed)["loss_spec"] == pytest.approx(expected["loss_spec"], abs=CLOSE)


def test_frozen_weights_have_neither_gradients_nor_moments(base: Path) -> None:
    from planner.pretrained import Pretrained

    shape, way = Pretrained.open(base).shape, Method("lora", 4)
    full, lora = (memory(shape, 32, 1, shards=2, precision="fp32", checkpoint_activations=False, method=method).states for method in (Method(), way))
    assert full == 16 * shape.params_total / 2 and lora == (4 * shape.params_total + 16 * way.trained(shape)) / 2
    packed = memory(shape, 32, 1, shards=2, precision="fp32", checkpoint_activations=False, method=Method("qlora", 4)).states
    assert packed == lora - 4 * way.under(shape) / 2 + (4 + 0.127) / 8 * way.under(shape), "whole on every rank"
    assert saved_bytes(shape, Method()) == 12 * shape.params_total and saved_bytes(shape, way) == 12 * way.trained(shape)
