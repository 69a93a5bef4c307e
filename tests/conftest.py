"""Fixtures: a small corpus of text that comes with Python, a tiny sweep on it, and a law of known truth."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.corpus.build import build_corpus
from planner.corpus.config import CorpusSettings, Source, TokenizerSettings
from planner.corpus.store import Corpus
from planner.engines.event import Event
from planner.engines.local import LocalEngine
from planner.fit.data import FitData
from planner.fit.fit import fit
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.laws import LAWS, Points, Reference
from planner.recipe import Recipe
from planner.sweep import Sweep, run_sweep
from tests.engines.tiny import lay_out

os.environ.pop("COLUMNS", None)  # readline sets it in a process with no terminal either, and others inherit it: tables would be 80 wide
os.environ["RAY_worker_niceness"] = "0"  # by default Ray's workers get what other processes leave, and other tests leave nothing
os.environ["RAY_health_check_period_ms"] = "500"  # that a node is gone is seen after three looks

TINY_RECIPE = Recipe(seq_len=32, batch_sequences=2, warmup_steps=20, lr_coefficient=4e-3)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out documents: Python's language reference as general text, its e-mail package as specialist text."""
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("text")
    (folder / "general").mkdir()
    (folder / "special").mkdir()
    for name, text in topics.items():
        (folder / "general" / f"{name}.txt").write_text(text, encoding="utf-8")
    for path in sorted((Path(sysconfig.get_path("stdlib")) / "email").glob("*.py")):
        for number, part in enumerate(path.read_text(encoding="utf-8").split("\n\n\n")):
            if len(part) > 200:
                (folder / "special" / f"{path.stem}-{number}.txt").write_text(part, encoding="utf-8")
    return folder


def settings(folder: Path, **changes: object) -> CorpusSettings:
    """State the corpus of `text_folder`."""
    sources = (Source("general", "txt", "general"), Source("mail", "txt", "special"))
    return CorpusSettings(folder, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.1, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def corpus(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Build the small corpus once."""
    return build_corpus(settings(text_folder), tmp_path_factory.mktemp("corpus") / "corpus")[0]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """Train the tiny sweep with the local engine, as it ends when nothing goes wrong."""
    pytest.importorskip("torch")
    folder = lay_out(tmp_path_factory.mktemp("undisturbed") / "tiny", corpus)
    events: list[Event] = []
    assert run_sweep(Sweep.open(folder), LocalEngine(2), on_event=events.append) == {}
    assert {event.kind for event in events} >= {"started", "steps", "finished"}
    return folder


TRUTH = {
    "E": 1.0, "L0": 7.0, "A": 0.25, "B": 0.35, "α": 0.3, "β": 0.35, "κ": 0.15, "ρ": 0.8, "η": 0.05, "P": 0.01, "δ": 1.0, "κ_P": 0.5, "λ_P": 0.5,
}  # fmt: skip
LAW = LAWS["bounded-penalised"]
REFERENCE = Reference(1e5, 1e6)


def true_log_loss(params: object, tokens_pt: object, tokens_spec: object, unique_spec: object) -> np.ndarray:
    """Return ln L of the truth that `synthetic` samples."""
    theta = np.array([[TRUTH[parameter.name] for parameter in LAW.parameters]])
    return LAW.log_loss(theta, Points(REFERENCE, params, tokens_pt, tokens_spec, unique_spec))[0]


@pytest.fixture(scope="session")
def synthetic() -> FitData:
    """A sweep of 5 sizes whose truth is known, with 0.5 % noise and a trunk a size."""
    random = np.random.default_rng(5)
    grid = [
        (n, pt, spec, unique)
        for n in (2e4, 4e4, 8e4, 1.6e5, 3.2e5)
        for pt in (0.0, 3.5e5, 9e5, 2e6, 4.5e6)
        for spec, unique in ((0.0, np.nan), (2e5, 5e4), (8e5, 5e4), (4e5, 2e5), (1.6e6, 2e5), (8e5, 1.6e6))
        if pt + spec > 0
    ]
    n, pt, spec, unique = (np.array(column) for column in zip(*grid, strict=True))
    log_loss = true_log_loss(n, pt, spec, unique) + 0.005 * random.normal(size=len(n))
    cluster = np.unique(n, return_inverse=True)[1]
    return FitData([str(k) for k in range(len(n))], {"non_embedding": n}, pt, spec, unique, log_loss, 6 * n * (pt + spec), cluster, 0.005)


@pytest.fixture(scope="session")
def fitted(synthetic: FitData) -> FittedLaw:
    """The truth's own form fitted to `synthetic`, with the recipe of a sweep."""
    return fit(synthetic, "bounded-penalised", resamples=60, source={"recipe": Recipe().to_dict(), "vocab_size": 1024})


GENERAL_TRUTH = {"A": 3.0, "c": 0.9, "α": 0.12, "β": 1.3, "F": 0.4, "s0": 0.005, "k": 2.5, "b": 400.0, "χ": 0.4}


@pytest.fixture(scope="session")
def general(fitted: FittedLaw) -> FittedLaw:
    """A law of the general loss, `rehearsal`, whose resamples scatter by 1 % of each parameter; its runs replayed up to half."""
    law = LAWS["rehearsal"]
    theta = np.array([GENERAL_TRUTH[parameter.name] for parameter in law.parameters])
    resamples = theta * np.exp(0.01 * np.random.default_rng(0).normal(size=(60, len(theta))))
    member = Member(law, "non_embedding", REFERENCE, theta, resamples, "converged", 1, 1, 1.0, (), (), 0.0)
    return replace(fitted, members=(member,), noise=0.01, drift=0.0, source={"replay_fractions": [0.0, 0.1, 0.5]})
