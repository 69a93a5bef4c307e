"""Other processes to share the work of one command with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import typer

from planner.cli.paths import default_workers

MOST = 3


def _begin(drawing: bool) -> None:
    """Import, while the first process still reads, what takes long to import."""
    import planner.fit.fit  # noqa: F401

    if drawing:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401


@contextmanager
def helpers(context: typer.Context, drawing: bool = False) -> Iterator[Executor | None]:
    """Give processes beside this one, or None on a machine with one core. They are started fresh, since a fork beside threads may hang.

    Args:
        context: of the command.
        drawing: whether they will draw.
    """
    count = min(default_workers() - 1, MOST)
    if count < 1:
        yield None
        return
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    pool.submit(_begin, drawing)
    try:
        yield pool
    except BaseException:
        # They are waited for when the error has been told: at the interpreter's own exit they may be told to end while they do.
        context.find_root().call_on_close(partial(pool.shutdown, cancel_futures=True))
        raise
    pool.shutdown()
