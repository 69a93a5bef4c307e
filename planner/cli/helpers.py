"""Helper processes that share the work of one command."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from threading import RLock, Thread
from typing import Any

import typer

from planner.cli.paths import default_workers
from planner.errors import PlannerError, StateError

MOST_HELPERS = 3


def _begin(drawing: bool) -> None:
    """Import slow modules while the main process still reads its tables."""
    import planner.fit.fit  # noqa: F401

    if drawing:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    gc.freeze()  # imported objects stay, so the garbage collector need not search them for cycles again and again


def _end_with_parent() -> None:
    """End this process when its parent ends, by whatever signal; otherwise it would wait for tasks for ever."""
    atexit.register(gc.freeze)  # as in `main.main`: the command waits for it to end
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class Helpers(Executor):
    """Processes that are sent a task only when they are free.

    The standard library's pool sends tasks ahead: a busy process holds two more that no other process can take.
    """

    def __init__(self, count: int) -> None:
        self._pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)
        self._free = count
        self._left: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = RLock()

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        """Queue a task; until a process is free it can be cancelled."""
        asked: Future[Any] = Future()
        self._left.append((asked, partial(work, *given, **named)))
        self._send()
        return asked

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes when their tasks are done; see `Executor.shutdown`."""
        if cancel_futures:
            self._left.clear()
        elif wait:
            wait_for([asked for asked, _ in list(self._left)])
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _send(self) -> None:
        with self._lock:
            while self._free and self._left:
                asked, work = self._left.popleft()
                if not asked.set_running_or_notify_cancel():
                    continue
                try:
                    sent = self._pool.submit(work)
                except RuntimeError as error:  # a process was killed, or all are shutting down: whoever waits for this must be told
                    asked.set_exception(_told(error))
                    continue
                self._free -= 1
                sent.add_done_callback(partial(self._ended, asked))

    def _ended(self, asked: Future[Any], sent: Future[Any]) -> None:
        with self._lock:
            self._free += 1
        self._send()
        if error := CancelledError() if sent.cancelled() else sent.exception():
            asked.set_exception(_told(error))
        else:
            asked.set_result(sent.result())


def _told(error: BaseException) -> BaseException:
    """Replace the error of a killed process by one that says so; a task's own errors stay as they are."""
    if not isinstance(error, BrokenProcessPool):
        return error
    return StateError("a helper process was killed, perhaps because memory ran out", remedy="run the command again with fewer other programs running")


@contextmanager
def helpers(context: typer.Context, drawing: bool = False) -> Iterator[Executor | None]:
    """Give helper processes, or None on a machine with one core. They are spawned, since forking with threads running may hang.

    Args:
        context: of the command.
        drawing: whether they will draw.
    """
    count = min(default_workers() - 1, MOST_HELPERS)
    if count < 1:
        yield None
        return
    pool = Helpers(count)
    pool.submit(_begin, drawing)
    try:
        yield pool
    except BaseException as error:
        # Wait for them after the error is printed: at the interpreter's own exit they may be shut down while they end.
        # Where a table is refused, the figures of those before it are still finished.
        context.find_root().call_on_close(partial(pool.shutdown, cancel_futures=not isinstance(error, PlannerError)))
        raise
    pool.shutdown()
