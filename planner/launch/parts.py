"""The runs of a plan for many domains, laid out for their ranks: a shared trunk first, if any, then its branches. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.allocate.domains.answer import DomainPlan
from planner.artifacts import read_json
from planner.design.segment import Segment
from planner.fit.fitted import FittedLaw
from planner.launch.domains import COOLED, MIX, TRUNK, DomainsLaunch, begin_domains
from planner.launch.forecast_curve import forecast_curve_of_domain, unchanged
from planner.launch.full import default_save_every, lay_run, settle, settle_trunk
from planner.runs import read_run
from planner.sweep import Sweep
from planner.train.full.forecast_curve import ForecastCurve
from planner.train.full.plan import STATES_FOLDER, FullRun, Settings, latest_step
from planner.train.job import record_path


@dataclass(frozen=True)
class Part:
    """A run of the launch, in a folder of its own."""

    name: str
    """Of the domain, or MIX, COOLED or TRUNK."""
    folder: Path
    run: FullRun
    course: ForecastCurve | None
    """The forecast along it; None for the trunk and a mix, of which there is none."""

    @property
    def record(self) -> dict[str, Any] | None:
        """Record of its endpoint, once it has ended."""
        path = record_path(self.folder, self.run.last.segment.segment_id)
        return read_run(path) if path.exists() else None

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        if self.run.forks:
            return latest_step(self.folder) == self.run.steps or self.run.last.diverged_path.exists()
        record = self.record
        return record is not None and (record["row"]["status"] != "ok" or (self.folder / "checkpoint").exists())


def parts(launch: DomainsLaunch, ranks: int, settings: Settings, *, save_every: int | None = None) -> list[Part]:
    """Lay the runs out, in an order in which they can be trained.

    Args:
        launch: the plan.
        ranks: processes that train each.
        settings: as asked for; its `save_every` is ignored.
        save_every: steps between two states; None to choose them by the length of each run.

    Raises:
        InputError: the batch or the copies of the model do not fit the ranks.
    """
    told = {name: replace(settings, save_every=save_every or default_save_every(run)) for name, run in launch.runs.items()}
    shared = _shared(launch.runs)
    found = {name: settle(run, ranks, told[name], TRUNK if shared else None).within(run.folder) for name, run in launch.runs.items()}
    forks = sorted({run.begins_at for run in found.values()} - {0})
    trunk = []
    if forks:
        name = max(found, key=lambda each: found[each].begins_at)
        folder = launch.folder / TRUNK
        trunk = [Part(TRUNK, folder, settle_trunk(launch.runs[name], forks, ranks, told[name]).within(folder), None)]
    return trunk + [Part(name, launch.runs[name].folder, run, _course(launch, name, run)) for name, run in found.items()]


def left(laid: Sequence[Part]) -> list[Part]:
    """List the runs that have not ended; the trunk only where one of them has yet to begin with its state."""
    branches = [part for part in laid if not part.run.forks and not part.ended]
    needed = any(latest_step(part.folder) < 0 for part in branches)
    return [part for part in laid if part.run.forks and needed and not part.ended] + branches


def lay_parts(launch: DomainsLaunch, laid: Sequence[Part]) -> None:
    """Write all that the ranks of the remaining runs read into the launch folder.

    Raises:
        StateError: see `begin_domains`.
    """
    begin_domains(launch)
    todo = left(laid)
    for part in laid:
        if part in todo or part.run.forks:  # branches read the trunk's, ended or not
            lay_run(part.folder, part.run, part.course)


def forget_trunk(laid: Sequence[Part]) -> None:
    """Delete the trunk's states once all of its branches have ended."""
    for part in laid:
        if part.run.forks and not left(laid):
            shutil.rmtree(part.folder / STATES_FOLDER, ignore_errors=True)


def _shared(runs: Mapping[str, Sweep]) -> bool:
    """Tell whether the runs begin with the same general stage, its length aside."""

    def trunk(run: Sweep) -> Segment:
        first = run.tree.segments[0]
        return replace(first, segment_id="", last_step=0, cell=None, cooldown_from=None, cooldown_to=None)

    stages = {trunk(run) for run in runs.values()}
    return len(runs) > 1 and len(stages) == 1 and all(run.spec.trunks is not None for run in runs.values()) and next(iter(stages)).stage == "general"


def _course(launch: DomainsLaunch, name: str, run: FullRun) -> ForecastCurve | None:
    if name == MIX:
        return None  # its forecast is of all domains, and on the way only the first is measured
    plan = next(plan for plan in launch.structure.domains if plan.name == name or (name == COOLED and plan.tokens_spec == 0))
    return forecast_curve_of_domain(plan, run, _law(launch, plan))


def _law(launch: DomainsLaunch, plan: DomainPlan) -> FittedLaw | None:
    """Read the law that a domain was planned with, if it can be found."""
    key, source = next((key, source) for key, source in launch.answer.sources.items() if plan.name in source["domains"])
    path = launch.path.parent / source["law_path"] if source.get("law_path") else None
    if path is None or not path.is_file() or not unchanged(path, read_json(launch.path).get("inputs", {}).get(key)):
        return None
    return FittedLaw.load(path)
