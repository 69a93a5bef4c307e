"""Cost of a sweep's driver: 100,000 no-op segments through its scheduling loop and through `run_sweep`, and no-op tasks through Ray.

The first table uses an engine that finishes every job at once, on a tree of many short trunks and on one trunk that all tips
branch off, the worst case for a scheduler. For comparison it has the first version's loop, which scanned all waiting segments
for every job, on a tenth and a twentieth of the segments. The second table counts Ray tasks per second as
`RayEngine` runs them: queued a quarter ahead of the processors, in warm workers, each job pickled and its result awaited.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import Report
from benchmarks.tree import make_corpus
from planner.cli.paths import default_workers
from planner.design.cells import Cell
from planner.design.segment import Segment
from planner.design.tree import Tree, build_tree
from planner.engines.event import Event
from planner.recipe import Recipe
from planner.runs import RECORD_VERSION
from planner.schedule import Schedule
from planner.sweep import Sweep, run_sweep
from planner.train.job import Job, Result
from planner.train.record import record_body

RECIPE = Recipe(seq_len=32, batch_sequences=2)
SWEEP = """
corpus = "corpus"
sizes = ["10k", "20k"]
tokens_pt = ["100k"]
tokens_spec = [0, "100k"]
unique_spec = ["20k"]
seeds = {seeds}
[recipe]
seq_len = 64
batch_sequences = 4
warmup_steps = 20
"""
LOSSES = ("loss_spec", "loss_general", "bpb_spec", "bpb_general")
FLIGHT = 256
"""Most jobs that the no-op engine takes before it finishes them."""


class NoOp:
    """Finishes every job without doing anything."""

    name = "no-op"

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Take jobs, up to `FLIGHT` at a time, and finish them in the order they came."""
        flight: list[Job] = []
        while True:
            while len(flight) < FLIGHT and (job := next_job()) is not None:
                flight.append(job)
                yield Event("started", job)
            if not flight:
                return
            done, flight = flight, []
            for job in done:
                yield Event("finished", job, result=Result("done", 0.0))


def job_of(tree: Tree, segment: Segment, folder: Path) -> Job:
    """Make a job as `Sweep.job` does."""
    state, labels = folder / "state" / f"{segment.segment_id}.safetensors", {"sweep": "benchmark", "corpus": "none"}
    return Job(segment, tree.recipe, folder, None, state, folder, "special", 0, tree.flops_of_run(segment), labels)


