"""The plan of a full-size run: its stages and how to run them, as one file in the launch folder. Imports no torch."""

from __future__ import annotations

import math
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from planner.artifacts import read_artifact, read_json, whole, write_artifact
from planner.design.segment import Segment
from planner.errors import InputError, StateError
from planner.recipe import Recipe
from planner.train.job import Job, named, state_path

KIND = "full_run"
VERSION = 1
FILE = "full.json"
PRECISIONS = ("fp32", "bf16")
HALTED = 76
"""Exit code under Slurm of a trunk ended by the stop file: it is not requeued, and the jobs that wait for it must not begin."""
STOPPED = 75
"""Exit code under Slurm of a run that a signal asked to stop and that has saved its state (EX_TEMPFAIL): the job is requeued."""

STOP_FILE = "stop"
"""A file of this name in the launch folder makes the run save a state and end; for where no signal reaches the ranks. A Slurm job is then not requeued."""
RUNNER = "PLANNER_RUNNER"
"""Variable that tells the ranks which `plan launch` process started them (see `lock.this_process`): torchrun outlives it if it is killed."""
STATES_FOLDER = "states"
"""Where saved states lie in the launch folder, and the lock of the rank that writes them."""
LATEST = "latest.json"
"""File in that folder that names the step of the latest state."""
FAILURE_FILE = "failure.txt"
"""File in which a rank leaves its error and the remedy, one line each, for the process that started it."""


@dataclass(frozen=True)
class Settings:
    """How a run is carried out. None of these changes which batches are trained on, in which order, or at which rate."""

    device: str = "cpu"
    """"cpu" or "cuda"."""
    threads: int = 1
    """Threads of a rank on a CPU."""
    precision: str = "fp32"
    """"bf16": parameters and activations in bfloat16, gradients reduced and weights kept in fp32; "fp32": all in fp32."""
    micro_batch: int | None = None
    """Sequences per forward pass and rank; None for all that the rank has in a step."""
    compile_backend: str | None = None
    """Backend of torch.compile, layer by layer; None not to compile."""
    checkpoint_activations: bool = False
    """Whether layers are recomputed in the backward pass instead of keeping their activations."""
    shard_ranks: int | None = None
    """Ranks over which one copy of the model is sharded; None for all of them. With fewer, copies are kept (HSDP)."""
    save_every: int = 1000
    """Steps between two saved states, at most."""
    save_minutes: float = 30.0
    """Minutes between two saved states, at most, give or take a step."""
    keep: int = 3
    """Saved states that are kept."""
    evaluate_at: tuple[int, ...] = ()
    """Steps of the run, counted over its stages, after which the held-out specialist loss is measured."""
    most_rollbacks: int = 3
    """Rollbacks after which the run counts as diverged."""
    peak_flops: float | None = None
    """Peak of one rank's device at the run's precision [FLOP/s]; MFU is not shown without it."""
    tensorboard: bool = False
    """Whether TensorBoard events are written beside metrics.jsonl."""
    wandb: str | None = None
    """Project of Weights & Biases to log to; None not to."""
    fit_micro_batch: bool = False
    """Whether the micro-batch is halved until it fits the GPU's memory: it is then a default, chosen before the GPU was known."""

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"device {self.device!r} is not known", remedy="choose cpu or cuda")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision!r} is not known", remedy=f"choose one of {', '.join(PRECISIONS)}")
        for name in ("threads", "micro_batch", "shard_ranks", "save_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} = {value} is not positive", remedy="give a positive whole number")
        if not 0 < self.save_minutes < math.inf:
            raise InputError(f"save_minutes = {self.save_minutes:g} is not positive", remedy="give a positive number")
        if self.keep < 2:
            raise InputError(f"keep = {self.keep} leaves no state to roll back to", remedy="keep two states or more")
        if self.peak_flops is not None and not 1e6 < self.peak_flops < 1e18:
            raise InputError(f"peak FLOP/s of one device = {self.peak_flops:g} is out of range", remedy="give the data sheet's value, such as 989e12")


