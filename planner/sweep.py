"""From a sweep's tree to its runs table: which segments are left, training them on an engine, and progress.

A segment is done once its state or its record is on disk. Both are written atomically, so that after a kill at any moment
the same command resumes and ends with the same table. States are deleted as soon as nothing needs them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from planner.artifacts import read_json, write_text
from planner.corpus import Corpus
from planner.design.cells import Cell
from planner.design.compiling import key_of, to_compile
from planner.design.segment import Segment
from planner.design.spec import SweepSpec, read_sweep
from planner.design.tree import Tree, build_tree
from planner.engines.event import Event
from planner.errors import PlannerWarning, StateError
from planner.flags import mostly_warmup
from planner.live import read_live
from planner.lock import locked
from planner.mend import read_identity, read_record, set_aside_torn
from planner.runs import compile_runs, write_runs
from planner.schedule import Schedule
from planner.train.job import Job, diverged_path, record_path, state_path
from planner.train.record import write_record


class Engine(Protocol):
    """Where jobs run."""

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        """Run jobs as `next_job` hands them out, and report."""
        ...


@dataclass(frozen=True)
class Sweep:
    """A sweep with its corpus and its tree."""

    spec: SweepSpec
    corpus: Corpus
    domain: str
    cells: tuple[Cell, ...]
    left_out: dict[str, int]
    tree: Tree

    @classmethod
    def open(cls, path: Path | str) -> Sweep:
        """Open a sweep by its folder or its sweep.toml.

        Raises:
            InputError: see `read_sweep` and `Corpus.open`.
        """
        spec = read_sweep(path)
        corpus = Corpus.open(spec.corpus)
        domain = corpus.specialist(spec.domain)
        cells, left_out = spec.cells(corpus.vocab_size, corpus.unique_tokens(domain))
        for base in spec.pretrained.values():
            base.check_corpus(corpus.tokenizer_path, corpus.vocab_size, spec.recipe.seq_len)
        tree = build_tree(cells, spec.recipe, corpus.vocab_size, eval_tokens=spec.eval_tokens, shapes=spec.shapes, base=bool(spec.bases))
        return cls(spec, corpus, domain, tuple(cells), left_out, tree)

    @property
    def folder(self) -> Path:
        """Folder of records and states."""
        return self.spec.folder

    @property
    def domains(self) -> list[str]:
        """Names of the domains that it reads: the general one, and the specialist one or those of its mixture."""
        return list(dict.fromkeys([self.corpus.general, self.domain, *(part.domain for part in self.spec.mixture)]))

    @property
    def mostly_warmup(self) -> list[Segment]:
        """Endpoints whose rows will be flagged `mostly_warmup`."""
        recipe = self.spec.recipe
        tips = ((tip, recipe.rewarm_steps if tip.base else recipe.warmup_steps) for tip in self.tree.tips)
        return [tip for tip, warmup in tips if mostly_warmup(tip.steps_pt + tip.last_step, warmup)]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Origin stated in every record: the sweep and the corpus fingerprint."""
        return {"sweep": self.spec.name, "corpus": self.corpus.fingerprint}

    def state_path(self, segment: Segment) -> Path:
        """Return where a segment's last state is kept."""
        return state_path(self._home(segment), segment.segment_id)

    def diverged_path(self, segment: Segment) -> Path:
        """Return the path of the note that a segment without an endpoint diverged."""
        return diverged_path(self._home(segment), segment.segment_id)

    def shares(self, segment: Segment) -> bool:
        """Tell whether a segment's state belongs to a trunk that other sweeps share."""
        return self.spec.trunks is not None and segment.shareable

    def _home(self, segment: Segment) -> Path:
        return self.spec.trunks if self.spec.trunks is not None and segment.shareable else self.folder

    def job(self, segment: Segment, *, device: str = "cpu", threads: int = 1, keep_state: bool = False, compiled: bool = False) -> Job:
        """Make a segment's job."""
        base = self.spec.pretrained.get(segment.size) if segment.base else None
        about = {"base": base.fingerprint, "base_tokens": self.spec.tokens_of_base(segment.size)} if base else {}
        labels = {**self.labels, "keep_state": keep_state, **about}
        parent, frozen = (None if name is None else self.state_path(self.tree.by_id[name]) for name in (segment.parent_id, segment.frozen_id))
        return Job(
            segment, self.spec.recipe, self.folder, parent, self.state_path(segment), self.corpus.folder.resolve(), self.domain, self.spec.eval_tokens,
            self.tree.flops_of_run(segment), labels, self.spec.mixture, device, threads, base.folder if base else None, frozen,
            compiled,
        )  # fmt: skip


