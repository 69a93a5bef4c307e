"""One trainer a launch folder, whoever started its ranks."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.errors import StateError
from planner.lock import NAME, holder_of, this_process
from planner.train.full.plan import STATES_FOLDER
from planner.train.full.run_lock import run_lock, start_name
from tests.train.full.runs import at, lay, run_here, start, wait_for

FOREIGN = {"host": "node7", "boot": "other", "pid": 12, "token": "t", "since": "2026-01-01", "engine": "slurm, job 77.0"}


def hold(folder: Path, **holder: Any) -> Path:
    """Write a lock as a first rank has it."""
    path = folder / STATES_FOLDER / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(holder) + "\n")
    return path


def test_ranks_started_by_hand_are_not_joined_by_a_second_launch(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    ranks = start(folder, {"wait": 0.2})
    try:
        wait_for(folder, ranks, 3)
        laid = (folder / "full.json").read_bytes()
        for options in ([], ["--engine", "slurm"]):
            result = CliRunner().invoke(app, ["launch", f"{folder}.json", "--out", str(folder), "--save-every", "7", *options])
            assert result.exit_code == 2 and "is being trained by process" in result.stderr and "torchrun" in result.stderr, result.stderr
        with pytest.raises(StateError, match="is being trained by process"):
            run_here(folder)
        before = at(folder)
        wait_for(folder, ranks, before + 2)  # undisturbed
        assert (folder / "full.json").read_bytes() == laid
    finally:
        (folder / "stop").touch()
        assert ranks.wait(timeout=180) == 0
    assert holder_of(folder / STATES_FOLDER) is None


def test_ranks_on_another_machine_are_not_joined(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    lock = hold(folder, **FOREIGN)
    result = CliRunner().invoke(app, ["launch", f"{folder}.json", "--out", str(folder)])
    assert result.exit_code == 2 and "node7" in result.stderr and "job 77.0" in result.stderr and str(lock) in result.stderr.replace("\n", "")
    assert lock.exists() and not (folder / "metrics.jsonl").exists()


def test_a_job_that_slurm_put_back_goes_on_and_another_job_does_not(tmp_path: Path) -> None:
    name = start_name({"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}, slurm=True)
    assert name == FOREIGN["engine"]
    hold(tmp_path, **FOREIGN)
    with pytest.raises(StateError, match="node7"), run_lock(tmp_path, "slurm, job 78.0", restarts=True):
        pass
    with run_lock(tmp_path, name, restarts=True):
        holder = holder_of(tmp_path / STATES_FOLDER)
        assert holder is not None and holder["pid"] == this_process()["pid"]
    assert not (tmp_path / STATES_FOLDER / NAME).exists()


def test_the_lock_of_a_rank_that_was_killed_here_is_taken_over(tmp_path: Path) -> None:
    hold(tmp_path, **{**this_process(), "pid": 2**22 + 1, "token": "t", "engine": "local"})
    with run_lock(tmp_path, "local", restarts=False):
        assert (holder_of(tmp_path / STATES_FOLDER) or {})["pid"] == os.getpid()
