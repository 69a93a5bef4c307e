"""Workers on this machine: long-lived processes, one segment at a time each. A killed worker is replaced, its segment repeated."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from planner.train.allocator import tune_allocator
from planner.train.job import Job, Result

MAX_DEATHS = 3
"""Worker deaths that one segment may cause before it counts as failed."""


@dataclass(frozen=True)
class Event:
    """Something a worker reports."""

    kind: str
    """"started", "steps", "finished", "failed" or "worker_died"."""
    job: Job
    """The job it is about."""
    steps: int = 0
    """Steps done, for "steps"."""
    result: Result | None = None
    """For "finished"."""
    message: str = ""
    """For "failed" and "worker_died"."""


class LocalEngine:
    """Runs jobs in worker processes; jobs are handed out by a callable, so that the scheduler can wait for parents."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Run jobs until `next_job` returns None while no worker is busy.

        Args:
            next_job: returns a job that can start now, or None if there is none at the moment.

        Yields:
            Events, in the order in which they arrive. Closing the iterator ends the workers.
        """
        context = multiprocessing.get_context("spawn")
        pool = [_Worker(context) for _ in range(self._workers)]
        deaths: dict[str, int] = {}
        try:
            while True:
                for worker in pool:
                    if worker.job is None and (job := next_job()) is not None:
                        worker.start(job)
                        yield Event("started", job)
                busy = [worker for worker in pool if worker.job is not None]
                if not busy:
                    return
                ready = wait([item for worker in busy for item in (worker.pipe, worker.process.sentinel)])
                for worker in busy:
                    if worker.pipe not in ready and worker.process.sentinel not in ready:
                        continue
                    job = worker.job
                    assert job is not None
                    try:
                        kind, value = worker.pipe.recv()
                    except (EOFError, OSError):
                        worker.replace()
                        name = job.segment.segment_id
                        deaths[name] = deaths.get(name, 0) + 1
                        if deaths[name] >= MAX_DEATHS:
                            yield Event("failed", job, message=f"its worker died {MAX_DEATHS} times (out of memory, or killed)")
                        else:
                            yield Event("worker_died", job, message="its worker died; the segment is trained again")
                            worker.start(job)
                        continue
                    if kind == "steps":
                        yield Event("steps", job, steps=value)
                        continue
                    worker.job = None
                    yield Event("finished", job, result=value) if kind == "done" else Event("failed", job, message=value)
        finally:
            for worker in pool:
                worker.end()


class _Worker:
    def __init__(self, context: Any) -> None:
        self._context = context
        self.job: Job | None = None
        self._spawn()

    def _spawn(self) -> None:
        self.pipe, other = self._context.Pipe()
        # Threads are fixed before numpy or torch start in the child: the environment is read when their libraries load.
        before = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        try:
            self.process = self._context.Process(target=_work, args=(other, os.getpid()), daemon=True)
            self.process.start()
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
        other.close()

    def start(self, job: Job) -> None:
        self.job = job
        try:
            self.pipe.send(job)
        except (BrokenPipeError, OSError):  # it died while idle
            self.replace()
            self.pipe.send(job)

    def replace(self) -> None:
        self.end()
        self._spawn()

    def end(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, parent: int) -> None:
    """Serve jobs until the pipe closes; stop soon after the parent has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle; it ends its workers
    tune_allocator()
    from planner.train.segment import run_segment

    def report(steps: int) -> None:
        if os.getppid() != parent:
            os._exit(1)
        pipe.send(("steps", steps))

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str, Any] = ("done", run_segment(job, report=report))
        except Exception as error:  # whatever it is, the runner must hear of it and go on with the rest
            answer = ("error", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=8)}")
        try:
            pipe.send(answer)
        except (BrokenPipeError, OSError):
            return