@dataclass(frozen=True)
class SweepStatus:
    """Progress of a sweep, counted in endpoints."""

    done: int
    diverged: int
    failed: int
    running: int
    waiting: int
    flops_left: float
    """FLOPs of the segments still to train."""


def check_identity(sweep: Sweep) -> None:
    """Refuse to go on with records or states of another recipe or corpus.

    Raises:
        StateError: the folder's records were made with other settings.
    """
    bases = ", ".join(base.fingerprint for _, base in sorted(sweep.spec.pretrained.items()))
    shared = {"recipe": sweep.spec.recipe.fingerprint, "corpus": sweep.corpus.fingerprint, "base": bases}
    earlier = sweep.spec.recipe.earlier_fingerprint
    if read_identity(sweep.folder) is None:
        _same_records(sweep, earlier)
    _same_identity(sweep.folder, {**shared, "domain": sweep.domain, "eval_tokens": sweep.spec.eval_tokens}, earlier)
    if sweep.spec.trunks is not None:
        _same_identity(sweep.spec.trunks, shared, earlier)


def _same_records(sweep: Sweep, earlier: str) -> None:
    """Compare the records themselves with recipe and corpus, for when identity.json was deleted with the states."""
    present = _names(sweep.folder / "records")
    for path in (record_path(sweep.folder, tip.segment_id) for tip in sweep.tree.tips):
        row = (read_record(path) or {}).get("row", {}) if path.name in present else {}
        for key, value in (("recipe", sweep.spec.recipe.fingerprint), ("corpus", sweep.corpus.fingerprint)):
            if row.get(key, value) not in (value, earlier if key == "recipe" else value):
                raise StateError(
                    f"the run {row.get('run_id')} in {sweep.folder} was made with {key} {row[key]}, now it is {value}",
                    remedy=f"restore it, or delete {sweep.folder}/records to start over",
                )


def _same_identity(folder: Path, identity: dict[str, Any], earlier: str) -> None:
    before = read_identity(folder)
    if before is None:
        write_text(folder / "state" / "identity.json", json.dumps(identity, indent=1) + "\n")
        return
    for key, value in identity.items():
        if before.get(key, "") != value and (key, before.get(key)) != ("recipe", earlier):
            raise StateError(
                f"the runs in {folder} were made with {key} {before.get(key, '') or 'none'}, now it is {value or 'none'}",
                remedy=f"restore it, or delete {folder}/records and {folder}/state to start over",
            )


def segments_to_train(sweep: Sweep) -> list[Segment]:
    """List the segments still needed: tips without a record, and the path to each from the last state on disk."""
    needed: set[str] = set()
    for segment in reversed(sweep.tree.segments):
        name = segment.segment_id
        if segment.cell is not None:
            if not record_path(sweep.folder, name).exists():
                needed.add(name)
        elif any(user.segment_id in needed for user in sweep.tree.users.get(name, [])):
            if not sweep.state_path(segment).exists() and not sweep.diverged_path(segment).exists():
                needed.add(name)
    return [segment for segment in sweep.tree.segments if segment.segment_id in needed]


