"""Pairs as the specialist stage of a full-size run: what is measured on the way is of the responses, as in the record."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from planner.launch.full import lay_down
from planner.train.full.expect import Course
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import FullRun
from tests.train.full.runs import STEPS, lay, row, run_here
from tests.train.shared import WORDS, paired_corpus


def test_the_loss_on_the_way_is_that_of_the_record(text_folder: Path, tmp_path: Path) -> None:
    """Measured at the last step it is the record's to the bit: of responses after their own prompts, and not of the prompts."""
    pairs = [(f"say {word} {number}", f"{word} {word}") for word in WORDS for number in range(8)]
    folder = tmp_path / "run"
    ready = lay(folder, paired_corpus(text_folder, tmp_path, pairs, "mail"))
    run, along = FullRun.load(folder), Course.load(folder)
    assert along is not None
    lay_down(ready, replace(run, settings=replace(run.settings, evaluate_at=(STEPS,))), along)
    assert run_here(folder)
    (measured,) = (line["loss_spec"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "evaluation")
    assert measured == row(folder)["loss_spec"]
