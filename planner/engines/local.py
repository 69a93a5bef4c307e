"""Workers on this machine: long-lived processes, one segment at a time each. A killed worker is replaced, its segment repeated.

Those on CPUs are forked from one process that has imported what they need, so that it is imported once and not by each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from planner.engines.event import Deaths, Event
from planner.engines.worker import answer, one_thread
from planner.errors import StateError
from planner.train.allocator import tune_allocator
from planner.train.job import Job

ATTEMPTS, PAUSE = 2, 0.5
"""Attempts to start a worker, and seconds between them."""


class LocalEngine:
    """Runs jobs in worker processes; jobs are handed out by a callable, so that the scheduler can wait for parents."""

    name = "local"

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        """Choose the workers.

        Args:
            workers: processes.
            gpus: GPUs, as CUDA_VISIBLE_DEVICES names them, that they are spread over; none for workers on CPUs.
        """
        self._workers, self._gpus = workers, tuple(gpus)

    def places(self) -> list[tuple[str | None, int]]:
        """Return the GPU of each worker, and how many workers have it."""
        if not self._gpus:
            return [(None, 1)] * self._workers
        chosen = [self._gpus[number % len(self._gpus)] for number in range(self._workers)]
        return [(gpu, chosen.count(gpu)) for gpu in chosen]

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Run jobs until `next_job` returns None while no worker is busy.

        Args:
            next_job: returns a job that can start now, or None if there is none at the moment.

        Yields:
            Events, in the order in which they arrive. Closing the iterator ends the workers.
        """
        context = _context(bool(self._gpus))
        pool: list[_Worker] = []
        deaths = Deaths()
        try:
            for gpu, sharers in self.places():
                pool.append(_Worker(context, gpu, sharers))
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
                        event = deaths.another(job, "worker", "out of memory, or killed")
                        worker.job = None
                        if event.kind == "worker_died":
                            worker.start(job)
                        yield event
                        continue
                    if kind == "steps":
                        yield Event("steps", job, steps=value)
                        continue
                    worker.job = None
                    result, message = value
                    yield Event("finished", job, result=result) if result is not None else Event("failed", job, message=message)
        finally:
            for worker in pool:
                worker.end()


def _context(on_gpus: bool) -> Any:
    """Choose how workers start: by fork where that is safe, which it is not with macOS's own threads, nor where an import may have initialised CUDA."""
    if on_gpus or sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["planner.train.preload"])
    resource_tracker.ensure_running()  # the fork server would start it, and it unblocks what is blocked here
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C during the imports would print a traceback
    try:
        with one_thread():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


class _Worker:
    def __init__(self, context: Any, gpu: str | None, sharers: int) -> None:
        self._context, self._gpu, self._sharers = context, gpu, sharers
        self.job: Job | None = None
        self._spawn()

    def _spawn(self) -> None:
        for attempt in range(ATTEMPTS):
            self.pipe, other = self._context.Pipe()
            try:
                # Before it starts: CUDA reads it once, and the first of the visible GPUs is the one that a segment trains on.
                with one_thread({} if self._gpu is None else {"CUDA_VISIBLE_DEVICES": self._gpu}):
                    self.process = self._context.Process(target=_work, args=(other,), daemon=True)
                    self.process.start()
                return
            except (EOFError, ConnectionError) as error:  # the process that workers are forked from was killed: it is restarted
                self.pipe.close()
                if attempt == ATTEMPTS - 1:
                    why = str(error) or "the process that workers are forked from was killed"
                    raise StateError(
                        f"no worker could be started: {why}",
                        remedy="check that this machine has memory and processes to spare, and run the command again; finished work is kept",
                    ) from None
                time.sleep(PAUSE)  # until it is seen to be gone
            finally:
                other.close()

    def start(self, job: Job) -> None:
        self.job = job
        told = replace(job, gpu_sharers=self._sharers)
        try:
            self.pipe.send(told)
        except OSError:  # it died while idle
            self.replace()
            self.pipe.send(told)

    def replace(self) -> None:
        self.end()
        self._spawn()

    def end(self) -> None:
        if self.process.pid is not None:  # it was started
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _work(pipe: Connection) -> None:
    """Serve jobs until the pipe closes; stop soon after the parent is gone: the runner, or the process forked from, which ends with it."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle; it ends its workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # it is blocked in the process that this was forked from, and compilers would inherit that
    tune_allocator()

    def report(steps: int) -> None:
        if os.getppid() != parent:
            os._exit(1)
        pipe.send(("steps", steps))

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        value = answer(job, report)
        try:
            pipe.send(("done", value))
        except OSError:
            return
