"""Segments as Ray tasks: on this machine, or on the nodes of a cluster that see the sweep's folder under the same path.

Ray places the tasks by what each asks for; `run_sweep` decides which segment is next. Ray's own retries are off, so that
every fault of a worker or a node is counted and reported as those of local workers are.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from planner.engines.demand import Demand, demand_of
from planner.engines.event import Deaths, Event
from planner.engines.worker import ONE_THREAD, Notes, Runner, settle, train, work
from planner.errors import InputError, MissingDependencyError, PlannerWarning, StateError, without_secret
from planner.train.job import Job

POLL = 1.0
"""Seconds between two looks at progress while nothing ends."""
AHEAD = 0.25
"""Tasks queued beyond what fits now, as a share of it: no processor waits for this process, and an autoscaler sees the demand."""
NOTHING_FITS = 20.0
"""Seconds without progress after which a warning names a queued task that fits on no node."""

REACH = 10.0
"""Seconds to wait for an answer from a cluster's address."""


class RayEngine:
    """Runs jobs as Ray tasks."""

    name = "ray"

    def __init__(self, *, address: str | None = None, workers: int | None = None, gpu_memory: float | None = None, runner: Runner = train) -> None:
        """Choose the cluster.

        Args:
            address: "auto", "HOST:PORT" or "ray://HOST:PORT" of a cluster; None to start Ray on this machine, on loopback only.
            workers: processors that Ray may use here; all of them by default. Only without an address.
            gpu_memory: memory of one GPU [bytes], by which small models share one.
            runner: what a task calls; for benchmarks.
        """
        if address is not None and workers is not None:
            raise InputError(f"--workers {workers} has no effect, since --address {without_secret(address)} names a cluster", remedy="omit one of them")
        self._address, self._workers, self._gpu_memory, self._runner = address, workers, gpu_memory, runner

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Run jobs until `next_job` returns None while no task is queued or running.

        Yields:
            Events. Closing the iterator, as Ctrl-C does and SIGTERM as well, ends the tasks.
        """
        stays = _is_connected()
        # Once more when it has started: Ray sets handlers of its own meanwhile.
        with sigterm_interrupts(), connected(self._address, self._workers) as ray, sigterm_interrupts():
            run = _Run(ray, next_job, self._gpu_memory, self._runner)
            try:
                yield from run.events()
            finally:
                if stays:
                    run.cancel()
                # Otherwise the end of the connection ends the tasks. To cancel them first can bring Ray itself down: its check
                # "Tried to complete task that was not pending" fails where a task ends as it is cancelled (seen with 2.60).


@contextmanager
def connected(address: str | None, workers: int | None = None) -> Iterator[Any]:
    """Give the ray module, connected; a connection that was there before is used and left.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT" of a cluster; None to start Ray on this machine, on loopback only.
        workers: processors that Ray may use here; all of them by default.

    Raises:
        InputError: the address is malformed.
        StateError: no cluster answers.
        MissingDependencyError: Ray is not installed.
    """
    ray = import_ray(local=address is None)
    if _is_connected():
        yield ray
        return
    if address is not None:
        _check_reachable(address)
    try:
        if address is None:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except SystemExit:  # Ray's handlers of SIGTERM, while it starts
        raise KeyboardInterrupt from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        where, said = "on this machine", str(error).splitlines()[0]
        if address is not None:
            shown = without_secret(address)
            where, said = f"at {shown}", said.replace(address, shown)
        remedy = "check --address, RAY_AUTH_TOKEN_PATH and ray status"
        raise StateError(f"no Ray cluster answers {where}: {said}", remedy=remedy) from error
    try:
        # No setting silences what Ray itself prints, such as the tail of a dead node's log; an error in a task arrives as its exception.
        ray._private.worker._worker_logs_enabled = False
        if address is None:
            _check_loopback(ray)
        yield ray
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C inside this context."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_connected() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def import_ray(*, local: bool) -> Any:
    """Import Ray.

    Args:
        local: whether it is to serve this machine only; its servers then bind to loopback, which Ray decides at import.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if local and "ray" not in sys.modules:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's switch for "one machine", despite its name
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # other users of this machine reach its loopback too
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # On SIGTERM Ray would print the stack of its native code and abort.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "the package ray is needed for --engine ray and is not installed", remedy="pip install 'compute-allocation-planner[train,ray]'"
        ) from error
    return ray


def _check_reachable(address: str) -> None:
    """Check within seconds that something listens at an address; Ray itself tries for minutes."""
    place = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if place is None:
        if address != "auto":
            raise InputError(f"--address {without_secret(address)!r} is not an address", remedy="give auto, HOST:PORT or ray://HOST:PORT")
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        what = f"no Ray cluster answers at {without_secret(address)}: {error}"
        raise StateError(what, remedy="check --address; ray status on its head node shows it") from error


def _check_loopback(ray: Any) -> None:
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if not addresses <= {"127.0.0.1", "::1"}:
        raise StateError(
            f"Ray would listen on {', '.join(sorted(addresses))}, since this process imported it before",
            remedy="set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before ray is imported, or connect to a cluster with an address",
        )


