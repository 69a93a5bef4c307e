"""A trunk in full and adapters on it, trained by one rank and by two: the model changes on the way, and stops around the change change nothing."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import shutil
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
from planner.train.full.loop import Training
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import FullRun
from planner.train.size import saved_bytes
from planner.units import format_bytes
from tests.launch.segments import carry_out
from tests.train.full.faults import install
from tests.train.full.runs import GENERAL, RECIPE, SETTINGS, STEPS, allocation, finish, lay, losses, row, run_here, start, steps_of, wait_for

pytestmark = pytest.mark.slow

RANK_ONE = replace(RECIPE, lora_rank=1, lora_lr_multiplier=0.3)
"""Its matrices are 16 wide."""
CLOSE = 1e-5
"""Largest difference of a training loss [nats/token] that another order of summation may make over these few steps."""


def lay_lora(folder: Path, corpus: Corpus, ranks: int = 1, **settings: Any) -> None:
    lay(folder, corpus, ranks=ranks, recipe=RANK_ONE, method="lora", settings=replace(SETTINGS, **settings))


@pytest.fixture(scope="module")
def one(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one rank, undisturbed."""
    folder = tmp_path_factory.mktemp("one") / "run"
    lay_lora(folder, corpus)
    assert run_here(folder)
    return folder


def trunks(folder: Path) -> list[Path]:
    return list((folder / "state").glob("*.safetensors"))


def test_one_rank_is_the_sweeps_own_loop_to_the_bit(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    answer = allocation(corpus, RANK_ONE)
    replace(answer, source={**answer.source, "method": "lora"}).save(tmp_path / "a.json", {})
    expected = carry_out(prepare(tmp_path / "a.json", tmp_path / "run"))
    assert row(one) == {**expected, "sweep": "run"} and expected["method"] == "lora"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_states_after_the_trunk_hold_adapters_alone_and_the_trunk_is_kept_beside_them(one: Path, corpus: Corpus) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    with safe_open(next((one / "states").glob(f"step-{STEPS:09d}/*.safetensors")), framework="pt") as file:
        assert all("lora_" in name for name in file.keys())
    loaded = AutoModelForCausalLM.from_pretrained(one / "checkpoint")
    trunk = AutoModelForCausalLM.from_pretrained(one / "adapter-trunk")
    for model in (loaded, peft.PeftModel.from_pretrained(trunk, one / "adapter")):
        loss, _ = heldout_loss(model, corpus.tokens("mail", "heldout"), RECIPE.seq_len, max_tokens=640, device=torch.device("cpu"))
        assert loss == pytest.approx(row(one)["loss_spec"], rel=1e-5)
    assert not trunks(one), "it stands in a folder of its own by now"


def test_ranks_that_change_before_and_after_the_trunks_end_change_nothing(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    """Two ranks that are killed in the trunk; one that is stopped right after its last step, and one in the adapters; two to the end."""
    folder = tmp_path / "run"
    lay_lora(folder, corpus, ranks=2)
    process = start(folder, {"wait": 0.05})
    wait_for(folder, process, 17)
    process.kill()
    lay_lora(folder, corpus)
    assert not run_here(folder, stop_at=GENERAL) and len(trunks(folder)) == 1
    assert not run_here(folder, stop_at=GENERAL + 5)
    lay_lora(folder, corpus, ranks=2)
    finish(folder, start(folder))
    assert max(abs(a - b) for a, b in zip(losses(one), losses(folder), strict=True)) < CLOSE
    assert row(folder)["loss_spec"] == pytest.approx(row(one)["loss_spec"], abs=CLOSE)


def test_two_ranks_change_the_model_in_step(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    """In bfloat16 with all that saves memory, copies of one rank each; the share of the peak is of what each stage computes."""
    folder = tmp_path / "run"
    lay_lora(folder, corpus, ranks=2, precision="bf16", checkpoint_activations=True, micro_batch=1, shard_ranks=1, peak_flops=1e12)
    run = FullRun.load(folder)
    replace(run, settings=replace(run.settings, evaluate_at=(GENERAL, STEPS - 4))).save(folder)
    finish(folder, start(folder))
    assert 0 < max(abs(a - b) for a, b in zip(losses(one), losses(folder), strict=True)) < 0.3
    shape, lines = FullRun.load(folder).last.segment.shape, steps_of(folder)
    for step, method in ((GENERAL, "full"), (GENERAL + 1, "lora")):
        line = lines[step]
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] * RANK_ONE.method(method).flops_per_token(shape, RECIPE.seq_len) / 2e12)
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "evaluation"] == [GENERAL, STEPS - 4]


def test_killed_between_the_trunk_and_its_first_adapters_it_trains_the_end_of_the_trunk_again(
    one: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(self: Training, *, wait: bool = False, between: bool = False) -> None:
        if self.step == GENERAL:
            assert self.metrics is not None
            self.metrics.close()
            raise Killed
        save(self, wait=wait, between=between)

    folder, save = tmp_path / "run", Training._save
    lay_lora(folder, corpus)
    monkeypatch.setattr(Training, "_save", killed)
    with pytest.raises(Killed):
        run_here(folder)
    assert len(trunks(folder)) == 1
    monkeypatch.setattr(Training, "_save", save)
    assert run_here(folder) and losses(folder) == losses(one) and row(folder) == row(one)


def test_a_rollback_under_adapters_stays_under_them(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    lay_lora(folder, corpus)
    install({"factors": [[1, 3, "nan"]]}, monkeypatch.setattr)
    assert run_here(folder)
    assert [line["to"] for line in read_metrics(folder / "metrics.jsonl") if line.get("what") == "rollback"] == [GENERAL]
    assert row(folder)["status"] == "ok" and [steps_of(folder)[GENERAL + step]["batch"] for step in (3, 4)] == [2, 4]


def test_no_rollback_goes_from_adapters_to_a_state_of_the_trunk(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two batches after it are bad, as if the first state of the adapters were; the one before is not theirs, and they cannot read it."""
    folder = tmp_path / "run"
    lay_lora(folder, corpus)
    install({"factors": [[1, 0, "nan"], [1, 1, "nan"]]}, monkeypatch.setattr)
    assert run_here(folder)
    assert [line["to"] for line in read_metrics(folder / "metrics.jsonl") if line.get("what") == "rollback"] == [GENERAL, GENERAL]
    assert row(folder)["status"] == "ok"


def test_a_run_goes_on_where_its_folder_was_moved_to(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    """The trunk is looked for where the folder is now."""
    folder = tmp_path / "run"
    lay_lora(folder, corpus)
    assert not run_here(folder, stop_at=GENERAL + 5)
    (tmp_path / "moved").mkdir()
    shutil.move(folder, tmp_path / "moved" / "run")
    assert run_here(tmp_path / "moved" / "run") and losses(tmp_path / "moved" / "run") == losses(one)


@pytest.mark.filterwarnings("ignore:.* is realised")  # a small corpus, in whole windows
def test_the_command_line_gives_ranks_to_them(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    answer = allocation(corpus, RANK_ONE)
    replace(answer, source={**answer.source, "method": "lora"}).save(tmp_path / "a.json", {})
    result = CliRunner().invoke(app, ["launch", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"), "--ranks", "2", "--dry-run"])
    shape = FullRun.load(one).last.segment.shape
    assert result.exit_code == 0 and "2 on cpu, fp32" in result.stdout, result.stderr
    whole = format_bytes(saved_bytes(shape, Method()))
    assert f"3 of {whole}" in result.stdout, "the largest state, that of the trunk, is what the disk must hold"
