"""Held-out losses in as many rows at once as there is room for: the recorded ones as they were, the others the same to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.corpus.store import Corpus
from planner.design.cells import Cell
from planner.design.tree import build_tree
from planner.engines.demand import demand_of
from planner.ladder import shape_for
from planner.method import Method
from planner.recipe import Recipe
from planner.train.job import Job
from planner.train.micro_batch import training_bytes
from planner.train.rows import BYTES_PER_LOGIT, LOGITS_BYTES, MOST_TOKENS, evaluation_bytes, rows_at_once
from planner.train.size import memory
from tests.train.shared import checkpoint, paired_corpus


def test_rows_are_bounded_by_tokens_by_logits_and_by_the_micro_batch() -> None:
    assert rows_at_once(128, 1024) == rows_at_once(256, 4096) == 32, "as the recorded losses were summed"
    assert rows_at_once(2048, 1024) == 8 and rows_at_once(4 * MOST_TOKENS, 1024) == 1
    assert rows_at_once(256, 64_000) == 6 and 6 * BYTES_PER_LOGIT * 256 * 64_000 <= LOGITS_BYTES
    assert rows_at_once(4096, 152_000) == 1, "of one row the logits take what they do"
    assert rows_at_once(128, 1024, 4) == 4 and rows_at_once(2048, 1024, 100) == 8


def test_the_estimates_count_it() -> None:
    """The case that was found: a large vocabulary, a small batch; 32 rows of it took 4 GB that nobody had asked for."""
    recipe = Recipe(seq_len=256, batch_sequences=2)
    shape = replace(shape_for(1e5, family="qwen3", vocab=64_000), tied=True)
    rows = rows_at_once(256, 64_000)
    heldout = evaluation_bytes(shape, 256, rows)
    assert heldout >= 8 * rows * 256 * 64_000
    tree = build_tree([Cell(1e5, 0, 1e6, 0.0, None), Cell(1e5, 0, 2e6, 0.0, None)], recipe, 64_000)
    jobs = [Job(segment, recipe, Path("."), None, Path("s"), Path("."), "special", 0, 0.0, {}) for segment in tree.segments]
    for job in jobs:
        extra = demand_of(job).memory - training_bytes(job.segment.shape, recipe)
        assert extra > 0 if job.segment.cell is not None else extra == 0, job.segment
    options = {"shards": 1, "precision": "fp32", "checkpoint_activations": True, "method": Method()}
    bounded, free = (memory(shape, 256, 1, bounded=which, **options) for which in (True, False))  # type: ignore[arg-type]
    assert bounded.heldout <= bounded.logits + bounded.activations and bounded.total < free.total
    assert free.total == free.states + free.gathered + heldout


def test_what_is_averaged_over_does_not_depend_on_the_rows(corpus: Corpus, tmp_path: Path, text_folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from planner.train.evaluate import domain_loss
    from planner.train.start import open_checkpoint

    pairs = [(f"say {number} and stop", f"it is {number * 7}" * (1 + number % 3)) for number in range(900)]
    paired = paired_corpus(text_folder, tmp_path, pairs, "asked")
    for text, domain, wanted in ((corpus, "mail", 2000), (paired, "asked", 100)):
        model = open_checkpoint(checkpoint(tmp_path / domain, text))
        widest = 0

        def look(_: object, __: object, given: dict[str, object]) -> None:
            nonlocal widest
            widest = max(widest, given["input_ids"].shape[0])  # type: ignore[attr-defined]

        model.register_forward_pre_hook(look, with_kwargs=True)
        found = []
        for most in (None, 5, 1):
            widest = 0
            found.append(domain_loss(model, text, domain, 32, max_tokens=wanted, device=torch.device("cpu"), most_rows=most))
            assert widest <= (most or 32)
        assert len({count for _, count in found}) == 1 and found[0][1] < (2001 if domain == "mail" else 600), "not all of the text"
        assert [loss for loss, _ in found] == pytest.approx([found[0][0]] * 3, rel=1e-5)