class _Run:
    """The tasks of one run."""

    def __init__(self, ray: Any, next_job: Callable[[], Job | None], gpu_memory: float | None, runner: Runner) -> None:
        self._ray, self._next_job, self._gpu_memory, self._runner = ray, next_job, gpu_memory, runner
        # A process that held a GPU is not used again: its context and cached memory would count against its successors, and CUDA stays on the
        # GPU that it began with, while Ray may give the next task another.
        self._on_cpu = ray.remote(max_retries=0)(work)
        self._on_gpu = ray.remote(max_retries=0, max_calls=1)(work)
        self._tasks: dict[Any, tuple[Job, Demand]] = {}
        self._queued = {"CPU": 0.0, "GPU": 0.0}
        self._have: dict[str, float] = {}
        self._notes: dict[Path, Notes] = {}
        self._looked = self._read = float("-inf")
        self._deaths = Deaths()
        self._warned = False

    def events(self) -> Iterator[Event]:
        idle = 0.0
        while True:
            while self._room() and (job := self._next_job()) is not None:
                yield self._submit(job)
            if not self._tasks:
                return
            ready = self._ended()
            for reference in ready:
                yield from self._settle(reference)
            yield from self._progress()
            idle = 0.0 if ready else idle + POLL
            if idle >= NOTHING_FITS:
                self._warn_if_nothing_fits()

    def cancel(self) -> None:
        """End the tasks, where the connection outlives the run."""
        for reference in self._tasks:
            with suppress(Exception):  # one that has just ended, or a cluster that is gone: what matters is what ended this run
                self._ray.cancel(reference, force=True)

    def _submit(self, job: Job) -> Event:
        try:
            demand = demand_of(job, self._gpu_memory)
        except InputError as error:
            return Event("failed", job, message=str(error))
        self._queue(job, demand)
        return Event("started", job)

    def _queue(self, job: Job, demand: Demand) -> None:
        task = self._on_gpu if demand.gpus else self._on_cpu
        options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "name": job.segment.segment_id}
        if not demand.gpus:
            options["memory"] = demand.memory
        told = replace(job, gpu_memory=self._gpu_memory)  # the demand was computed for it, and it splits the batch into the same passes
        reference = task.options(**options, runtime_env={"env_vars": ONE_THREAD}).remote(settle(told), self._runner)
        self._tasks[reference] = (job, demand)
        self._queued["CPU"] += demand.cpus
        self._queued["GPU"] += demand.gpus

    def _room(self) -> bool:
        """Tell whether to queue another task: up to what the nodes hold, and a little more."""
        now = time.monotonic()
        if now - self._looked > POLL:
            self._looked, self._have = now, self._ray.cluster_resources()
        return all(used < max(1.0, self._have.get(name, 0.0)) * (1 + AHEAD) for name, used in self._queued.items() if used > 1e-9)

    def _ended(self) -> list[Any]:
        """Wait briefly for a task to end; return all that have."""
        tasks = list(self._tasks)
        ready, _ = self._ray.wait(tasks, num_returns=1, timeout=POLL)
        if ready:
            ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return list(ready)

    def _settle(self, reference: Any) -> Iterator[Event]:
        """Turn an ended task into its event."""
        errors = self._ray.exceptions
        job, demand = self._tasks.pop(reference)
        self._queued["CPU"] -= demand.cpus
        self._queued["GPU"] -= demand.gpus
        try:
            result, message = self._ray.get(reference)
        except errors.OutOfMemoryError:
            yield from self._again(job, demand, "worker", "the node ran out of memory")
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError, errors.RuntimeEnvSetupError):
            if not any(node["Alive"] for node in self._ray.nodes()):
                raise StateError("no node of the Ray cluster is left", remedy="restart the cluster; the same command continues from there") from None
            yield from self._again(job, demand, "node", "")
        except (errors.WorkerCrashedError, errors.OutOfDiskError, errors.RaySystemError):
            yield from self._again(job, demand, "worker", "out of memory, or killed, or its node was")
        except errors.RayError as error:  # the task could not start: a package or a folder is missing there
            yield Event("failed", job, message=f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        else:
            yield Event("finished", job, result=result) if result is not None else Event("failed", job, message=message)

    def _again(self, job: Job, demand: Demand, what: str, cause: str) -> Iterator[Event]:
        Notes(job.folder).clear(job.segment.segment_id)
        event = self._deaths.another(job, what, cause)
        if event.kind == "worker_died":
            self._queue(job, demand)
        yield event

    def _progress(self) -> Iterator[Event]:
        now = time.monotonic()
        if now - self._read < POLL:
            return
        self._read = now
        jobs = {job.segment.segment_id: job for job, _ in self._tasks.values()}
        for folder in {job.folder for job in jobs.values()}:
            notes = self._notes.setdefault(folder, Notes(folder))
            for name, steps in notes.news(jobs):
                yield Event("steps", jobs[name], steps=steps)

    def _warn_if_nothing_fits(self) -> None:
        """Warn once that no node is large enough; an autoscaler may still add one."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for job, demand in self._tasks.values():
            wants = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": 0.0 if demand.gpus else demand.memory}
            if not self._warned and not any(all(node.get(key, 0) >= value for key, value in wants.items()) for node in nodes):
                self._warned = True
                asks = f"{demand.cpus} CPU, {demand.gpus:g} GPU and {demand.memory / 1e9:.2g} GB of memory"
                text = f"no node of the cluster has the {asks} that {job.segment.segment_id} asks for"
                warnings.warn(f"{text}; it waits for one (see ray status)", PlannerWarning, stacklevel=2)
