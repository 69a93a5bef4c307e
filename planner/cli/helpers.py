"""Other processes to share the work of one command with."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from planner.cli.paths import default_workers

MOST = 3


def _begin(drawing: bool) -> None:
    """Import, while the first process still reads, what takes long to import."""
    import planner.fit.fit  # noqa: F401

    if drawing:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401


@contextmanager
def helpers(drawing: bool = False) -> Iterator[Executor | None]:
    """Give processes beside this one, or None on a machine with one core. They are started fresh, since a fork beside threads may hang.

    Args:
        drawing: whether they will draw.
    """
    count = min(default_workers() - 1, MOST)
    if count < 1:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_begin, drawing)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
