"""A worker's task: one segment with all it needs, as plain data. Imports no torch, so that planning commands can use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.design.cells import Part
from planner.design.segment import Segment
from planner.errors import InputError
from planner.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """One segment to train."""

    segment: Segment
    """The stretch of training."""
    recipe: Recipe
    """Recipe of the sweep."""
    folder: Path
    """Folder of the endpoint's record."""
    parent_state: Path | None
    """State to start from; None to start from a fresh model."""
    state_path: Path
    """Where the segment's last state goes."""
    corpus: Path
    """Corpus folder."""
    domain: str
    """Specialist domain."""
    eval_tokens: int
    """Held-out tokens per domain to evaluate on, at most."""
    flops_run: float
    """Exact training FLOPs of the whole path to the end of the segment."""
    labels: dict[str, Any]
    """Copied into the record: sweep, recipe and corpus fingerprints."""
    mixture: tuple[Part, ...] = ()
    """Parts of the specialist text where it is a mix of domains; `domain` is the first of them."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    threads: int = 1
    """Threads a worker may use."""
    base: Path | None = None
    """Folder of the open checkpoint that the run starts from; None for a fresh model."""
    frozen_state: Path | None = None
    """State of the trunk under the adapters; None without adapters, and for adapters on an open checkpoint."""
    compiled: bool = False
    """Whether steps go through torch.compile, where the worker has a compiler."""
    gpu_memory: float | None = None
    """GPU memory that the micro-batch must fit [bytes]; None for all that the GPU has."""
    gpu_sharers: int = 1
    """Workers that share the GPU."""

    @property
    def record_path(self) -> Path:
        """Where the endpoint's record goes."""
        return record_path(self.folder, self.segment.segment_id)

    @property
    def diverged_path(self) -> Path:
        """Where a divergence of the segment is noted, if it has no endpoint."""
        return diverged_path(self.state_path.parents[1], self.segment.segment_id)


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    outcome: str
    """"done" or "diverged"."""
    seconds: float
    """Wall time of the segment."""
    reason: str | None = None
    """Why it diverged."""


def record_path(folder: Path, segment_id: str) -> Path:
    """Return where an endpoint's record is kept.

    Raises:
        InputError: see `named`.
    """
    return folder / "records" / f"{named(segment_id, folder)}.json"


def state_path(folder: Path, segment_id: str) -> Path:
    """Return where a segment's last state is kept.

    Raises:
        InputError: see `named`.
    """
    return folder / "state" / f"{named(segment_id, folder)}.safetensors"


def diverged_path(folder: Path, segment_id: str) -> Path:
    """Return the path of the note that a segment without an endpoint diverged.

    Raises:
        InputError: see `named`.
    """
    return folder / "state" / f"{named(segment_id, folder)}.diverged.json"


def named(name: str, folder: Path) -> str:
    """Return the name of a segment or a run, checked: it may come from a file, and must not lead out of the folder.

    Raises:
        InputError: it is no plain name.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"a run named {name!r} cannot lie in {folder}", remedy="restore the file that names it as the planner wrote it")
    return name
