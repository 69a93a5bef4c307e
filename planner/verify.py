"""Compare a run's outcome with the forecast that was recorded before it began."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from planner.artifacts import check_numbers, read_artifact, sha256_file, whole, write_artifact
from planner.errors import DataError, InputError, StateError
from planner.launch.launch import KIND as LAUNCH
from planner.launch.launch import VERSION as LAUNCH_VERSION
from planner.launch.start import read_plan
from planner.runs import compile_runs, read_run, write_runs
from planner.train.job import record_path

KIND = "verification"
VERSION = 1


@dataclass(frozen=True)
class Verification:
    """Forecast and outcome of one launched run."""

    run_id: str
    forecast: float
    """[nats/token]"""
    low: float
    high: float
    measured: float
    loss_general: float
    bpb_spec: float
    forecast_made: str
    run_started: str
    general_forecast: tuple[float, float, float] | None = None
    """Forecast general loss and its interval [nats/token], where the plan was under a limit on it."""

    @property
    def error(self) -> float:
        """Forecast minus outcome [nats/token]."""
        return self.forecast - self.measured

    @property
    def error_percent(self) -> float:
        """The error in per cent of the outcome."""
        return 100 * self.error / self.measured

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


def read_launch(folder: Path, kind: str, version: int, created: str) -> dict[str, Any]:
    """Read launch.json, and check that the plan beside it is the one that was launched, and older.

    Args:
        folder: of the launch.
        kind: of the artefact.
        version: of its schema.
        created: when the plan was made, in ISO format.

    Raises:
        InputError: no launch in the folder, or one that is not whole.
        StateError: the forecast is younger than the run, or is not the one that it was launched with.
    """
    path = folder / "launch.json"
    launch = read_artifact(path, kind, version)
    with whole(path):
        digest, started = launch["inputs"].get("allocation"), datetime.fromisoformat(launch["started"])
        younger = datetime.fromisoformat(created) >= started
    if sha256_file(folder / "allocation.json") != digest:
        what = f"{folder / 'allocation.json'} is not the plan that the run was launched with"
        raise StateError(what, remedy="restore it; a forecast must not change after the launch")
    if younger:
        raise StateError(
            f"the forecast, made at {created}, is younger than the run, which began at {launch['started']}",
            remedy="a run can only be compared with a forecast made before it",
        )
    return launch


def read_row(record: Path, what: str) -> dict[str, Any]:
    """Read the row of a run that has ended well.

    Raises:
        InputError: a record that is not whole.
        DataError: the run diverged.
    """
    body = read_run(record)
    with whole(record):
        row: dict[str, Any] = body["row"]
        status, reason = row["status"], row.get("reason")
    if status != "ok":
        raise DataError(f"{what} diverged: {reason}", remedy="a diverged run says nothing about the law; fix the recipe")
    return row


def check_table(place: Path) -> None:
    """Refuse to write a run's table over something that is no table of runs.

    Raises:
        InputError: it is none.
    """
    if place.is_dir() or (place.is_file() and not place.read_bytes().startswith(b"run_id,")):
        raise InputError(f"{place} is no table of runs, and the run's table would overwrite it", remedy="move it away first")


def verify(folder: Path) -> Verification:
    """Compare the run in a launch folder with its forecast; write verification.json there, and runs.csv, with which a fit can include the run.

    Raises:
        InputError: no launch in the folder.
        StateError: the run has not ended, or the forecast is younger than it, or is not the one it was launched with.
        DataError: the run diverged.
    """
    path = folder / "allocation.json"
    launch = read_launch(folder, LAUNCH, LAUNCH_VERSION, read_plan(path).allocation.created)
    with whole(folder / "launch.json"):
        record, arm, put_down = record_path(folder, launch["run_id"]), launch.get("arm"), launch.get("forecast", {}).get("loss")
        if not (arm is None or isinstance(arm, str)):
            raise ValueError(f"arm = {arm!r}")
    allocation = read_plan(path, arm).allocation
    if put_down not in (None, allocation.plan.loss):  # as where the arm was changed to one that did better
        what = f"{folder / 'launch.json'} records a forecast of {put_down}, and {arm or 'the recommendation'} has {allocation.plan.loss:.5g}"
        raise StateError(what, remedy="restore its arm; a forecast must not change after the launch")
    if not record.exists():
        if (told := folder / "verification.json").exists():
            raise StateError(f"the record of the run in {folder} is gone; its earlier verification is in {told}", remedy=f"restore {record}")
        raise StateError(f"the run in {folder} has not ended", remedy="run plan launch again, which resumes it")
    row = read_row(record, f"run {launch['run_id']}")
    with whole(record):
        check_numbers(row, ("loss_spec", "loss_general", "bpb_spec"), low=5e-324, what="the row")
    plan, general = allocation.plan, allocation.general
    result = Verification(
        launch["run_id"], plan.loss, plan.loss_low, plan.loss_high, row["loss_spec"], row["loss_general"], row["bpb_spec"], allocation.created,
        launch["started"], (general["loss"], general["loss_low"], general["loss_high"]) if general and arm is None else None,
    )  # fmt: skip
    body = {**asdict(result), "error": result.error, "error_percent": result.error_percent, "inside": result.inside}
    check_table(folder / "runs.csv")
    write_artifact(folder / "verification.json", KIND, VERSION, body, {"allocation": sha256_file(path)})
    write_runs(folder / "runs.csv", compile_runs([record]))
    return result
