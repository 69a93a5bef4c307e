"""Work shared between this process and those beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any


def run_tasks(pool: Executor | None, work: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], done: Callable[[float], None]) -> list[Any]:
    """Do tasks, some in the pool's processes and the others here; return the results in the order of the tasks.

    Both take the next one there is, so that two parts of one law, which are as long as each other, are done side by side.

    Args:
        pool: the processes; None does all here.
        work: what to do; it and the tasks can be sent to a process.
        tasks: its arguments.
        done: told the share of the tasks done.
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
