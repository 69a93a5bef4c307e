"""What is warned of when a sweep or a launch is planned."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.errors import PlannerWarning
from planner.launch.launch import prepare
from planner.train.order import Stream
from planner.units import format_count
from tests.train.full.runs import RECIPE, allocation
from tests.train.shared import RECIPE as SWEEP_RECIPE
from tests.train.shared import lay_out


def test_text_that_is_short_against_the_windows_is_warned_of(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus, replace(RECIPE, seq_len=128)).save(tmp_path / "allocation.json", {})
    pool = corpus.subset("mail", 3000)
    stream = Stream(pool, 128, 0, "mail")
    once, lost = stream.windows * 128, pool.size % 128
    found = f"an epoch trains on {once} of {pool.size} distinct tokens of mail, and no epoch on the last {lost}: the text is short for seq_len = 128"
    with pytest.warns(PlannerWarning, match=f"{found}.*; give 6400 or more, or lower seq_len"):
        prepare(tmp_path / "allocation.json", tmp_path / "run")
    allocation(corpus, RECIPE).save(tmp_path / "short.json", {})
    prepare(tmp_path / "short.json", tmp_path / "other")  # 93 windows at least: no word


def test_a_sweep_says_it_when_it_is_planned(corpus: Corpus, tmp_path: Path) -> None:
    text = 'sizes = ["10k"]\ntokens_pt = ["110k"]\ntokens_spec = ["110k"]\nunique_spec = [5000]'
    for seq_len, said in ((256, True), (32, False)):  # fifty windows are 12,800 tokens, and 1,600
        recipe = SWEEP_RECIPE.replace("seq_len = 32", f"seq_len = {seq_len}")
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            result = CliRunner().invoke(app, ["sweep", "plan", str(lay_out(tmp_path / str(seq_len), corpus, text, recipe))])
        assert result.exit_code == 0 and ("distinct tokens are overstated" in " ".join(result.stderr.split())) == said, result.stderr


def test_caps_that_whole_documents_make_others_are_said(corpus: Corpus, tmp_path: Path) -> None:
    """Two caps inside the first document train the same runs twice; one far from a border is another number of tokens."""
    borders = corpus.offsets("mail", "train")
    wide = int(np.argmax(np.diff(borders)[5:]) + 5)
    inside, first = int(borders[wide]) + 1, int(borders[1])
    text = 'sizes = ["10k"]\ntokens_pt = ["21k"]\ntokens_spec = ["13.5k"]\nunique_spec = {}'
    for caps, said in (
        ([first - 2, first - 1], f"{format_count(first - 2)} and {format_count(first - 1)} become {format_count(first)}: the same runs"),
        ([inside], f"{format_count(inside)} becomes {format_count(int(borders[wide + 1]))};"),
        ([int(borders[-2])], None),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            result = CliRunner().invoke(app, ["sweep", "plan", str(lay_out(tmp_path / str(caps[0]), corpus, text.format(caps)))])
        words = " ".join(result.stderr.split())
        assert result.exit_code == 0 and (said in words if said else "whole documents" not in words), result.stderr


def test_general_text_that_is_repeated_is_said(corpus: Corpus, tmp_path: Path) -> None:
    """As the law counts general tokens: replayed ones with them, early specialist text not."""
    held = corpus.unique_tokens("general")
    text = 'sizes = ["10k"]\ntokens_pt = [{}]\ntokens_spec = ["13.5k"]\nunique_spec = ["5k"]\n{}'
    for name, (tokens, added, said) in {
        "once": (held - 64, "", None),
        "twice": (2 * held, "", f"{format_count(2 * held // 64 * 64)} general tokens are 2 passes over the corpus's {format_count(held)};"),
        "early": (held - 64, "early_fractions = [0.2]", None),
        "replayed": (held - 64, "replay_fractions = [0.6]", " general tokens are 1.1 passes over"),
    }.items():
        result = CliRunner().invoke(app, ["sweep", "plan", str(lay_out(tmp_path / name, corpus, text.format(tokens, added)))])
        words = " ".join(result.stderr.split())
        assert result.exit_code == 0 and (said in words if said else "laws treat them as fresh" not in words), result.stderr
    plan = allocation(corpus, RECIPE)
    a_token = plan.plan.flops / (plan.plan.tokens_pt + plan.plan.tokens_spec)
    more = replace(plan.plan, tokens_pt=2.0 * held, flops=a_token * (2 * held + plan.plan.tokens_spec))
    replace(plan, plan=more).save(tmp_path / "a.json", {})
    result = CliRunner().invoke(app, ["launch", str(tmp_path / "a.json"), "--out", str(tmp_path / "run"), "--dry-run"])
    assert result.exit_code == 0 and "general tokens are 2 passes over" in " ".join(result.stderr.split()), result.stderr
