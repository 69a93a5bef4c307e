"""`plan launch` and `plan verify` of a plan for many domains."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from planner.cli.compiling import compiled_among
from planner.cli.console import bar, give, say
from planner.cli.tables import table
from planner.errors import DataError
from planner.units import format_count, format_seconds


def launch_domains(
    allocation: Path, folder: Path, structure: str | None, corpus: Path | None, seed: int, device: str, threads: int | None, compiled: bool | None,
    dry_run: bool,
) -> None:  # fmt: skip
    """Train the trunk and the branches, the models, or the mix."""
    from planner.cli.needs import require_torch
    from planner.cli.paths import default_workers
    from planner.design.walltime import wall_seconds
    from planner.engines.event import Event
    from planner.engines.local import LocalEngine
    from planner.launch.domains import carry_out_domains, prepare_domains
    from planner.launch.start import repeated_general_text
    from planner.sweep import segments_to_train

    ready = prepare_domains(allocation, folder, structure=structure, corpus=corpus, seed=seed)
    rows = []
    for name, planned, real in ready.realised():
        rows.append([name, format_count(planned, 5), format_count(real, 5), f"{real / planned - 1:+.2%}" if planned else ""])
    table(f"{ready.structure.name} in {folder}", ["", "planned", "realised", "change"], rows)
    _, planned, real = ready.realised()[-1]
    if planned and real > 1.02 * planned:
        say(f"warning: these runs take {real:.3g} FLOPs, {real / planned - 1:.0%} more than the {planned:.3g} of the plan")
    if repeats := repeated_general_text(ready.runs.values()):
        say(f"warning: {repeats}")
    # A trunk that domains share is left to train for the first of them only.
    left, seen = [], set()
    for name, run in ready.runs.items():
        for segment in segments_to_train(run):
            if (path := run.state_path(segment)) not in seen:
                seen.add(path)
                left.append((name, run, segment))
    through = {
        name: compiled_among(run.tree, mine, compiled, device)
        for name, run in ready.runs.items()
        if (mine := [segment for owner, _, segment in left if owner == name])
    }
    seconds = sum(wall_seconds(run.tree, [segment], 1, through[name]) for name, run, segment in left)
    say(f"{len(left)} segments to train, about {format_seconds(seconds)} on one thread")
    if dry_run:
        return
    require_torch()
    with bar("training", sum(run.tree.cost(segment) for _, run, segment in left)) as shown:
        runs = {run.folder: (name, run) for name, run in ready.runs.items()}
        done = 0.0

        def on_event(event: Event) -> None:
            nonlocal done
            name, run = runs[event.job.folder]
            segment = event.job.segment
            part = event.steps / segment.steps if event.kind == "steps" else 0.0
            done += run.tree.cost(segment) if event.kind == "finished" else 0.0
            shown.update(done + part * run.tree.cost(segment), f"{name} {segment.segment_id}")
            if event.kind in ("failed", "worker_died"):
                shown.line(f"{name} {segment.segment_id}: {event.message.strip().splitlines()[0]}")

        count = threads or default_workers()
        records = carry_out_domains(ready, LocalEngine(1), device=device, threads=count, compiled=compiled, on_event=on_event)
    for name, record in records.items():
        if record["row"]["status"] != "ok":
            raise DataError(f"the run of {name} diverged: {record['row']['reason']}", remedy="lower the learning rate in the recipe and sweep again")
        losses = record.get("loss_by_domain") or {name: record["row"]["loss_spec"]}
        said = ", ".join(f"{domain} {loss:.4f}" for domain, loss in losses.items())
        say(f"{name}: held-out loss {said} nats/token; checkpoint {folder / name / 'checkpoint'}")
    say(f"next: plan verify {folder}")


def verify_domains(folder: Path, as_json: bool) -> None:
    """Print forecast and outcome of each domain and of the weighted mean."""
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


def _row(name: str, forecast: float, low: float, high: float, measured: float) -> list[str]:
    inside = "inside" if low <= measured <= high else "OUTSIDE"
    return [name, f"{forecast:.4f} ({low:.4f} to {high:.4f})", f"{measured:.4f}", f"{100 * (forecast / measured - 1):+.2f} %", inside]
