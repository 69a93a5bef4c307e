"""Segments as Slurm batch jobs, submitted with submitit: one job a segment, state and outcome on the shared folder.

On disk: submitit pickles the function `serve` by name and a `Job`, which is plain data; a compute node reads that back, in
submitit's own format. This process reads no pickle: a job leaves its outcome as JSON, and its number is noted as JSON, so
that if this process dies the next one waits for the jobs that still run instead of repeating them.
"""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from planner.artifacts import read_json, write_text
from planner.engines.demand import demand_of, host_bytes
from planner.engines.event import Deaths, Event
from planner.engines.worker import ONE_THREAD, Notes, Runner, one_thread, settle, train, work
from planner.errors import InputError, MissingDependencyError, PlannerError, StateError
from planner.sbatch import check_options, minutes
from planner.train.job import Job, Result

JOBS_AT_ONCE = 64
"""Jobs queued or running, by default: sites limit how many one user may submit."""
MINUTES = 240
"""Time limit of a job, by default; segments of a sweep take minutes."""
RETRY_AFTER = 10.0
"""Seconds before a submission that Slurm refused is tried again."""
OURS = ("array", "chdir", "cpus-per-task", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "signal", "wrap")
"""Options that the engine sets itself."""
WAITING = ("PENDING", "CONFIGURING", "UNKNOWN", "READY", "REQUEUED", "QUEUED")


def serve(job: Job, outcome: str, runner: Runner = train) -> None:
    """Run one job on a compute node and leave its outcome as a JSON file."""
    result, message = work(job, runner)
    body: dict[str, Any] = {"message": message}
    if result is not None:
        body = {"outcome": result.outcome, "seconds": result.seconds, "reason": result.reason}
    write_text(Path(outcome), json.dumps(body) + "\n")


@dataclass(frozen=True)
class Pace:
    """How often to look, in seconds of a monotonic clock."""

    poll: float = 5.0
    """Between two looks at the folder."""
    ask: float = 30.0
    """Between two queries to Slurm, at most."""
    grace: float = 60.0
    """How long the outcome of a job that has ended may take to appear on the shared folder."""


