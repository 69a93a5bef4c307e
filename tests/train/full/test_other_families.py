"""A base of a family that has no formula here, on one rank and on two: the same losses, and a checkpoint of its own kind."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.train.evaluate import heldout_loss
from tests.train.full.runs import RECIPE, finish, lay, losses, row, run_here, start
from tests.train.shared import checkpoint


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path: Path, corpus: Corpus) -> None:
    from transformers import AutoModelForCausalLM

    base = checkpoint(tmp_path / "base", corpus, "gpt2")
    one, two = tmp_path / "one", tmp_path / "two"
    lay(one, corpus, base=base, method="full")
    assert run_here(one)
    lay(two, corpus, ranks=2, base=base, method="full")
    finish(two, start(two))
    assert len(losses(one)) == len(losses(two)) and losses(one)[-1] < losses(one)[0]
    assert max(abs(a - b) for a, b in zip(losses(one), losses(two), strict=True)) < 1e-5
    model = AutoModelForCausalLM.from_pretrained(two / "checkpoint")
    loss, _ = heldout_loss(model, corpus.tokens("mail", "heldout"), RECIPE.seq_len, max_tokens=640, device=torch.device("cpu"))
    assert loss == pytest.approx(row(one)["loss_spec"], rel=1e-5)
    kept, first = (json.loads((folder / "config.json").read_text()) for folder in (two / "checkpoint", base))
    changed = {key for key in first if kept.get(key) != first[key]} - {"dtype", "use_cache", "transformers_version"}
    assert not changed, "dropout was off while it was trained, and is as it was again"