def run_sweep(
    sweep: Sweep, engine: Engine, *, device: str = "cpu", keep_state: bool = False, compiled: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, str]:  # fmt: skip
    """Train what is left of a sweep and write its runs table.

    Args:
        sweep: the sweep.
        engine: where to run.
        device: "cpu" or "cuda".
        keep_state: whether to keep the states of endpoints (for saving a model).
        compiled: whether models go through torch.compile; None for those where it pays off.
        on_event: called with every event.

    Returns:
        Error message by segment, for those that failed (diverging is not failing); the same command tries them again.

    Raises:
        InputError: see `Corpus.check_shards` and `Corpus.check_heldout`.
    """
    compile_these = to_compile(sweep.tree, compiled, device)
    sweep.corpus.check_shards(sweep.domains)
    sweep.corpus.check_heldout(sweep.domains, sweep.spec.recipe.seq_len)
    with locked(sweep.folder, getattr(engine, "name", type(engine).__name__)):
        check_identity(sweep)
        _mend(sweep)
        schedule = Schedule(sweep.tree, _left_to_train(sweep))
        failures: dict[str, str] = {}
        finished: list[Segment] = []

        def next_job() -> Job | None:
            segment = schedule.next()
            if segment is None:
                return None
            return sweep.job(segment, device=device, keep_state=keep_state, compiled=key_of(segment) in compile_these)

        events = engine.run(next_job)
        try:
            for event in events:
                segment = event.job.segment
                if event.kind == "finished":
                    if segment.cell is not None:
                        finished.append(segment)
                    _after_segment(sweep, schedule, event, keep_state)
                elif event.kind == "failed":
                    failures[segment.segment_id] = event.message
                if on_event is not None:
                    on_event(event)
        finally:
            if isinstance(events, Generator):
                events.close()  # ends the workers while the lock still holds
        failures |= _not_here(sweep, finished)
        if not failures:
            _tidy(sweep, keep_state)
        write_table(sweep)
        return failures


def _left_to_train(sweep: Sweep) -> dict[str, Segment]:
    """Return the segments still needed, by name; those below a segment noted as diverged are recorded as skipped instead."""
    left = {segment.segment_id: segment for segment in segments_to_train(sweep)}
    for segment in sweep.tree.segments:
        if segment.cell is None and (noted := sweep.diverged_path(segment)).exists():
            for name in _skip_descendants(sweep, segment, str(read_json(noted)["reason"])):
                left.pop(name, None)
    return left


def _after_segment(sweep: Sweep, schedule: Schedule, event: Event, keep_state: bool) -> None:
    """Skip what lies below a segment that has diverged, and delete the states that nothing needs once a segment is done."""
    segment, result = event.job.segment, event.result
    assert result is not None
    if result.outcome == "diverged" and segment.cell is None:
        for name in _skip_descendants(sweep, segment, result.reason or ""):
            schedule.drop(sweep.tree.by_id[name])
    for name in schedule.done(segment):
        _drop_state(sweep, sweep.tree.by_id[name], keep_state)


def write_table(sweep: Sweep) -> None:
    """Compile runs.csv from the records of the sweep's own cells."""
    present = _names(sweep.folder / "records")
    paths = [record_path(sweep.folder, tip.segment_id) for tip in sweep.tree.tips]
    write_runs(sweep.folder / "runs.csv", compile_runs([path for path in paths if path.name in present]))


def sweep_status(sweep: Sweep) -> SweepStatus:
    """Count endpoints by what became of them.

    Raises:
        StateError: a record cannot be read.
    """
    done = diverged = 0
    for tip in sweep.tree.tips:
        path = record_path(sweep.folder, tip.segment_id)
        if path.exists():
            record = read_record(path)
            if record is None:
                raise StateError(f"record {path} cannot be read", remedy="run plan sweep run, which sets it aside and trains it again")
            outcome = record["row"]["status"]
            done += outcome == "ok"
            diverged += outcome == "diverged"
    left = segments_to_train(sweep)
    live = read_live(sweep.folder)
    tips_left = sum(segment.cell is not None for segment in left)
    return SweepStatus(
        done, diverged, len(live.get("failed", {})), min(tips_left, len(live.get("running", []))), tips_left,
        sum(sweep.tree.cost(segment) for segment in left),
    )  # fmt: skip


