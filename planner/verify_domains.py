"""Compare the outcome of a plan for many domains with the forecast that was recorded before it began."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from planner.allocate.domains.answer import DomainsAllocation
from planner.artifacts import check_numbers, sha256_file, whole, write_artifact
from planner.errors import StateError
from planner.launch.domains import COOLED, MIX
from planner.launch.domains import KIND as LAUNCH
from planner.launch.domains import VERSION as LAUNCH_VERSION
from planner.runs import compile_runs, read_run, write_runs
from planner.train.job import named, record_path
from planner.verify import check_table, read_launch, read_row

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


@dataclass(frozen=True)
class DomainsVerification:
    """Forecast and outcome of one structure."""

    structure: str
    assumption: str
    """What its forecast assumes without any sweep having measured it."""
    forecast: float
    """Weighted mean [nats/token]."""
    low: float
    high: float
    measured: float
    flops: float
    """Training FLOPs it took; a trunk that domains share counts once."""
    domains: tuple[DomainOutcome, ...]
    forecast_made: str
    run_started: str

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


def verify_domains(folder: Path) -> DomainsVerification:
    """Compare the runs in a launch folder with their forecast; write verification.json there, and a runs.csv beside each run of one domain.

    Raises:
        InputError: no launch in the folder.
        StateError: a run has not ended, or the forecast is younger than the runs or is not the one that they were launched with.
        DataError: a run diverged.
    """
    path = folder / "allocation.json"
    answer = DomainsAllocation.load(path)
    launch = read_launch(folder, LAUNCH, LAUNCH_VERSION, answer.created)
    with whole(folder / "launch.json"):
        structure = {item.name: item for item in answer.structures}[launch["structure"]]
        flops = float({name: realised for name, _, realised in launch["requested_and_realised"]}["flops"])
        runs = {str(name): str(run_id) for name, run_id in launch["runs"].items()}
    records = {name: record_path(folder / named(name, folder), run_id) for name, run_id in runs.items()}
    measured: dict[str, float] = {}  # by domain; of runs that several share, by the domain's name in the corpus
    shared: dict[str, float] = {}
    lost: dict[str, float] = {}
    for name, record in records.items():
        if not record.exists():
            raise StateError(f"the run of {name} in {folder} has not ended", remedy="run plan launch again, which resumes it")
        row = read_row(record, f"the run of {name}")
        with whole(record):
            check_numbers(row, ("loss_spec", "loss_general"), low=5e-324, what="the row")
            if name in (MIX, COOLED):
                shared |= read_run(record)["loss_by_domain"]
            else:
                measured[name] = row["loss_spec"]
        lost[name] = row["loss_general"]
    names = {name: source.get("domain") or name for source in answer.sources.values() for name in source["domains"]}
    domains = tuple(
        DomainOutcome(
            plan.name, plan.weight, plan.loss, plan.loss_low, plan.loss_high, measured[plan.name] if plan.name in runs else shared[names[plan.name]],
            lost.get(plan.name, lost.get(COOLED)), (plan.general["loss"], plan.general["loss_low"], plan.general["loss_high"]) if plan.general else None,
        )
        for plan in structure.domains
    )
    total = sum(item.weight for item in domains)
    assert structure.loss is not None and structure.loss_low is not None and structure.loss_high is not None
    result = DomainsVerification(
        structure.name, structure.assumption, structure.loss, structure.loss_low, structure.loss_high,
        sum(item.weight * item.measured for item in domains) / total, flops, domains, answer.created, launch["started"],
    )  # fmt: skip
    body = {**asdict(result), "inside": result.inside}
    tables = {record.parents[1] / "runs.csv": record for name, record in records.items() if name in measured}
    for place in tables:
        check_table(place)
    write_artifact(folder / "verification.json", KIND, VERSION, body, {"allocation": sha256_file(path)})
    for place, record in tables.items():
        write_runs(place, compile_runs([record]))
    return result
