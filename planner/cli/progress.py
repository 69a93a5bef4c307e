"""Engine events as progress."""

from __future__ import annotations

import time

from planner.cli.console import Bar
from planner.engines.event import Event
from planner.live import write_live
from planner.sweep import Sweep

NOTE_EVERY = 0.5
"""Seconds between two notes for `plan sweep status`: each is a file synced to disk, and short segments end by the hundred."""


class Watch:
    """Follows the events of a sweep: FLOPs done, segments running, failures."""

    def __init__(self, sweep: Sweep, shown: Bar) -> None:
        self._sweep, self._shown = sweep, shown
        self._done = 0.0
        self._running: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._started = time.monotonic()
        self._noted = float("-inf")
        self.busy = 0.0
        """Seconds that workers spent on finished segments."""

    def utilisation(self, workers: int) -> float:
        """Return the share of the workers' time since the start that was spent on segments."""
        return self.busy / (workers * self.seconds)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def __call__(self, event: Event) -> None:
        """Record and show one event."""
        segment = event.job.segment
        name = segment.segment_id
        tree = self._sweep.tree if name in self._sweep.tree.by_id else None
        cost = tree.cost(segment) if tree else 1.0
        if event.kind == "started":
            self._running[name] = 0.0
        elif event.kind == "steps":
            self._running[name] = cost * event.steps / max(1, segment.steps)
        elif event.kind == "worker_died":
            self._running[name] = 0.0
            self._shown.line(f"{name}: {event.message}")
        else:
            self._running.pop(name, None)
            self._done += cost
            self.busy += event.result.seconds if event.result is not None else 0.0
            if event.kind == "failed":
                self._failed[name] = event.message.strip().splitlines()[0]
                self._shown.line(f"{name} failed: {self._failed[name]}")
            elif event.result is not None and event.result.outcome == "diverged":
                self._shown.line(f"{name} diverged: {event.result.reason}")
        now = time.monotonic()
        if event.kind == "failed" or now - self._noted >= NOTE_EVERY:
            self._noted = now
            write_live(self._sweep.folder, list(self._running), self._failed)
        self._shown.update(self._done + sum(self._running.values()), ", ".join(self._running))
