"""A sweep of five endpoints in twelve segments, small enough to be trained again in every test."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.corpus.store import Corpus

SWEEP = """
corpus = "{corpus}"
sizes = ["10k"]
tokens_pt = {tokens_pt}
tokens_spec = [0, "21k"]
unique_spec = ["5k"]
eval_tokens = 640
[recipe]
seq_len = 32
batch_sequences = 3
warmup_steps = 20
lr_coefficient = {rate}
"""


def lay_out(folder: Path, corpus: Corpus, rate: float = 4e-3, tokens_pt: str = '[0, "21k", "28k"]') -> Path:
    """Write the sweep's file."""
    folder.mkdir(parents=True)
    (folder / "sweep.toml").write_text(SWEEP.format(corpus=corpus.folder.resolve(), rate=rate, tokens_pt=tokens_pt))
    return folder


def lay_out_last(folder: Path, corpus: Corpus, undisturbed: Path) -> Path:
    """Write the sweep's file, and the undisturbed sweep's records of all endpoints but the last of a chain of six segments."""
    lay_out(folder, corpus)
    (folder / "records").mkdir()
    for record in (undisturbed / "records").iterdir():
        if record.name != "n10000-s0-pt292-u5000-sp219-end.json":
            (folder / "records" / record.name).write_bytes(record.read_bytes())
    assert len(list((folder / "records").iterdir())) == 4
    return folder


def start(folder: Path, *options: str, env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[str]:
    """Run the sweep with the command line, in a process of its own."""
    command = [sys.executable, "-m", "planner.cli.main", "sweep", "run", str(folder), *options]
    # Tests that are run in the background ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, **how)
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 180.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds:g} s"
        time.sleep(0.02)


def states(folder: Path) -> list[Path]:
    """List the states on disk."""
    return sorted((folder / "state").glob("n*.safetensors"))


def assert_whole(folder: Path, undisturbed: Path) -> None:
    """Check that no run was lost or made twice, that the table is the undisturbed one, and that nothing is left lying about."""
    assert (folder / "runs.csv").read_bytes() == (undisturbed / "runs.csv").read_bytes()
    records = sorted(path.name for path in (folder / "records").iterdir() if not path.name.endswith(".torn"))
    assert records == sorted(path.name for path in (undisturbed / "records").iterdir())
    assert not states(folder), "states outlive their use"
    left = [path.name for path in (folder / "state").iterdir() if path.name.startswith(".")]
    assert not left, "halves of files stay behind"
    assert not list(folder.glob("*.lock*")), "the lock outlives its runner"
