"""The sweep as it ends when nothing goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.corpus.store import Corpus
from planner.engines.local import LocalEngine
from planner.sweep import Sweep, run_sweep
from tests.engines.tiny import lay_out


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """Train the tiny sweep with the local engine."""
    pytest.importorskip("torch")
    folder = lay_out(tmp_path_factory.mktemp("undisturbed") / "tiny", corpus)
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    return folder
