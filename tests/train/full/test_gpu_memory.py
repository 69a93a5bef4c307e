"""The micro-batch that nobody chose fits the GPU that the ranks find, and memory that runs out is said in one sentence."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.errors import StateError
from planner.launch.full import settle
from planner.launch.launch import prepare
from planner.shapes import ModelShape
from planner.train.full import main
from planner.train.full.gpu_memory import memory_needed, micro_batch_that_fits
from planner.train.full.plan import FAILURE_FILE, FILE, FullRun, Settings
from planner.train.micro_batch import GPU_SHARE, PROCESS_BYTES
from tests.train.full.runs import RECIPE, allocation

SEVEN = ModelShape("llama", 32, 4096, 32, 32, 128, 11008, 32000, False)
"""LLaMA-2-7B."""


@pytest.fixture
def seven(corpus: Corpus, tmp_path: Path) -> FullRun:
    """A run of 7B parameters on GPUs, 64 sequences of 4,096 a step."""
    recipe = replace(RECIPE, seq_len=4096, batch_sequences=64)
    allocation(corpus).save(tmp_path / "a.json", {})
    run = settle(prepare(tmp_path / "a.json", tmp_path / "run").run, 4, Settings(device="cuda", precision="bf16"))
    stages = tuple(replace(job, recipe=recipe, segment=replace(job.segment, shape=SEVEN)) for job in run.stages)
    return replace(run, stages=stages, settings=replace(run.settings, micro_batch=4))


def test_a_micro_batch_is_halved_until_it_fits(seven: FullRun) -> None:
    """On 8 GPUs of 80 GB the activations of 4 sequences are 80 GB by themselves."""
    assert seven.settings.fit_micro_batch
    assert memory_needed(seven, 8, 4).activations > 75e9
    chosen = {have: micro_batch_that_fits(seven, 8, have) for have in (16e9, 80e9, 141e9, 1e12)}
    assert chosen == {16e9: 1, 80e9: 2, 141e9: 4, 1e12: 4}
    for have, count in chosen.items():
        assert count == 1 or memory_needed(seven, 8, count).total <= GPU_SHARE * have - PROCESS_BYTES
    again = replace(seven, settings=replace(seven.settings, checkpoint_activations=True))
    assert micro_batch_that_fits(again, 8, 80e9) == 4


def test_ranks_take_what_the_first_one_found(seven: FullRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, int(80e9)))
    first: Any = SimpleNamespace(first=True, world=8, device=torch.device("cuda"), told=lambda value: value)
    assert main._fitted(seven, first).settings.micro_batch == 2
    other: Any = SimpleNamespace(first=False, world=8, device=torch.device("cuda"), told=lambda value: 3)
    assert main._fitted(seven, other).settings.micro_batch == 3
    asked = replace(seven, settings=replace(seven.settings, fit_micro_batch=False))
    assert main._fitted(asked, first) is asked, "what the user asked for stays"


def test_what_the_user_asked_for_is_not_changed(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    run = settle(prepare(tmp_path / "a.json", tmp_path / "run").run, 1, Settings(device="cuda", precision="bf16", micro_batch=2))
    assert not run.settings.fit_micro_batch and run.settings.micro_batch == 2


def test_memory_that_runs_out_is_said_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB")

    monkeypatch.setattr(main, "train", full)
    (tmp_path / FILE).write_text("{}\n")
    with pytest.raises(StateError, match="the GPU's memory ran out: CUDA out of memory"):
        main.run_rank(tmp_path, lambda: False)  # type: ignore[arg-type]
    assert "--micro-batch" in (tmp_path / FAILURE_FILE).read_text()
