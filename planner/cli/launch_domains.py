"""`plan launch` and `plan verify` of a plan for many domains."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.compiling import compiled_among
from planner.cli.console import give, say
from planner.cli.full import show_resources, train_here
from planner.cli.needs import require_here, require_method, require_torch
from planner.cli.tables import table
from planner.errors import DataError
from planner.units import format_count

if TYPE_CHECKING:
    from planner.launch.domains import DomainsLaunch
    from planner.launch.parts import Part
    from planner.launch.slurm import Job
    from planner.train.full.plan import Settings

MORE_THAN_PLANNED = 1.02


def launch_domains(
    ready: DomainsLaunch, settings: Settings, ranks: int, engine: str, *, save_every: int | None, address: str | None, per_node: int,
    slurm_options: list[str], submit: bool, compiled: bool | None, dry_run: bool,
) -> None:  # fmt: skip
    """Train the trunk and the branches, the models, or the mix, one after the other; under Slurm submit each as a job."""
    from planner.launch.domains import begin_domains
    from planner.launch.parts import forget_trunk, lay_parts, left, parts
    from planner.lock import locked
    from planner.train.full.run_lock import check_free

    laid = parts(ready, ranks, settings, save_every=save_every)
    if compiled and engine == "local":  # elsewhere other machines compile
        for run in {(run.cells[0].size, run.cells[0].method): run for run in ready.runs.values()}.values():
            compiled_among(run.tree, run.tree.segments, compiled, settings.device)
    _show(ready, laid, ranks)
    jobs = _jobs(ready, laid, ranks, per_node, slurm_options) if engine == "slurm" else []
    if dry_run:
        return
    if left(laid):
        if not jobs:
            require_torch()
            require_here(settings, engine, address)
            for run in ready.runs.values():
                require_method(run.cells[0].method)
        with locked(ready.folder, engine):
            for part in laid:
                check_free(part.folder)
            lay_parts(ready, laid)
            if jobs:
                return _hand_in(ready, jobs, submit)
            while some := left(laid):
                first = some[0]
                train_here(first.folder, first.run, ranks, engine, address, f"training {first.name}", above=ready.folder)
                if not first.ended:  # stopped by a stop file or a signal to a rank, not to this process
                    raise KeyboardInterrupt
    else:
        begin_domains(ready)
    forget_trunk(laid)
    _tell(ready, laid)


def _show(ready: DomainsLaunch, laid: list[Part], ranks: int) -> None:
    """Print what is planned and the resources it needs."""
    from planner.launch.start import repeated_general_text

    rows = []
    for name, planned, real in ready.realised():
        rows.append([name, format_count(planned, 5), format_count(real, 5), f"{real / planned - 1:+.2%}" if planned else ""])
    table(f"{ready.structure.name} in {ready.folder}", ["", "planned", "realised", "change"], rows)
    _, planned, real = ready.realised()[-1]
    if planned and real > MORE_THAN_PLANNED * planned:
        say(f"warning: these runs take {real:.3g} FLOPs, {real / planned - 1:.0%} more than the plan's {planned:.3g}")
    if repeats := repeated_general_text(ready.runs.values()):
        say(f"warning: {repeats}")
    # The domains' runs differ only in their text, so the longest one needs the most of everything.
    dearest = max(laid, key=lambda part: part.run.last.segment.shape.params_total * part.run.steps)
    show_resources(dearest.run, ranks, [(run.tree, segment) for _, run, segment in ready.segments()], dearest=dearest.name)


def _jobs(ready: DomainsLaunch, laid: list[Part], ranks: int, per_node: int, slurm_options: list[str]) -> list[Job]:
    """Return the Slurm jobs for what is left; a dry run calls this to refuse what a launch would.

    Raises:
        PlannerError: an invalid option.
    """
    from planner.launch import slurm
    from planner.launch.parts import left

    options, todo, launch = slurm.options_of(slurm_options), left(laid), ready.folder.resolve().name
    return [
        slurm.Job(part.folder.resolve(), sys.executable, ranks, per_node, part.run.settings, options, f"{launch}-{number}-{part.name}")
        for number, part in enumerate(laid)
        if part in todo
    ]


def _hand_in(ready: DomainsLaunch, jobs: list[Job], submit: bool) -> None:
    """Write the jobs' files and a script that submits them, and run that script if asked to."""
    from planner.launch import slurm
    from planner.launch.domains import TRUNK

    paths = [slurm.write(job) for job in jobs]
    first = paths.pop(0) if paths[0].parent.name == TRUNK else None
    chain = slurm.write_chain(ready.folder.resolve(), first, paths)
    say(f"written: {slurm.FILE} of {len(jobs)} runs, and {chain}, which submits them")
    if submit:
        for line in slurm.submit_chain(chain):
            say(f"submitted as job: {line}")
    else:
        say(f"submit them: bash {chain}")
    say(f"follow them: plan watch {shlex.quote(str(ready.folder))}; afterwards the same plan launch command shows the outcome")


def _tell(ready: DomainsLaunch, laid: list[Part]) -> None:
    """Print how the runs ended.

    Raises:
        DataError: one diverged.
    """
    lost = {}
    for part in laid:
        record = None if part.run.forks else part.record
        if record is None:
            continue
        if record["row"]["status"] != "ok":
            lost[part.name] = record["row"]["reason"]
            continue
        losses = record.get("loss_by_domain") or {part.name: record["row"]["loss_spec"]}
        said = ", ".join(f"{domain} {loss:.4f}" for domain, loss in losses.items())
        say(f"{part.name}: held-out loss {said} nats/token; checkpoint {part.folder / 'checkpoint'}")
    for name, reason in lost.items():
        raise DataError(f"the run of {name} diverged: {reason}", remedy="lower the learning rate in the recipe and sweep again")
    say(f"next: plan verify {shlex.quote(str(ready.folder))}")


def verify_domains(folder: Path, as_json: bool) -> None:
    """Print forecast and outcome of each domain and of the weighted mean."""
    from planner.allocate.domains.found import MIXED
    from planner.verify_domains import verify_domains as compare

    result = compare(folder)
    if as_json:
        give({**asdict(result), "inside": result.inside})
        return
    rows = [_row("weighted mean", result.forecast, result.low, result.high, result.measured)]
    rows += [_row(item.name, item.forecast, item.low, item.high, item.measured) for item in result.domains]
    for item in result.domains:
        if item.general_forecast is not None and item.general_measured is not None:
            rows.append(_row(f"general loss after {item.name}", *item.general_forecast, item.general_measured))
    caption = f"forecast made {result.forecast_made}, runs begun {result.run_started}; {result.flops:.3g} FLOPs"
    table(f"{result.structure} in {folder}", ["", "forecast (90 % interval)", "measured", "error", ""], rows, caption=caption)
    if result.assumption:
        say(f"forecast under an {result.assumption}")
    say(f"written: {folder / 'verification.json'}")
    if result.structure != MIXED:
        say(f"to include a domain's run in the fit of its law, use --with {shlex.quote(str(folder))}/DOMAIN")


def _row(name: str, forecast: float, low: float, high: float, measured: float) -> list[str]:
    inside = "inside" if low <= measured <= high else "OUTSIDE"
    return [name, f"{forecast:.4f} ({low:.4f} to {high:.4f})", f"{measured:.4f}", f"{100 * (forecast / measured - 1):+.2f} %", inside]
