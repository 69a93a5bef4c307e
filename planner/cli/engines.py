"""Options that say where a sweep's segments run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.cli.console import say
from planner.cli.paths import default_workers
from planner.cli.tables import table
from planner.errors import InputError, without_secret
from planner.units import format_count

if TYPE_CHECKING:
    from planner.design.segment import Segment
    from planner.sweep import Engine, Sweep

ENGINES = ("local", "ray", "slurm")
MOST_A_CORE = 16
"""Most worker processes per core of this machine; each holds torch and a model."""


@dataclass(frozen=True)
class Where:
    """Where segments are to run, as the command line says it."""

    engine: str = "local"
    """One of `ENGINES`."""
    workers: int | None = None
    """local: processes, by default one per core or, on cuda, per GPU; ray on this machine: processors; slurm: jobs at once."""
    address: str | None = None
    """Ray cluster."""
    gpu_memory: float | None = None
    """Memory of one GPU [GB]."""
    partition: str | None = None
    """Slurm partition."""
    options: tuple[str, ...] = ()
    """Slurm options as key=value."""
    device: str = "cpu"
    """"cpu" or "cuda"."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"--engine {self.engine!r} is not known", remedy=f"choose one of {', '.join(ENGINES)}")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"--device {self.device!r} is not known", remedy="choose cpu or cuda")
        given: dict[str, tuple[bool, tuple[str, ...]]] = {
            f"--address {without_secret(self.address)}": (self.address is not None, ("ray",)),
            f"--gpu-memory {self.gpu_memory}": (self.gpu_memory is not None, ("ray",)),
            f"--partition {self.partition}": (self.partition is not None, ("slurm",)),
            f"--slurm-option {' '.join(self.options)}": (bool(self.options), ("slurm",)),
        }
        for option, (present, engines) in given.items():
            if present and self.engine not in engines:
                raise InputError(f"{option} has no effect with --engine {self.engine}", remedy=f"leave it out, or use --engine {' or '.join(engines)}")
        most = MOST_A_CORE * default_workers()
        if self.engine == "local" and (self.workers or 0) > most:
            raise InputError(f"--workers {self.workers} are more processes than this machine can hold", remedy=f"give at most {most}, or leave it out")
        if self.gpu_memory is not None:
            if self.device == "cpu":
                raise InputError(f"--gpu-memory {self.gpu_memory} has no effect with --device cpu", remedy="leave it out, or use --device cuda")
            if not (math.isfinite(self.gpu_memory) and self.gpu_memory > 0):
                raise InputError(f"--gpu-memory {self.gpu_memory} is not a memory size", remedy="give the memory of one GPU in GB, such as 80")
        if self.engine == "slurm":
            self._slurm()  # refuses invalid options, in a dry run too

    @property
    def gpu_bytes(self) -> float | None:
        """Memory of one GPU [bytes]."""
        return None if self.gpu_memory is None else 1e9 * self.gpu_memory

    @property
    def known_workers(self) -> int | None:
        """How many segments run in parallel, where that is known beforehand."""
        if self.engine == "slurm" or self.address is not None:
            return None
        return self.workers or (max(1, len(self.gpus)) if self.engine == "local" and self.device == "cuda" else default_workers())

    @property
    def gpus(self) -> tuple[str, ...]:
        """GPUs that local workers are spread over, one each unless there are more workers."""
        from planner.train.gpus import visible_gpus

        return visible_gpus() if self.device == "cuda" else ()

    def make(self) -> Engine:
        """Make the engine.

        Raises:
            InputError: it needs GPUs of this machine, which has none.
            MissingDependencyError: its package is not installed.
        """
        from planner.cli.needs import require
        from planner.engines.event import on_this_machine
        from planner.train.gpus import check_device

        if on_this_machine(self.engine, self.address):
            check_device(self.device)
        if self.engine == "ray":
            from planner.engines.ray import RayEngine

            require("ray", "ray")
            return RayEngine(address=self.address, workers=self.workers, gpu_memory=self.gpu_bytes)
        if self.engine == "slurm":
            require("submitit", "slurm")
            return self._slurm()
        from planner.engines.local import LocalEngine

        return LocalEngine(self.known_workers or 1, self.gpus)

    def _slurm(self) -> Engine:
        from planner.engines.slurm import JOBS_AT_ONCE, OURS, SlurmEngine
        from planner.sbatch import read_options

        return SlurmEngine(partition=self.partition, options=read_options(self.options, OURS), jobs_at_once=self.workers or JOBS_AT_ONCE)


def show_demands(sweep: Sweep, left: list[Segment], where: Where) -> None:
    """Print the resources that each task requests; all segments of a size request the same."""
    from planner.engines.demand import demand_of

    rows: list[list[Any]] = []
    for size in sorted({segment.size for segment in left}):
        chosen = [segment for segment in left if segment.size == size]
        demand = demand_of(sweep.job(chosen[0], device=where.device), where.gpu_bytes)
        side_by_side = "" if not demand.gpus else math.floor(1 / demand.gpus + 1e-9)
        rows.append([format_count(size), len(chosen), demand.cpus, f"{demand.gpus:g}", side_by_side, f"{demand.memory / 1e9:.2f} GB"])
    table("Resources of each task", ["size", "tasks", "CPUs", "GPUs", "tasks per GPU", "memory"], rows)
    if where.device == "cuda" and where.gpu_memory is None and where.engine == "ray":
        say("every task gets a GPU of its own; --gpu-memory lets small models share one")