def many_trunks(count: int) -> Tree:
    """Lay out trunks of ten segments."""
    first = _first()
    segments: list[Segment] = []
    for number in range(count // 10):
        names = [f"n{number}-{step}" for step in range(10)]
        segments += [replace(first, segment_id=name, parent_id=names[step - 1] if step else None) for step, name in enumerate(names)]
    return Tree(tuple(segments), RECIPE)


def one_trunk(count: int) -> Tree:
    """Lay out one segment that is the parent of all others."""
    first = _first()
    return Tree((first, *(replace(first, segment_id=f"t{number}", parent_id=first.segment_id) for number in range(count - 1))), RECIPE)


def _first() -> Segment:
    return build_tree([Cell(1e4, 0, 4e4, 0.0, None)], RECIPE, 300).segments[0]


def now(tree: Tree, engine: Any, folder: Path) -> int:
    """Schedule as `run_sweep` does; return the number of finished segments."""
    schedule = Schedule(tree, {segment.segment_id for segment in tree.segments})

    def next_job() -> Job | None:
        segment = schedule.next()
        return None if segment is None else job_of(tree, segment, folder)

    finished = 0
    for event in engine.run(next_job):
        if event.kind == "finished":
            finished += 1
            schedule.done(event.job.segment)
    return finished


def before(tree: Tree, engine: Any, folder: Path) -> int:
    """Schedule as the first version did: scan all waiting segments for every job."""
    priority = tree.critical_path()
    left = {segment.segment_id: segment for segment in tree.segments}
    waiting = sorted(left, key=lambda name: -priority[name])

    def next_job() -> Job | None:
        for name in waiting:
            parent = tree.by_id[name].parent_id
            if parent is None or parent not in left:
                waiting.remove(name)
                return job_of(tree, tree.by_id[name], folder)
        return None

    finished = 0
    for event in engine.run(next_job):
        if event.kind == "finished":
            finished += 1
            segment = left.pop(event.job.segment.segment_id)
            parent = segment.parent_id
            if parent is not None:
                any(child.segment_id in left for child in tree.children[parent])
    return finished


class Recorded:
    """Writes what workers write (a record for an endpoint, a state for any other segment) and counts the time that takes."""

    name = "no-op"

    def __init__(self) -> None:
        self.seconds, self.finished = 0.0, 0
        self._bodies: dict[tuple[float, str], dict[str, Any]] = {}

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Take jobs as `NoOp` does."""
        for event in NoOp().run(next_job):
            if event.kind == "finished":
                start = time.process_time()
                self._leave(event.job)
                self.seconds += time.process_time() - start
                self.finished += 1
            yield event

    def _leave(self, job: Job) -> None:
        segment, kind = job.segment, (job.segment.size, job.segment.stage)
        path = job.state_path if segment.cell is None else job.record_path
        path.parent.mkdir(exist_ok=True)
        if segment.cell is None:
            path.touch()
            return
        if kind not in self._bodies:
            self._bodies[kind] = record_body(job, 0.0, dict.fromkeys(LOSSES, 4.0), status="ok", reason=None)
        body, name = self._bodies[kind], segment.segment_id
        row = {**body["row"], "run_id": name, "trunk_id": name.split("-pt")[0], "seed": segment.seed}
        path.write_text(json.dumps({"kind": "run", "schema_version": RECORD_VERSION, **body, "row": row}))


def whole(count: int) -> Iterator[tuple[str, float]]:
    """Run a sweep of `count` segments, two in five of them endpoints, with `run_sweep`; yield the name of each step and its CPU seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder)
        (folder / "sweep.toml").write_text(SWEEP.format(seeds=list(range(count // 10))))
        start = time.process_time()
        sweep = Sweep.open(folder)
        yield "Sweep.open", time.process_time() - start
        assert len(sweep.tree.segments) == count
        for what, left in (("run_sweep, all of it", count), ("run_sweep once more, nothing left", 0)):
            engine, start = Recorded(), time.process_time()
            assert run_sweep(sweep, engine) == {} and engine.finished == left
            yield what, time.process_time() - start - engine.seconds


def memory() -> float:
    """Return the peak resident memory of this process so far [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def no_op(job: Job, report: Any) -> Result:
    """Do nothing."""
    return Result("done", 0.0)


def main() -> None:
    """Run both parts."""
    report = Report(__file__, __doc__)
    count = 10_000 if report.quick else 100_000
    rows = []
    for shape, make in (("trunks of 10", many_trunks), ("one trunk, all tips on it", one_trunk)):
        for what, loop, number in (("now", now, count), ("before", before, count // 20), ("before", before, count // 10)):
            tree, folder = make(number), Path("nowhere")
            start = time.process_time()
            finished = loop(tree, NoOp(), folder)
            seconds = time.process_time() - start
            assert finished == number
            rows.append([shape, what, f"{number:,}", f"{seconds:.2f}", f"{1e6 * seconds / number:.1f}", f"{memory():.0f}"])
    report.table("The scheduling loop, no-op engine", ["tree", "loop", "segments", "CPU s", "µs a segment", "largest MB so far"], rows)
    report.say("memory is that of the whole process with its trees; the largest tree alone is most of it")
    rows = [[what, f"{seconds:.2f}", f"{1e6 * seconds / count:.1f}", f"{memory():.0f}"] for what, seconds in whole(count)]
    report.table(
        f"A sweep of {count:,} segments and {2 * count // 5:,} endpoints on disk, what workers write left out",
        ["", "CPU s", "µs a segment", "largest MB so far"], rows,
    )  # fmt: skip
    _ray(report)
    report.end()


def _ray(report: Report) -> None:
    try:
        from planner.engines.ray import RayEngine, import_ray

        ray = import_ray(local=True)
    except Exception as error:
        report.say(f"Ray was left out: {error}")
        return
    count = 500 if report.quick else 2000
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for what, number in (("first, workers start", 20), ("warm", count)):
            wall, used = time.perf_counter(), time.process_time()
            finished = now(many_trunks(number), RayEngine(runner=no_op), Path(name))
            wall, used = time.perf_counter() - wall, time.process_time() - used
            assert finished == number
            rows.append([what, f"{number:,}", f"{wall:.2f}", f"{number / wall:.0f}", f"{used:.2f}", f"{memory():.0f}"])
    ray.shutdown()
    report.table("No-op tasks through RayEngine", ["", "tasks", "wall s", "tasks/s", "driver's CPU s", "largest MB so far"], rows)
    report.say(f"Ray {ray.__version__} on {default_workers()} cores; load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
