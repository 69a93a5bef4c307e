"""Hold a run's outcome against the forecast that was put down before it began."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from planner.artifacts import read_artifact, sha256_file, write_artifact
from planner.errors import DataError, StateError
from planner.launch.launch import KIND as LAUNCH
from planner.launch.launch import VERSION as LAUNCH_VERSION
from planner.launch.start import read_plan
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
        """The same in per cent of the outcome."""
        return 100 * self.error / self.measured

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


def verify(folder: Path) -> Verification:
    """Compare the run in a launch folder with its forecast, and write verification.json there.

    Raises:
        InputError: no launch in the folder, or the run has not ended.
        StateError: the forecast is younger than the run, or is not the one it was launched with.
        DataError: the run diverged.
    """
    launch = read_artifact(folder / "launch.json", LAUNCH, LAUNCH_VERSION)
    path = folder / "allocation.json"
    allocation = read_plan(path).allocation
    if sha256_file(path) != launch["inputs"].get("allocation"):
        raise StateError(f"{path} is not the allocation that the run was launched with", remedy="restore it; a forecast is not changed afterwards")
    if datetime.fromisoformat(allocation.created) >= datetime.fromisoformat(launch["started"]):
        raise StateError(
            f"the forecast was made at {allocation.created} and the run began at {launch['started']}: it is younger than the run",
            remedy="only a forecast made before a run can be held against it",
        )
    record = record_path(folder, launch["run_id"])
    if not record.exists():
        raise StateError(f"the run in {folder} has not ended", remedy="run plan launch again; it goes on from where it is")
    row = read_artifact(record, "run", 1)["row"]
    if row["status"] != "ok":
        raise DataError(f"run {launch['run_id']} diverged: {row['reason']}", remedy="a diverged run says nothing about the law; mend the recipe")
    plan, general = allocation.plan, allocation.general
    result = Verification(
        launch["run_id"], plan.loss, plan.loss_low, plan.loss_high, row["loss_spec"], row["loss_general"], row["bpb_spec"], allocation.created,
        launch["started"], (general["loss"], general["loss_low"], general["loss_high"]) if general else None,
    )  # fmt: skip
    body = {**asdict(result), "error": result.error, "error_percent": result.error_percent, "inside": result.inside}
    write_artifact(folder / "verification.json", KIND, VERSION, body, {"allocation": sha256_file(path)})
    return result
