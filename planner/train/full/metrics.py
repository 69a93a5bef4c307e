"""Metrics of a run while it trains: metrics.jsonl, TensorBoard, Weights & Biases. Written by the first rank only.

A line is one of three kinds: "step", "evaluation" and "event" (a rollback, a stop, a verdict on the forecast). After a resume or a rollback, the lines of
steps that are trained again are deleted with their verdicts, so that each step is in the file once.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, TextIO

from planner.artifacts import plain, sha256_file, write_text
from planner.errors import MissingDependencyError
from planner.train.full.plan import Settings

FILE = "metrics.jsonl"
CURVES_EVERY = 10
"""Steps between two points in TensorBoard and Weights & Biases."""
WANDB_STEP = "steps"
"""Horizontal axis of the curves in Weights & Biases."""
TELL_EVERY = 20.0
"""Seconds between two lines in the log."""
log = logging.getLogger("planner.full")


class Metrics:
    """The outputs of one run."""

    def __init__(self, folder: Path, settings: Settings, name: str, *, resumed_at: int) -> None:
        """Open the outputs.

        Args:
            folder: the launch folder.
            settings: which outputs to write.
            name: name of the run.
            resumed_at: steps already done.

        Raises:
            MissingDependencyError: one that was asked for is not installed.
        """
        self._path = folder / FILE
        self._told = time.monotonic()
        self._file: TextIO | None = None
        self._boards = folder / "tensorboard" if settings.tensorboard else None
        self._board: Any = None
        self._wandb = _wandb(settings.wandb, folder, name) if settings.wandb else None
        self.rewind(resumed_at)

    def rewind(self, step: int) -> None:
        """Drop the lines of steps after `step`, and damaged ones; events stay, except verdicts on the forecast: their losses are measured again."""
        if self._boards is not None:  # a new event file there purges the points of later steps
            if self._board is not None:
                self._board.close()
            self._board = _board(self._boards, step)
        if self._file is not None:
            self._file.close()
        if self._path.exists():
            lines = [line for line in read_metrics(self._path) if line["step"] <= step or (line["kind"] == "event" and line.get("what") != "forecast")]
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        # Reopened, since rewriting replaces the file.
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one line.

        Args:
            kind: "step", "evaluation" or "event".
            step: steps of the run done.
            values: further fields.
        """
        assert self._file is not None
        self._file.write(json.dumps(plain({"kind": kind, "step": step, **values}), allow_nan=False) + "\n")
        self._file.flush()
        if kind == "event" or time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            log.info("step %d: %s", step, ", ".join(f"{key} {_short(value)}" for key, value in values.items() if value is not None))
        if kind == "event" or (kind == "step" and step % CURVES_EVERY):
            return
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(f"{kind}/{key}", value, step)
        if self._wandb is not None:
            self._wandb.log({WANDB_STEP: step, **{f"{kind}/{key}": value for key, value in numbers.items()}})

    def close(self) -> None:
        """Flush and close all outputs."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics file, skipping damaged ones, such as a last line cut short by a kill."""
    return parse(path.read_bytes()) if path.exists() else []


def parse(data: bytes) -> list[dict[str, Any]]:
    """Read the lines of a piece of a metrics file, skipping damaged ones."""
    found = []
    for text in data.split(b"\n"):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("kind"), str) and isinstance(line.get("step"), int):
            found.append(line)
    return found


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError("TensorBoard events were requested, but tensorboard is not installed", remedy="pip install tensorboard") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(project: str, folder: Path, name: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError("Weights & Biases was requested, but wandb is not installed", remedy="pip install wandb") from error
    # wandb finds its own key; nothing of the environment is passed on or recorded. A launch has one curve, however often it is resumed.
    identity = sha256_file(folder / "launch.json")[:16]
    run = wandb.init(project=project, name=f"{folder.name}/{name}", dir=str(folder), id=identity, resume="allow", save_code=False)
    # wandb's own step counter only grows: steps trained again after a rollback or a kill would be dropped.
    run.define_metric(WANDB_STEP)
    run.define_metric("*", step_metric=WANDB_STEP)
    return run
