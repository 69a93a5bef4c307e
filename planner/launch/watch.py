"""Progress of a launched run: the measured curve beside the forecast, speed, and time left. Reads the launch folder only."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.artifacts import read_artifact, read_json, whole
from planner.errors import InputError
from planner.launch.domains import KIND as DOMAINS
from planner.launch.domains import TRUNK
from planner.launch.domains import VERSION as DOMAINS_VERSION
from planner.launch.launch import kind_of
from planner.lock import gone, holder_of
from planner.runs import read_run
from planner.train.full.forecast_curve import ForecastCurve
from planner.train.full.metrics import FILE, parse, read_metrics
from planner.train.full.plan import FILE as FULL
from planner.train.full.plan import STATES_FOLDER, FullRun
from planner.train.job import named, record_path

SPEED_STEPS = 20
"""Steps over which speed is averaged."""


@dataclass(frozen=True)
class Progress:
    """A run so far."""

    name: str
    steps: int
    """Of the whole run."""
    cooldown_from: int
    """Step at which its cooldown begins."""
    tokens_per_step: int
    course: ForecastCurve | None
    lines: tuple[dict[str, Any], ...]
    """Steps, evaluations and events, as the first rank wrote them."""
    outcome: dict[str, Any] | None
    """Row of the record, once the run has ended."""
    begins_at: int = 0
    """Step at which it branched off a trunk, whose steps are counted in."""
    held: bool = True
    """Whether something trains it, or is about to, as far as can be seen from this machine."""
    evaluate_at: tuple[int, ...] = ()
    """Steps after which a held-out loss is measured on the way."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """List the lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]

    @property
    def last(self) -> dict[str, Any] | None:
        """The last step that was taken."""
        steps = self.of("step")
        return steps[-1] if steps else None

    @property
    def word(self) -> dict[str, Any] | None:
        """The last verdict on the forecast."""
        words = [line for line in self.of("event") if line["what"] == "forecast"]
        return words[-1] if words else None

    @property
    def speed(self) -> tuple[float, float | None] | None:
        """Tokens a second and MFU over the last steps."""
        steps = self.of("step")[-SPEED_STEPS:]
        return speed_of(steps) if steps else None

    @property
    def seconds_left(self) -> float:
        """Seconds that the remaining steps take at that speed; 0 before the first step."""
        return 0.0 if self.last is None or self.speed is None else (self.steps - self.last["step"]) * self.tokens_per_step / self.speed[0]


def speed_of(steps: Collection[dict[str, Any]]) -> tuple[float, float | None]:
    """Return tokens a second and MFU over steps of one length, by their lines."""
    shares = [line["mfu"] for line in steps if line["mfu"] is not None]
    return len(steps) / sum(1 / line["tokens_per_second"] for line in steps), sum(shares) / len(shares) if shares else None


class Tail:
    """Follows a metrics file that another process writes, line by line."""

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._at = path, 0, 0

    def new(self) -> list[dict[str, Any]]:
        """Return the lines since the last call; a rollback or a resume replaces the file, which is then read from its beginning."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._at = inode, 0
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return parse(whole)


def watch(folder: Path) -> Progress:
    """Read how far a launched run is, or one of the runs of a plan for many domains, by its own folder.

    Raises:
        InputError: no run was prepared in the folder.
    """
    if not (folder / FULL).is_file():
        kind_of(folder)
        raise InputError(
            f"{folder} holds a run that was not prepared for ranks, so there is no curve to watch",
            remedy="see the progress bar of plan launch, which the same command shows again; once the run has ended, use plan verify",
        )
    run = FullRun.load(folder)
    name = run.last.segment.segment_id
    record = record_path(folder, name)
    outcome = dict(read_run(record)["row"]) if record.exists() else None
    if run.forks and (noted := run.last.diverged_path).exists():  # a trunk has no record
        outcome = {"status": "diverged", "reason": read_json(noted).get("reason"), "loss_spec": None}
    return Progress(
        name, run.steps, run.cooldown_from, run.recipe.tokens_per_step, ForecastCurve.load(folder), tuple(read_metrics(folder / FILE)), outcome,
        run.begins_at, _held(folder), run.settings.evaluate_at,
    )  # fmt: skip


def _held(folder: Path) -> bool:
    """Tell whether the ranks of a run, or what starts them, hold its folder; with many domains the runner holds the folder above."""
    holders = (holder_of(place) for place in (folder / STATES_FOLDER, folder, folder.parent))
    return any(holder is not None and not gone(holder) for holder in holders)


def watch_all(folder: Path) -> dict[str, Progress | None] | None:
    """Read how far each run of a plan for many domains is, the trunk first (None: not prepared yet); None for a launch of one run.

    Raises:
        InputError: no run was launched in the folder.
    """
    if (folder / FULL).is_file() or kind_of(folder) != DOMAINS:
        return None
    with whole(folder / "launch.json"):
        names = [named(str(name), folder) for name in read_artifact(folder / "launch.json", DOMAINS, DOMAINS_VERSION)["runs"]]
    trunk = [TRUNK] if (folder / TRUNK / FULL).is_file() else []
    return {name: watch(folder / name) if (folder / name / FULL).is_file() else None for name in trunk + names}
