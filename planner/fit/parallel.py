"""Work shared between this process and a pool of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any


def run_tasks(pool: Executor | None, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], done: Callable[[float], None]) -> list[Any]:
    """Run tasks, some in the pool's processes and the others here; return the results in the order of the tasks.

    Both take the next task that waits, so that two parts of one law, which take equally long, run side by side.

    Args:
        pool: the processes; None runs all tasks here.
        work: the function; it and the tasks can be pickled.
        tasks: its arguments.
        done: called with the share of the tasks done.
    """
    waiting = [pool.submit(work, *task) for task in tasks] if pool is not None else []
    results: list[Any] = [None] * len(tasks)
    sent = []
    for number, task in enumerate(tasks):
        done(number / len(tasks))
        if waiting and not waiting[number].cancel():
            sent.append(number)
        else:
            results[number] = work(*task)
    for number in sent:
        results[number] = waiting[number].result()
    return results
