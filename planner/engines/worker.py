"""What a worker of any engine does: one job in, one answer out, and notes of its progress in between."""

from __future__ import annotations

import os
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from planner.train.allocator import tune_allocator
from planner.train.job import Job, Result

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Read when the libraries load, so they must be set before numpy or torch; more threads would also change the last digits."""
NOTE_EVERY = 2.0
"""Seconds between two notes of a segment's progress."""

Report = Callable[[int], None]
Runner = Callable[[Job, Report], Result]


@contextmanager
def one_thread(more: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set, for processes started inside, the variables that must be set before numpy or torch load, and `more` of them."""
    given = {**ONE_THREAD, **(more or {})}
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def train(job: Job, report: Report) -> Result:
    """Train a job's segment in this process."""
    from planner.train.segment import run_segment

    return run_segment(job, report=report)


def answer(job: Job, report: Report, runner: Runner = train) -> tuple[Result | None, str]:
    """Run a job; return its result, or None and the message of what went wrong. Never raises, so that the runner goes on with the rest."""
    try:
        return runner(job, report), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=8)}"


def settle(job: Job) -> Job:
    """Make every path of a job absolute: a worker elsewhere has another working directory."""
    paths: dict[str, Any] = {field.name: value.resolve() for field in fields(job) if isinstance(value := getattr(job, field.name), Path)}
    return replace(job, **paths)


class Notes:
    """Progress of segments as small files beside the states, for workers with no pipe to the runner.

    They serve the progress bar only: a note that cannot be written or read is skipped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "state" / "steps"
        self._told: dict[str, int] = {}

    def writer(self, name: str) -> Report:
        """Make the `report` of a segment."""
        last = time.monotonic()

        def report(steps: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < NOTE_EVERY:
                return
            last = now
            path = self._folder / name
            temporary = self._folder / f".{name}.{secrets.token_hex(4)}"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                temporary.write_text(str(steps))
                os.replace(temporary, path)
            except OSError:
                temporary.unlink(missing_ok=True)

        return report

    def clear(self, name: str) -> None:
        """Remove a segment's note."""
        self._told.pop(name, None)
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError:
            return

    def news(self, names: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Yield each of these segments whose note has changed, with its steps."""
        try:
            present = {entry.name for entry in os.scandir(self._folder)}
        except OSError:
            return
        for name in present.intersection(names):
            try:
                steps = int((self._folder / name).read_text())
            except (OSError, ValueError):
                continue
            if self._told.get(name) != steps:
                self._told[name] = steps
                yield name, steps


def work(job: Job, runner: Runner = train) -> tuple[Result | None, str]:
    """Serve one job as a task of a cluster: the allocator tuned, progress noted in the sweep's folder."""
    tune_allocator()
    notes, name = Notes(job.folder), job.segment.segment_id
    try:
        return answer(job, notes.writer(name), runner)
    finally:
        notes.clear(name)