@dataclass(frozen=True)
class FullRun:
    """A run, laid out for its ranks."""

    stages: tuple[Job, ...]
    """One job a stage, each of the whole stage: general text, specialist text with its cooldown; the last one ends in the endpoint."""
    settings: Settings = field(default_factory=Settings)
    trunk: str | None = None
    """Name of its trunk's launch folder, beside its own; None if it trains all of its general text itself."""
    forks: tuple[int, ...] = ()
    """Of a trunk: steps at which runs branch off, whose states are kept until all have ended. It ends at the last of them, without an endpoint."""

    def __post_init__(self) -> None:
        assert self.stages and (self.stages[-1].segment.cell is None) == bool(self.forks), self.stages

    @property
    def recipe(self) -> Recipe:
        """Recipe of the run."""
        return self.stages[0].recipe

    @property
    def last(self) -> Job:
        """The job whose record is the run's."""
        return self.stages[-1]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Steps of the run before each stage, and after the last."""
        found = [0]
        for job in self.stages:
            found.append(found[-1] + job.segment.last_step)
        return tuple(found)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.offsets[-1]

    @property
    def begins_at(self) -> int:
        """Step at which it branches off its trunk, with its specialist stage or the cooldown of its only stage; 0 without a trunk."""
        return 0 if self.trunk is None else min(self.offsets[1], self.cooldown_from)

    def at(self, step: int) -> tuple[int, int]:
        """Return the stage in which step `step` of the run is taken, and its number within the stage, both from 0."""
        for stage, (first, end) in enumerate(zip(self.offsets, self.offsets[1:], strict=False)):
            if step < end:
                return stage, step - first
        raise AssertionError(step)

    def model_of(self, step: int) -> int:
        """Return the stage for which the model trained at step `step` was built: adapters on a trunk make a new model, and the last state is theirs."""
        stage, _ = self.at(min(step, self.steps - 1))
        return stage if self.stages[stage].frozen_state is not None else 0

    @property
    def cooldown_from(self) -> int:
        """Step of the run at which its cooldown begins."""
        tip: Segment = self.last.segment
        return self.offsets[-2] + (tip.last_step if tip.cooldown_from is None else tip.cooldown_from)

    def within(self, folder: Path) -> FullRun:
        """Return the run with its outputs, and the trunk under its adapters, in a launch folder."""
        return replace(self, stages=tuple(_placed(stage, folder.resolve()) for stage in self.stages))

    def save(self, folder: Path) -> None:
        """Write the run into its folder."""
        body = {"stages": [asdict(job) for job in self.stages], "settings": asdict(self.settings), "trunk": self.trunk, "forks": self.forks}
        write_artifact(folder / FILE, KIND, VERSION, body)

    @classmethod
    def load(cls, folder: Path) -> FullRun:
        """Read what `save` wrote, as a run in this folder, even if the folder was moved or renamed since, or the working directory changed.

        Raises:
            InputError: there is no run, or it has a value of the wrong kind.
        """
        body = read_artifact(folder / FILE, KIND, VERSION)
        with whole(folder / FILE):
            stages = tuple(_revive(Job, stage) for stage in body["stages"])
            trunk, forks = body.get("trunk"), tuple(int(step) for step in body.get("forks", ()))  # runs of earlier versions have none
            return cls(stages, _revive(Settings, body["settings"]), None if trunk is None else named(trunk, folder), forks).within(folder)


def latest_step(folder: Path) -> int:
    """Return the step of the latest state in a launch folder, -1 where none was saved.

    Raises:
        StateError: the file that names it is torn, or missing while there are states: starting over would lose them.
    """
    path = folder / STATES_FOLDER / LATEST
    remedy = f"write {{\"step\": N}} into {path}, where N is that of the last folder step-N beside it"
    if not path.exists():
        # The first state is written before the file, and starting over then costs nothing; later there are two or more.
        if sum(state.name.removeprefix("step-").isdecimal() for state in path.parent.glob("step-*")) > 1:
            raise StateError(f"{path} is missing, but there are states beside it", remedy=remedy)
        return -1
    try:
        step = read_json(path).get("step")
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        step = None
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise StateError(f"{path} is torn", remedy=remedy)
    return step


def state_folder(folder: Path, step: int) -> Path:
    """Return the folder of a step's state in a launch folder."""
    return folder / STATES_FOLDER / f"step-{step:09d}"


def rows_of_rank(batch: int, rank: int, world: int) -> tuple[int, int]:
    """Return which of a step's sequences a rank trains on, first and last (excluded).

    Raises:
        InputError: the batch cannot be spread evenly.
    """
    if batch % world:
        fitting = [count for count in range(1, batch + 1) if batch % count == 0]
        near = max((count for count in fitting if count < world), default=1)
        raise InputError(
            f"a batch of {batch} sequences cannot be spread evenly over {world} ranks",
            remedy=f"give a number of ranks that divides it, such as {near}; the batch is the recipe's and is not changed",
        )
    share = batch // world
    return rank * share, (rank + 1) * share


def _placed(job: Job, folder: Path) -> Job:
    """Return a stage with its outputs, and its trunk's state, in a launch folder."""
    trunk = job.segment.frozen_id
    return replace(
        job, folder=folder, state_path=state_path(folder, job.segment.segment_id), frozen_state=None if trunk is None else state_path(folder, trunk)
    )


def _revive(kind: Any, value: Any) -> Any:
    """Rebuild a dataclass from what `plain` made of it, following its annotations."""
    if value is None or kind is Any:
        return value
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{item.name: _revive(hints[item.name], value[item.name]) for item in fields(kind) if item.init and item.name in value})  # type: ignore[operator]
    if get_origin(kind) in (Union, types.UnionType):
        return _revive(next(item for item in get_args(kind) if item is not type(None)), value)
    if get_origin(kind) is tuple:
        return tuple(_revive(get_args(kind)[0], item) for item in value)
    return kind(value) if kind in (Path, float) else value
