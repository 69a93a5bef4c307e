"""A batch that is too large for one pass goes through in several, to the same losses; the recorded sweeps' batches go through in one."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from planner.design.spec import read_sweep
from planner.design.tree import build_tree
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.runs import read_runs
from planner.sweep import Sweep, run_sweep
from planner.train.micro_batch import CPU_BYTES, kept_bytes, micro_batch_size, training_bytes
from planner.train.order import IGNORED
from tests.design.test_recorded import RECORDED, SWEEPS
from tests.train.shared import WORDS, InlineEngine, lay_out, paired_corpus

RECIPE = "[recipe]\nseq_len = 32\nbatch_sequences = 3\nwarmup_steps = 20\nlr_coefficient = 1e-4\n"
"""A low rate: rounding is not enlarged by training."""


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_sweeps_take_one_pass(name: str) -> None:
    spec, rows = read_sweep(SWEEPS / name), read_runs(SWEEPS / name / "runs.csv")
    vocab = int(rows["vocab_size"].iloc[0])
    tree = build_tree(spec.cells(vocab, 10**12)[0], spec.recipe, vocab)
    for segment in tree.segments:
        assert micro_batch_size(segment.shape, spec.recipe, method=segment.method) == spec.recipe.batch_sequences


def test_passes_fit_and_are_as_few_as_fit() -> None:
    """A batch of half a million tokens over a vocabulary of 32,000, whose logits alone take 335 GB."""
    recipe, shape = Recipe(seq_len=2048, batch_sequences=256), shape_for(1e8, family="qwen3", vocab=32_000)
    assert training_bytes(shape, recipe, device="cuda") > 300e9
    for gigabytes in (16, 24, 80):
        rows = micro_batch_size(shape, recipe, device="cuda", memory=gigabytes * 1e9)
        passes = -(-256 // rows)
        assert training_bytes(shape, recipe, device="cuda", rows=rows) <= gigabytes * 1e9
        assert training_bytes(shape, recipe, device="cuda", rows=-(-256 // (passes - 1))) > gigabytes * 1e9, "fewer would not fit"
        assert passes * rows - 256 < passes, "passes are about as large as each other"
    assert micro_batch_size(shape, recipe, device="cuda", memory=1e9) == 1, "one sequence is the least"
    assert micro_batch_size(shape, recipe, device="cuda") == 256, "no memory is guessed"
    short = replace(recipe, seq_len=512)
    assert 1 < micro_batch_size(shape, short) < 256 and kept_bytes(shape, 512, micro_batch_size(shape, short)) <= CPU_BYTES


torch = pytest.importorskip("torch")

from planner.train.loss import mean_loss
from planner.train.model import build_model
from planner.train.segment import backward


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_add_up_to_those_of_one_pass(masked: bool) -> None:
    """Weighted by the targets that count, which are not as many in every pass; in one pass all is as it was, to the last bit."""
    model = build_model(shape_for(1e4, family="qwen3", vocab=64), Recipe(seq_len=16), seed=0)
    words = np.random.default_rng(0).integers(0, 64, (5, 16))
    targets = words.copy()
    if masked:
        targets[0, :13] = targets[3, 2:] = targets[4] = IGNORED
    found = {}
    for rows in (5, 2, 1):
        model.zero_grad()
        loss = backward(mean_loss, model, words, targets, torch.device("cpu"), rows)
        found[rows] = [loss, *(item.grad.clone() for item in model.parameters())]
    model.zero_grad()
    plain = mean_loss(model, torch.from_numpy(words), torch.from_numpy(targets), not masked)
    plain.backward()
    assert all(torch.equal(*pair) for pair in zip(found[5], [plain, *(item.grad for item in model.parameters())], strict=True))
    for rows in (2, 1):
        assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(found[rows], found[5], strict=True))


@pytest.mark.slow
def test_a_sweep_in_several_passes_has_the_losses_of_one(text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(f"say {word} {number}", f"{word} {word}") for word in WORDS for number in range(8)]
    corpus = paired_corpus(text_folder, tmp_path, asked, "asked")
    text = 'sizes = ["10k"]\ntokens_pt = [0]\ntokens_spec = ["30k"]\nunique_spec = ["all"]\n'
    shapes: dict[str, set[tuple[int, ...]]] = {}
    tables = []
    for name in ("one", "several"):
        sweep = Sweep.open(lay_out(tmp_path / name, corpus, text, RECIPE))
        seen = shapes.setdefault(name, set())

        def look(model, inputs, targets, whole, seen=seen):  # type: ignore[no-untyped-def]
            seen.add(tuple(inputs.shape))
            return mean_loss(model, inputs, targets, whole)

        monkeypatch.setattr("planner.train.segment.loss_function", lambda compiled, look=look: look)
        if name == "several":
            monkeypatch.setattr("planner.train.micro_batch.CPU_BYTES", 2.5 * kept_bytes(sweep.tree.segments[0].shape, 32, 1))
        assert run_sweep(sweep, InlineEngine()) == {}
        tables.append(pd.read_csv(sweep.folder / "runs.csv").filter(like="loss_"))
    assert shapes == {"one": {(3, 32)}, "several": {(2, 32), (1, 32)}}
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-5)


def test_on_a_gpu_passes_are_cut_for_what_it_has_or_for_what_was_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.train.segment import _rows
    from tests.engines.test_demand import job

    big = job(1e8, device="cuda", recipe=Recipe(seq_len=2048, batch_sequences=256))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (1e9, 80e9))
    gpu = torch.device("cuda")
    assert _rows(big, gpu) == micro_batch_size(big.segment.shape, big.recipe, device="cuda", memory=72e9) < 256
    assert _rows(replace(big, gpu_sharers=2), gpu) == micro_batch_size(big.segment.shape, big.recipe, device="cuda", memory=36e9)
    assert _rows(replace(big, gpu_memory=20e9), gpu) == micro_batch_size(big.segment.shape, big.recipe, device="cuda", memory=20e9)
