"""Work shared between this process and those beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any


def shared(pool: Executor | None, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], done: Callable[[float], None]) -> list[Any]:
    """Do tasks, the first in the pool's processes and the last here until they meet; return the results in the order of the tasks.

    Args:
        pool: the processes; None does all here.
        work: what to do; it and the tasks can be sent to a process.
        tasks: its arguments.
        done: told the share of the tasks done.
    """
    waiting = [pool.submit(work, *task) for task in tasks] if pool is not None else []
    results: list[Any] = [None] * len(tasks)
    for count, number in enumerate(reversed(range(len(tasks)))):
        done(count / len(tasks))
        results[number] = work(*tasks[number]) if not waiting or waiting[number].cancel() else waiting[number].result()
    return results