class SlurmEngine:
    """Runs jobs as Slurm batch jobs."""

    name = "slurm"

    def __init__(
        self, *, partition: str | None = None, options: Mapping[str, str] | None = None, jobs_at_once: int = JOBS_AT_ONCE,
        cluster: str = "slurm", pace: Pace | None = None, runner: Runner = train,
    ) -> None:  # fmt: skip
        """Choose where jobs go.

        Args:
            partition: Slurm's partition; the site's default otherwise.
            options: further options of sbatch, such as account, qos or time.
            jobs_at_once: jobs queued or running.
            cluster: submitit's executor, "slurm"; "local" and "debug" run on this machine, for tests.
            pace: how often to look.
            runner: what a job calls; for tests.

        Raises:
            InputError: an option that the engine sets itself, or a value that could reach a shell.
        """
        self._options = {**(options or {}), **({"partition": partition} if partition else {})}
        check_options(self._options, OURS)
        self._minutes = minutes(self._options.pop("time", str(MINUTES)))
        self._at_once, self._cluster, self._pace, self._runner = jobs_at_once, cluster, pace or Pace(), runner

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Run jobs until `next_job` returns None while none is queued or running.

        Yields:
            Events. Closing the iterator, as Ctrl-C does, cancels the jobs.
        """
        submitit = import_submitit()
        from planner.engines.slurm_queue import QueueWatcher

        submitit.SlurmJob.watcher = QueueWatcher(self._pace.ask)
        running: dict[str, _Batch] = {}
        again: list[tuple[float, Job]] = []
        deaths = Deaths()

        def take() -> Job | None:
            for number, (when, delayed) in enumerate(again):
                if when <= time.monotonic():
                    del again[number]
                    return delayed
            fresh = next_job() if len(running) + len(again) < self._at_once else None
            return None if fresh is None else settle(fresh)

        try:
            while True:
                while (job := take()) is not None:
                    try:
                        running[job.segment.segment_id] = self._begin(submitit, job)
                    except SubmissionError as error:
                        event = deaths.another(job, "submission", str(error))
                        if event.kind == "worker_died":
                            again.append((time.monotonic() + RETRY_AFTER, job))
                        yield event
                if not running and not again:
                    return
                if self._cluster != "debug":
                    time.sleep(self._pace.poll)
                for name, batch in list(running.items()):
                    for event in batch.look(self._pace.grace):
                        if event.kind == "lost":
                            event = deaths.another(batch.job, "batch job", event.message)
                            if event.kind == "worker_died":
                                again.append((time.monotonic(), batch.job))
                        if event.kind in ("finished", "failed", "worker_died"):
                            batch.forget()
                            del running[name]
                        yield event
        finally:
            for batch in running.values():
                batch.cancel()

    def _begin(self, submitit: Any, job: Job) -> _Batch:
        """Wait for the job that an earlier runner submitted for this segment, or submit one."""
        folder = job.folder / "state" / "slurm"
        _check_folder(folder)
        batch = _Batch(job, folder)
        if batch.note.exists() and (batch.left or not batch.outcome.exists()):
            try:
                note = read_json(batch.note)
                if note["cluster"] == self._cluster == "slurm":
                    batch.handle = submitit.SlurmJob(folder=folder / "%j", job_id=str(note["job_id"]))
                    if batch.left or not batch.handle.done(force_check=True):
                        return batch
            except (PlannerError, KeyError):
                pass  # a torn note: the segment is submitted again
        batch.forget()
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # submitit's own
            try:
                executor = self._executor(submitit, folder, job)
                batch.handle = executor.submit(serve, job, str(batch.outcome), self._runner)
            except (OSError, RuntimeError) as error:
                raise SubmissionError((str(error).strip().splitlines() or ["sbatch gave no reason"])[-1]) from error
        write_text(batch.note, json.dumps({"job_id": str(batch.handle.job_id), "cluster": self._cluster}) + "\n")
        return batch

    def _executor(self, submitit: Any, folder: Path, job: Job) -> Any:
        try:
            # A new one for each job: submitit spaces the jobs of one executor by the wall clock, which may jump.
            executor = submitit.AutoExecutor(folder=folder / "%j", cluster=self._cluster)
        except RuntimeError as error:
            raise StateError(f"there is no Slurm here: {error}", remedy="run plan on a login node of the cluster, or use --engine ray") from error
        demand, options = demand_of(job), dict(self._options)
        chosen: dict[str, Any] = {"name": job.segment.segment_id, "cpus_per_task": demand.cpus, "timeout_min": self._minutes}
        if not {"mem", "mem-per-cpu", "mem-per-gpu"} & set(options):
            chosen["mem_gb"] = ceil(host_bytes(job) / 1e9) if demand.gpus else ceil(demand.memory / 1e9) + 1
        if demand.gpus and not {"gres", "gpus", "gpus-per-task", "gpus-per-node"} & set(options):
            chosen["gpus_per_node"] = ceil(demand.gpus)
        exports = [f"export {key}={value}" for key, value in ONE_THREAD.items()]
        executor.update_parameters(**chosen, slurm_additional_parameters=options, slurm_setup=exports)
        return executor


class SubmissionError(Exception):
    """Slurm did not take a job."""


class _Batch:
    """One segment as a batch job."""

    def __init__(self, job: Job, folder: Path) -> None:
        name = job.segment.segment_id
        self.job, self.handle = job, None  # type: Job, Any
        self.note, self.outcome = folder / f"{name}.job.json", folder / f"{name}.outcome.json"
        self._notes = Notes(job.folder)
        self._started = False
        self._silent_since: float | None = None

    def look(self, grace: float) -> Iterator[Event]:
        """Yield what is new; "lost" if the job has ended and no complete outcome has appeared within `grace` seconds."""
        now = time.monotonic()
        name = self.job.segment.segment_id
        there = self.outcome.name in {entry.name for entry in os.scandir(self.outcome.parent)}
        told = self._told() if there else None
        ended = there or self.handle.done()
        if not self._started and (ended or self.handle.state.upper() not in WAITING):
            self._started = True
            yield Event("started", self.job)
        for _, steps in self._notes.news([name]):
            yield Event("steps", self.job, steps=steps)
        if told is not None:
            yield self._event(told)
        elif ended or self.handle.state.upper().startswith("PREEMPTED"):  # a preempted job that is queued again leaves that state
            self._silent_since = self._silent_since or now
            if now - self._silent_since >= grace:
                self.cancel()
                yield Event("lost", self.job, message=f"{self.handle.state.lower()}; log: {self.handle.paths.stderr}")
        else:
            self._silent_since = None

    def _told(self) -> dict[str, Any] | None:
        """Read the outcome; None if it is missing, or torn, which counts as missing."""
        try:
            body = read_json(self.outcome)
        except InputError:
            return None
        return body if {"outcome", "seconds", "reason"} <= body.keys() or ("message" in body and "outcome" not in body) else None

    def _event(self, body: dict[str, Any]) -> Event:
        if "outcome" not in body:
            return Event("failed", self.job, message=str(body.get("message")))
        return Event("finished", self.job, result=Result(body["outcome"], body["seconds"], body["reason"]))

    @property
    def left(self) -> bool:
        """Whether the job succeeded and its product exists: one of an earlier runner may finish after this runner listed what is left to train."""
        product = self.job.state_path if self.job.segment.cell is None else self.job.record_path
        return self._told() is not None and (product.exists() or self.job.diverged_path.exists())

    def forget(self) -> None:
        """Remove the note and the outcome; the log stays."""
        for path in (self.note, self.outcome):
            path.unlink(missing_ok=True)
        self._notes.clear(self.job.segment.segment_id)

    def cancel(self) -> None:
        """Cancel the job."""
        self.handle.cancel(check=False)


def import_submitit() -> Any:
    """Import submitit.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise MissingDependencyError(
            "the package submitit is needed for --engine slurm and is not installed", remedy="pip install 'compute-allocation-planner[train,slurm]'"
        ) from error
    return submitit


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose name a shell or Slurm could interpret as more than text.

    Raises:
        InputError: it holds such a character.
    """
    if wrong := re.search(r"[^\w .,:;=@+/()\[\]*&|!~^-]", str(folder)):
        what = f"the sweep's folder is {str(folder)!r}, which contains {wrong[0]!r}"
        raise InputError(what, remedy="use letters, digits and . , : ; = @ + - / only")
