"""Pairs as the specialist stage of a full-size run: what is measured on the way is of the responses, as in the record."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from planner.cli.watch import show_progress
from planner.corpus.store import Corpus
from planner.errors import InputError
from planner.launch.forecast_curve import forecast_curve
from planner.launch.full import lay_down, settle
from planner.launch.launch import Launch, prepare
from planner.launch.watch import watch
from planner.train.full.forecast_curve import ForecastCurve
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import FullRun
from planner.train.order import IGNORED
from planner.train.segment import open_batches
from tests.launch.segments import carry_out
from tests.train.full.runs import GENERAL, RECIPE, SETTINGS, STEPS, allocation, lay, row, run_here, steps_of
from tests.train.shared import WORDS, InlineEngine, paired_corpus


def test_the_loss_on_the_way_is_that_of_the_record(text_folder: Path, tmp_path: Path) -> None:
    """Measured at the last step it is the record's to the bit: of responses after their own prompts, and not of the prompts."""
    pairs = [(f"say {word} {number}", f"{word} {word}") for word in WORDS for number in range(8)]
    folder = tmp_path / "run"
    ready = lay(folder, paired_corpus(text_folder, tmp_path, pairs, "mail"))
    run, along = FullRun.load(folder), ForecastCurve.load(folder)
    assert along is not None
    lay_down(ready, replace(run, settings=replace(run.settings, evaluate_at=(STEPS,))), along)
    assert run_here(folder)
    (measured,) = (line["loss_spec"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "evaluation")
    assert measured == row(folder)["loss_spec"]


def of_long_prompts(text_folder: Path, folder: Path) -> Corpus:
    """Build a corpus in which nine prompts of ten pass the window, so that many a batch has no target."""
    draw = random.Random(0)
    asked = [" ".join(draw.choices(WORDS, k=2 if draw.random() < 0.1 else 60)) for _ in range(8 * len(WORDS))]
    pairs = [(f"{passage} say {word}", word) for passage, word in zip(asked, 8 * WORDS, strict=True)]
    return paired_corpus(text_folder, folder, pairs, "mail")


def begins_without_targets(ready: Launch) -> bool:
    """Tell whether the first batch of pairs is of prompts alone, and a later one is not."""
    batches = open_batches(ready.run.job(ready.run.tree.tips[0]), ready.run.corpus)
    counts = [int((batches.step(step)[1] != IGNORED).sum()) for step in range(8)]
    return counts[0] == 0 and any(counts)


def test_batches_of_prompts_alone_are_no_divergence(text_folder: Path, tmp_path: Path) -> None:
    """Their loss is of nothing: taken in as zero, any loss after them would be a spike. In the full-size trainer and in the sweep's loop."""
    recipe, plan = replace(RECIPE, batch_sequences=2), tmp_path / "allocation.json"
    allocation(of_long_prompts(text_folder, tmp_path), recipe).save(plan, {})
    seed = next(seed for seed in range(50) if begins_without_targets(prepare(plan, tmp_path / "run", seed=seed)))
    ready = prepare(plan, tmp_path / "run", seed=seed)
    run = settle(ready.run, 1, SETTINGS)
    lay_down(ready, run, forecast_curve(ready, run, None))
    assert not run_here(ready.folder, stop_at=GENERAL + 1)
    first = steps_of(ready.folder)[GENERAL + 1]
    assert first["loss"] is None and first["loss_smooth"] is None
    show_progress(watch(ready.folder))
    assert run_here(ready.folder)
    assert not [line for line in read_metrics(ready.folder / "metrics.jsonl") if line.get("what") in ("rollback", "diverged")]
    swept = carry_out(prepare(plan, tmp_path / "swept", seed=seed), InlineEngine())
    assert row(ready.folder)["status"] == swept["status"] == "ok"
    assert row(ready.folder)["loss_spec"] == swept["loss_spec"]


def test_a_launch_that_could_not_be_evaluated_is_refused_before_it_begins(text_folder: Path, tmp_path: Path) -> None:
    corpus = of_long_prompts(text_folder, tmp_path)
    allocation(corpus, replace(RECIPE, seq_len=4)).save(tmp_path / "allocation.json", {})
    with pytest.raises(InputError, match=r"prompts of mail exceed the window of 4 tokens, the shortest with \d+: .*; raise seq_len to \d+ or more"):
        prepare(tmp_path / "allocation.json", tmp_path / "run")