def _mend(sweep: Sweep) -> None:
    """Set aside files that a crash left torn, with a warning; their segments are trained again."""
    tips = [tip.segment_id for tip in sweep.tree.tips]
    moved = set_aside_torn(
        [record_path(sweep.folder, name) for name in tips],
        [sweep.state_path(segment) for segment in sweep.tree.segments],
        [sweep.diverged_path(segment) for segment in sweep.tree.segments],
    )
    for path, target in moved:
        warnings.warn(f"{path} is torn; it is kept as {target.name} and its segment trained again", PlannerWarning, stacklevel=3)


def _skip_descendants(sweep: Sweep, segment: Segment, reason: str) -> list[str]:
    """Record the endpoints below a diverged segment, which cannot be trained, as diverged; return all segments below it."""
    below: list[str] = []
    stack = list(sweep.tree.children.get(segment.segment_id, []))
    while stack:
        child = stack.pop()
        below.append(child.segment_id)
        if child.cell is not None and not record_path(sweep.folder, child.segment_id).exists():
            write_record(sweep.job(child), None, {}, status="diverged", reason=f"skipped: {segment.segment_id} diverged: {reason}")
        stack += sweep.tree.children.get(child.segment_id, [])
    return below


def _drop_state(sweep: Sweep, segment: Segment, keep_state: bool) -> None:
    """Delete a state that nothing needs any more, unless other sweeps share its trunk or adapters that are kept stand on it."""
    path, name = sweep.state_path(segment), segment.segment_id
    adapted = [user for user in sweep.tree.users.get(name, []) if user.cell is not None and user.frozen_id == name]
    # Endpoint states kept by an earlier run still wait for their export, even if this run keeps none.
    kept = any(keep_state or sweep.state_path(user).exists() for user in adapted)
    if not kept and not sweep.shares(segment):
        path.unlink(missing_ok=True)


def _names(folder: Path) -> set[str]:
    """List a folder; unlike testing each name, this makes a network file system refresh its cache."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _not_here(sweep: Sweep, finished: list[Segment]) -> dict[str, str]:
    """Find endpoints that a worker reported as done but whose record is not in the sweep's folder."""
    present = _names(sweep.folder / "records")
    where = f"its record is not in {sweep.folder / 'records'}: the worker wrote to another folder of that name; every node must see the same one"
    return {tip.segment_id: where for tip in finished if record_path(sweep.folder, tip.segment_id).name not in present}


def _tidy(sweep: Sweep, keep_state: bool) -> None:
    """Delete states that nothing needs, and partial files of a killed runner, of killed workers, or of workers that came back after being given up."""
    needed = {name for segment in segments_to_train(sweep) for name in segment.needs}
    present = _names(sweep.folder / "state")
    for segment in sweep.tree.segments:
        path = sweep.state_path(segment)
        if segment.cell is None and path.name in present and segment.segment_id not in needed:
            _drop_state(sweep, segment, keep_state)
    own = [segment for segment in sweep.tree.segments if not sweep.shares(segment)]  # another sweep may be writing a shared trunk's
    files = [path for segment in own for path in (sweep.state_path(segment), record_path(sweep.folder, segment.segment_id))]
    files += [sweep.folder / "runs.csv", *(sweep.folder / "state" / name for name in ("live.json", "identity.json"))]  # the runner's own
    known = {f".{path.name}" for path in files}
    for folder in {path.parent for path in files}:
        for name in _names(folder):
            if name.rpartition(".")[0] in known:  # a file is first written as .NAME.RANDOM
                (folder / name).unlink(missing_ok=True)


def single_run(spec: SweepSpec, corpus: Corpus, domain: str, tree: Tree) -> Sweep:
    """Wrap a tree from elsewhere, such as that of one launched run, as a sweep."""
    cells = tuple(tip.cell for tip in tree.tips if tip.cell is not None)
    return Sweep(spec, corpus, domain, cells, {}, tree)
