"""What `plan launch` shows before a full-size run, and how it follows one."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.console import Bar, bar, say
from planner.cli.needs import require_torch
from planner.cli.tables import table
from planner.cli.watch import losses_on_the_way, told_loss
from planner.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from planner.design.segment import Segment
    from planner.design.tree import Tree
    from planner.fit.fitted import FittedLaw
    from planner.launch.launch import Launch
    from planner.launch.slurm import Job
    from planner.train.full.plan import FullRun

ASSUMED_MFU = 0.4
"""MFU assumed in the time estimate, before anything was measured."""


def show_resources(run: FullRun, ranks: int, trained: Sequence[tuple[Tree, Segment]], *, dearest: str | None = None) -> None:
    """Print the memory, disk space and time that a run needs.

    Args:
        run: the run.
        ranks: number of ranks that train it.
        trained: all segments to train, each with its tree.
        dearest: name of the run, where it is the largest of several that are trained one after the other.
    """
    from planner.design.walltime import segment_seconds
    from planner.train.full.gpu_memory import memory_needed
    from planner.train.size import saved_bytes

    told, recipe, shape = run.settings, run.recipe, run.last.segment.shape
    share = recipe.batch_sequences // ranks
    micro = told.micro_batch or share
    need = memory_needed(run, ranks, micro)
    state = max(saved_bytes(shape, recipe.method(job.segment.method)) for job in run.stages)  # a trunk in full, perhaps adapters after it
    names = ("states", "gathered", *(("activations", "logits") if need.activations + need.logits >= need.heldout else ("heldout",)))
    parts = ", ".join(f"{name} {format_bytes(getattr(need, name))}".replace("heldout", "held-out text") for name in names)
    flops = sum(tree.cost(segment) for tree, segment in trained)
    if told.device == "cpu":
        time = f"{format_seconds(sum(segment_seconds(*each) for each in trained))} on one thread"
    elif told.peak_flops is not None:
        time = f"{format_seconds(flops / (ASSUMED_MFU * told.peak_flops * ranks))} at {ASSUMED_MFU:.0%} of the peak"
    else:
        time = "not known without --peak-flops"
    cut = f"{_many(ranks, 'rank')} x {_many(-(-share // micro), 'micro-batch', 'es')}"
    fewer = ", fewer where memory is short" if told.fit_micro_batch else ""
    rows = [
        ["ranks", f"{ranks} on {told.device}, {told.precision}" + (f", copies of {told.shard_ranks} ranks" if told.shard_ranks else "")],
        ["steps", f"{run.steps}, the last {run.steps - run.cooldown_from} a cooldown"],
        ["batch", f"{recipe.batch_sequences} sequences of {recipe.seq_len}: {cut} x up to {micro}{fewer}"],
        ["memory per rank, about", f"{format_bytes(need.total)}: {parts}"],
        ["host memory of the first rank, at start and end", format_bytes(4.0 * shape.params_total)],
        ["states on disk", f"{told.keep} of {format_bytes(state)}, every {told.save_every} steps, or {told.save_minutes:g} minutes after the last"],
        ["held-out losses during the run", losses_on_the_way(told.evaluate_at, run.steps)],
        ["MFU", "not shown without --peak-flops" if told.peak_flops is None else f"of {told.peak_flops:.4g} FLOP/s per rank"],
        ["time, about", time if dearest is None else f"{time}, all runs one after the other"],
    ]
    table("Resources needed" if dearest is None else f"Resources needed by the largest run, {dearest}", ["", ""], rows)


def _many(count: int, one: str, ending: str = "s") -> str:
    return f"{count} {one}{ending * (count != 1)}"


def check_options(
    ready: Launch, run: FullRun, ranks: int, engine: str, *, law: Path | None, per_node: int, slurm_options: list[str]
) -> tuple[Job | None, FittedLaw | None]:
    """Return the Slurm job, if Slurm is the engine, and the plan's law, if it is found; a dry run calls this to refuse what a launch would.

    Raises:
        PlannerError: an invalid option.
    """
    from planner.launch import slurm
    from planner.launch.forecast_curve import find_law

    job = None
    if engine == "slurm":
        job = slurm.Job(ready.folder.resolve(), sys.executable, ranks, per_node, run.settings, slurm.options_of(slurm_options))
    return job, find_law(ready, law)


def carry_on(
    ready: Launch, run: FullRun, ranks: int, engine: str, *, address: str | None, law: Path | None, per_node: int, slurm_options: list[str], submit: bool
) -> bool:
    """Set the run up and train it, or resume it; return whether it has ended here.

    Raises:
        PlannerError: something that the user can fix.
        KeyboardInterrupt: it was asked to stop; a state is saved.
    """
    from planner.launch import slurm
    from planner.launch.forecast_curve import forecast_curve
    from planner.launch.full import lay_down, outcome
    from planner.lock import locked
    from planner.train.full.run_lock import check_free

    job, found = check_options(ready, run, ranks, engine, law=law, per_node=per_node, slurm_options=slurm_options)
    if job is None:
        require_torch()
    along = forecast_curve(ready, run, found)
    with locked(ready.folder, engine):
        check_free(ready.folder)
        lay_down(ready, run, along)
        if job is not None:
            path = slurm.write(job)
            say(f"written: {path}")
            say(f"submitted as job {slurm.submit(path)}" if submit else f"submit it: cd {shlex.quote(str(path.parent))} && sbatch {path.name}")
            say(f"follow it: plan watch {shlex.quote(str(ready.folder))}")
            return False
        train_here(ready.folder, run, ranks, engine, address)
    if outcome(ready) is None:  # stopped by a stop file or a signal to a rank, not to this process
        raise KeyboardInterrupt
    return True


def train_here(folder: Path, run: FullRun, ranks: int, engine: str, address: str | None, what: str = "training", *, above: Path | None = None) -> None:
    """Start the ranks of a run that is set up, here or on Ray, and follow them to their end.

    Args:
        folder: of the run.
        run: the run.
        ranks: processes.
        engine: "local" or "ray".
        address: of a cluster.
        what: label of the progress bar.
        above: launch folder that contains it and other runs; a stop file there stops the run that trains.

    Raises:
        PlannerError: see `run_local` and `run_ray`.
        KeyboardInterrupt: it was asked to stop; a state is saved.
    """
    from planner.launch.runners import run_local, run_ray
    from planner.train.full.plan import STOP_FILE, latest_step

    first = max(run.begins_at, latest_step(folder))
    with bar(what, run.steps - first) as shown:
        follow = Follow(folder, run, first, shown)

        def tick() -> None:
            follow()
            if above is not None and (above / STOP_FILE).exists():
                (above / STOP_FILE).rename(folder / STOP_FILE)

        if engine == "ray":
            run_ray(folder.resolve(), ranks, run.settings, address=address, tick=tick)
        else:
            run_local(folder, ranks, run.settings, tick=tick)


class Follow:
    """Shows a run's progress from what its first rank writes: loss, speed, MFU, and events such as leaving the forecast."""

    def __init__(self, folder: Path, run: FullRun, first: int, shown: Bar) -> None:
        from planner.launch.watch import SPEED_STEPS, Tail
        from planner.train.full.metrics import FILE

        path = folder / FILE
        self._tail, self._run, self._first, self._shown = Tail(path), run, first, shown
        self._last: deque[dict[str, Any]] = deque(maxlen=SPEED_STEPS)
        self._told: set[str] = set()
        for line in self._tail.new():
            if line["kind"] == "event":
                self._told.add(f"{line['step']} {line['reason']}")  # what was printed before a resume is not printed again

    def __call__(self) -> None:
        """Show what is new."""
        from planner.launch.watch import speed_of

        new = self._tail.new()
        for line in new:
            if line["kind"] == "step":
                self._last.append(line)
            elif line["kind"] == "evaluation":
                self._shown.line(f"step {line['step']}: held-out specialist loss {told_loss(line)}")
            elif (key := f"{line['step']} {line['reason']}") not in self._told:
                self._told.add(key)
                mark = "warning: " if line.get("outside") or line["what"] == "rollback" else ""
                self._shown.line(f"{mark}step {line['step']}: {line['reason']}")
        if any(line["kind"] == "step" for line in new):
            last, (speed, share) = self._last[-1], speed_of(self._last)
            mfu = "" if share is None else f", MFU {share:.1%}"
            loss = "" if last["loss_smooth"] is None else f"loss {last['loss_smooth']:.3f}, "  # a stage's first batches may be prompts only
            note = f"{loss}{format_count(speed)} tokens/s{mfu}"
            left = (self._run.steps - last["step"]) * self._run.recipe.tokens_per_step / speed
            self._shown.update(max(0, last["step"] - self._first), note, left)
