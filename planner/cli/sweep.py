"""`plan sweep`: plan, run, watch and tune a sweep."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import design
from planner.cli.compiling import Compiled, compiled_among
from planner.cli.console import application, bar, give, say
from planner.cli.sizes import read_counts
from planner.cli.tables import table
from planner.errors import StateError
from planner.units import format_count, format_seconds, parse_count

if TYPE_CHECKING:
    from planner.sweep import Sweep

app = application("Train small models over sizes, general tokens, specialist tokens and distinct text.")

Name = Annotated[str, typer.Argument(help="Folder of the sweep, or its name under sweeps/.")]
Workers = Annotated[int | None, typer.Option(min=1, help="One-thread worker processes; by default one per core.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _opened(name: str) -> Sweep:
    """Open a sweep; warn where the corpus has less text than it asks for or cuts it otherwise, and of endpoints that a fit will leave out."""
    from planner.cli.paths import sweep_folder
    from planner.flags import WARMUP_MULTIPLE
    from planner.launch.start import repeated_general_text, warn_of_scarce_text, warn_of_whole_documents
    from planner.sweep import Sweep

    sweep = Sweep.open(sweep_folder(name))
    warn_of_scarce_text([sweep])
    if repeats := repeated_general_text([sweep]):
        say(f"warning: {repeats}")
    warn_of_whole_documents(sweep)
    if short := sweep.mostly_warmup:
        setting = "rewarm_steps" if sweep.spec.bases else "warmup_steps"
        few = f"{len(short)} of {len(sweep.tree.tips)} endpoints have fewer steps than {WARMUP_MULTIPLE} times {setting}"
        say(f"warning: {few} = {getattr(sweep.spec.recipe, setting)}: plan fit leaves them out as mostly_warmup; give more tokens, or lower {setting}")
    return sweep


@app.command("plan", help="Show the tree of a sweep, its FLOPs and its expected time; trains nothing.\n\nExample: plan sweep plan medicine")
def plan(name: Name, workers: Workers = None, as_json: AsJson = False) -> None:
    """Show what a sweep would train."""
    from planner.cli.paths import default_workers
    from planner.design.compiling import key_of, to_compile
    from planner.design.walltime import wall_seconds

    sweep = _opened(name)
    tree, count = sweep.tree, workers or default_workers()
    compiled = to_compile(tree, None, "cpu")
    seconds = wall_seconds(tree, tree.segments, count, lambda segment: key_of(segment) in compiled)
    if as_json:
        give(
            {
                "endpoints": len(tree.tips), "segments": len(tree.segments), "flops": tree.flops_total, "flops_cell_by_cell": tree.flops_cell_by_cell,
                "seconds": seconds, "workers": count, "left_out": sweep.left_out, "cells": [asdict(cell) for cell in sweep.cells],
            }
        )  # fmt: skip
        return
    rows = []
    for size in sorted({tip.size for tip in tree.tips}):
        tips = [tip for tip in tree.tips if tip.size == size]
        chosen = [segment for segment in tree.segments if segment.size == size]
        shape = tips[0].shape
        rows.append(
            [
                format_count(size), format_count(shape.params_non_embedding), f"{shape.layers}×{shape.hidden}", f"{tips[0].learning_rate:.2e}",
                len({tip.seed for tip in tips}), len(tips), len(chosen), f"{sum(tree.flops(segment) for segment in chosen):.2e}",
            ]
        )  # fmt: skip
    columns = ["size", "realised", "layers×width", "learning rate", "seeds", "endpoints", "segments", "FLOPs"]
    table(f"Sweep {sweep.spec.name}: {len(tree.tips)} endpoints in {len(tree.segments)} segments", columns, rows)
    cells = sweep.cells
    say(f"general tokens: {', '.join(format_count(value) for value in sorted({cell.tokens_pt for cell in cells}))}")
    say(f"specialist tokens: {', '.join(format_count(value) for value in sorted({cell.tokens_spec for cell in cells}))}")
    distinct = sorted({cell.unique_spec for cell in cells if cell.unique_spec is not None})
    epochs = [(cell.tokens_spec + cell.tokens_early) / cell.unique_spec for cell in cells if cell.unique_spec]
    say(f"distinct specialist tokens: {', '.join(format_count(value) for value in distinct)}")
    say(f"epochs: {min(epochs, default=0):.2g} to {max(epochs, default=0):.3g}")
    for reason, number in sweep.left_out.items():
        say(f"left out: {number} cells {reason}")
    ratio = tree.flops_cell_by_cell / tree.flops_total
    say(f"FLOPs: {tree.flops_total:.3g} as a tree; {tree.flops_cell_by_cell:.3g} if every cell were trained from scratch ({ratio:.1f} times as many)")
    say(f"expected time: {format_seconds(seconds)} with {_workers(count)} on a machine like that of the measured speeds (planner/design/walltime.py)")


@app.command(
    "run",
    help="Train what is left of a sweep; after a stop or a kill the same command resumes.\n\nExample: plan sweep run medicine --workers 2\n\n"
    "Example: plan sweep run medicine --engine ray --address auto --device cuda --gpu-memory 80",
)
def run(
    name: Name,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="One-thread worker processes, by default one per core, with cuda one per GPU; with slurm, jobs queued, by default 64."),
    ] = None,
    device: Device = "cpu",
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Save each endpoint as a checkpoint; adapters both merged and separately.")] = False,
    compiled: Compiled = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is left, and what each task would request.")] = False,
    engine: Annotated[str, typer.Option(help="Where segments run: local, ray or slurm.")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster, such as auto or 10.0.0.4:6379; by default Ray starts here, on loopback.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of one GPU [GB], so that small models share one; for ray with cuda.")] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
    slurm_option: Annotated[list[str] | None, typer.Option(help="Slurm: an option of sbatch as KEY=VALUE, such as account=physics; repeatable.")] = None,
) -> None:
    """Run a sweep."""
    from planner.cli.engines import Where, show_demands
    from planner.cli.needs import require_method, require_torch
    from planner.cli.progress import Watch
    from planner.design.walltime import wall_seconds
    from planner.sweep import run_sweep, segments_to_train

    where = Where(engine, workers, address, gpu_memory, partition, tuple(slurm_option or ()), device)
    sweep = _opened(name)
    count = where.known_workers
    left = segments_to_train(sweep)
    time = format_seconds(wall_seconds(sweep.tree, left, count or 1, compiled_among(sweep.tree, left, compiled, device)))
    say(f"{len(left)} of {len(sweep.tree.segments)} segments to train, about {time} with {_workers(count) if count else 'a single worker'}")
    if dry_run:
        if left:
            show_demands(sweep, left, where)
        return
    if left:
        require_torch()
        for method in sorted({segment.method for segment in left}):
            require_method(method)
    chosen = where.make()
    with bar("sweep", sum(sweep.tree.cost(segment) for segment in left)) as shown:
        watch = Watch(sweep, shown)
        failures = run_sweep(sweep, chosen, device=device, keep_state=checkpoints, compiled=compiled, on_event=watch)
    unread: dict[str, StateError] = {}
    if checkpoints:
        from planner.launch.checkpoints import export_endpoints

        written, unread = export_endpoints(sweep)
        for place in written:
            say(f"checkpoint: {place}")
    if left and count:
        say(f"{format_seconds(watch.seconds)} with {_workers(count)}, busy {watch.utilisation(count):.0%} of the time")
    say(f"runs: {sweep.folder / 'runs.csv'}")
    if failures:
        first, message = next(iter(failures.items()))
        cause = message.strip().splitlines()[0]
        raise StateError(f"{len(failures)} segments failed, the first {first}: {cause}", remedy="fix the cause and run the same command again")
    if unread:
        lost, error = next(iter(unread.items()))
        raise StateError(f"{len(unread)} endpoints have no checkpoint, the first {lost}: {error.message}", remedy=error.remedy)


@app.command("status", help="Show the progress of a sweep.\n\nExample: plan sweep status medicine")
def status(name: Name, as_json: AsJson = False) -> None:
    """Show the progress of a sweep."""
    from planner.cli.paths import sweep_folder
    from planner.sweep import Sweep, sweep_status

    sweep = Sweep.open(sweep_folder(name))
    now = sweep_status(sweep)
    if as_json:
        give(asdict(now))
        return
    columns = ["endpoints", "done", "diverged", "failed", "running", "waiting", "FLOPs left"]
    row = [len(sweep.tree.tips), now.done, now.diverged, now.failed, now.running, now.waiting - now.running, f"{now.flops_left:.2e}"]
    table(f"Sweep {sweep.spec.name}", columns, [row])


@app.command(
    "tune-lr",
    help="Find the learning-rate rule with short probes and write it into sweep.toml.\n\n"
    "Example: plan sweep tune-lr medicine --tokens-pt 1M --tokens-spec 400k",
)
def tune_lr(
    name: Name,
    sizes: Annotated[
        str | None, typer.Option(help="Sizes to probe, such as 20k,80k,320k; by default the smallest, middle and largest of the sweep.")
    ] = None,
    rates: Annotated[str | None, typer.Option(help="Rates to try, such as 1e-3,2e-3,4e-3; by default five around the recipe's own.")] = None,
    tokens_pt: Annotated[str, typer.Option(help="General tokens per probe.")] = "1M",
    tokens_spec: Annotated[str, typer.Option(help="Specialist tokens per probe.")] = "400k",
    workers: Workers = None,
    device: Device = "cpu",
    compiled: Compiled = None,
    write: Annotated[bool, typer.Option("--write/--no-write", help="Write the rule into sweep.toml.")] = True,
) -> None:
    """Tune the learning rate."""
    from planner.cli.engines import Where
    from planner.cli.needs import require_torch
    from planner.cli.paths import sweep_folder
    from planner.cli.progress import Watch
    from planner.report.learning_rates import learning_rates
    from planner.report.style import save
    from planner.sweep import Sweep, segments_to_train
    from planner.tune import Probes, default_rates, default_sizes, probe_sweep, tune_learning_rate, write_rule

    require_torch()
    where = Where(workers=workers, device=device)
    folder = sweep_folder(name)
    sweep = Sweep.open(folder)
    recipe, vocab = sweep.spec.recipe, sweep.corpus.vocab_size
    chosen = _numbers(sizes) or default_sizes([cell.size for cell in sweep.cells], recipe.family, vocab)
    middle = chosen[len(chosen) // 2]
    probes = Probes(chosen, _numbers(rates) or default_rates(recipe.learning_rate(middle)), parse_count(tokens_pt), parse_count(tokens_spec))
    first = probe_sweep(sweep, probes, {size: probes.rates for size in probes.sizes})
    left = segments_to_train(first)
    compiled_among(first.tree, left, compiled, device)
    with bar("probes", sum(first.tree.cost(segment) for segment in left)) as shown:
        body = tune_learning_rate(sweep, probes, where.make(), device=device, compiled=compiled, on_event=Watch(first, shown))
    rows = []
    for item in body["optima"]:
        size, rates_1_percent = format_count(item["params_non_embedding"]), item["basin_1_percent"]
        basin = "{:.1e} to {:.1e}".format(*rates_1_percent) if rates_1_percent else "none"
        rows.append([size, f"{item['learning_rate']:.2e}", basin, f"{item['residual_percent']:+.1f} %"])
    table("Learning-rate optima", ["parameters", "best rate", "within 1 % of its loss", "off the rule"], rows)
    save(folder / "figures" / "learning_rates.png", lambda axes: learning_rates(axes[0], body))
    rule = body["rule"]
    say(f"rule: rate = {rule['lr_coefficient']:g} · (N / {rule['lr_reference_params']:g})^{-rule['lr_exponent']:g}")
    say(f"written: {folder / 'tune.json'}, {folder / 'figures' / 'learning_rates.png'}")
    if write:
        write_rule(folder / "sweep.toml", body)
        say(f"written into {folder / 'sweep.toml'}; runs already made with another rule cannot be mixed with new ones")


app.command("design", help=design.HELP)(design.design)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    return read_counts(text) if text else None


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"
