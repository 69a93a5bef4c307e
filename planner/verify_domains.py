"""Hold the outcome of a plan for many domains against the forecast that was put down before it began."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from planner.allocate.domains.answer import DomainsAllocation
from planner.artifacts import read_artifact, sha256_file, write_artifact
from planner.errors import DataError, StateError
from planner.launch.domains import KIND as LAUNCH
from planner.launch.domains import MIX
from planner.launch.domains import VERSION as LAUNCH_VERSION
from planner.train.job import record_path

KIND = "domains_verification"
VERSION = 1


@dataclass(frozen=True)
class DomainOutcome:
    """Forecast and outcome of one domain [nats/token]."""

    name: str
    weight: float
    forecast: float
    low: float
    high: float
    measured: float
    general_measured: float | None = None
    general_forecast: tuple[float, float, float] | None = None
    """General loss and its interval [nats/token], where the plan was under a limit on it."""

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class DomainsVerification:
    """Forecast and outcome of one structure."""

    structure: str
    assumption: str
    """What its forecast assumes and no sweep has measured."""
    forecast: float
    """Weighted mean [nats/token]."""
    low: float
    high: float
    measured: float
    flops: float
    """What it took, a trunk that domains share once."""
    domains: tuple[DomainOutcome, ...]
    forecast_made: str
    run_started: str

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


def verify_domains(folder: Path) -> DomainsVerification:
    """Compare the runs in a launch folder with their forecast, and write verification.json there.

    Raises:
        InputError: no launch in the folder.
        StateError: a run has not ended, or the forecast is younger than the runs or is not the one that they were launched with.
        DataError: a run diverged.
    """
    launch = read_artifact(folder / "launch.json", LAUNCH, LAUNCH_VERSION)
    path = folder / "allocation.json"
    answer = DomainsAllocation.load(path)
    if sha256_file(path) != launch["inputs"].get("allocation"):
        raise StateError(f"{path} is not the plan that the runs were launched with", remedy="restore it; a forecast is not changed afterwards")
    if datetime.fromisoformat(answer.created) >= datetime.fromisoformat(launch["started"]):
        raise StateError(
            f"the forecast was made at {answer.created} and the runs began at {launch['started']}: it is younger than they",
            remedy="only a forecast made before a run can be held against it",
        )
    structure = next(item for item in answer.structures if item.name == launch["structure"])
    measured: dict[str, float] = {}
    lost: dict[str, float] = {}
    for name, run_id in launch["runs"].items():
        record = record_path(folder / name, run_id)
        if not record.exists():
            raise StateError(f"the run of {name} in {folder} has not ended", remedy="run plan launch again; it goes on from where it is")
        body = read_artifact(record, "run", 1)
        if body["row"]["status"] != "ok":
            raise DataError(f"the run of {name} diverged: {body['row']['reason']}", remedy="a diverged run says nothing about the law; mend the recipe")
        measured |= body["loss_by_domain"] if name == MIX else {name: body["row"]["loss_spec"]}
        lost[name] = body["row"]["loss_general"]
    names = {name: source.get("domain") or name for source in answer.sources.values() for name in source["domains"]}
    domains = tuple(
        DomainOutcome(
            plan.name, plan.weight, plan.loss, plan.loss_low, plan.loss_high, measured[names[plan.name] if MIX in launch["runs"] else plan.name],
            lost.get(plan.name), (plan.general["loss"], plan.general["loss_low"], plan.general["loss_high"]) if plan.general else None,
        )  # fmt: skip
        for plan in structure.domains
    )
    total = sum(item.weight for item in domains)
    assert structure.loss is not None and structure.loss_low is not None and structure.loss_high is not None
    flops = next(realised for name, _, realised in launch["requested_and_realised"] if name == "flops")
    result = DomainsVerification(
        structure.name, structure.assumption, structure.loss, structure.loss_low, structure.loss_high,
        sum(item.weight * item.measured for item in domains) / total, flops, domains, answer.created, launch["started"],
    )  # fmt: skip
    body = {**asdict(result), "inside": result.inside}
    write_artifact(folder / "verification.json", KIND, VERSION, body, {"allocation": sha256_file(path)})
    return result
