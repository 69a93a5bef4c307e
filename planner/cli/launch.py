"""`plan launch` and `plan verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import bar, give, say, table
from planner.errors import DataError, PlannerWarning
from planner.units import format_count, format_seconds

if TYPE_CHECKING:
    from planner.launch.launch import Launch
    from planner.verify import Verification

LAUNCH_HELP = (
    "Train the recommended run with the sweep's own recipe; after a stop the same command goes on.\n\n"
    "Example: plan launch allocation.json --dry-run\n\nExample: plan launch allocation.json --out launches/first"
)
VERIFY_HELP = "Hold a launched run's outcome against the forecast made before it.\n\nExample: plan verify launches/first"
FAR_FROM_PLAN = 0.05


def launch(
    allocation: Annotated[Path, typer.Argument(help="What plan allocate wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; launches/NAME by default.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="The sweep's corpus, where it has moved.")] = None,
    base: Annotated[Path | None, typer.Option(help="Open checkpoint to start from, in safetensors, for plans that start from one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of initialisation and data order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU; one a core by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be trained.")] = False,
) -> None:
    """Launch a run."""
    from planner.cli.needs import require_method, require_torch
    from planner.cli.paths import default_workers
    from planner.cli.progress import Watch
    from planner.design.walltime import wall_seconds
    from planner.engines.local import LocalEngine
    from planner.launch.launch import carry_out, prepare
    from planner.sweep import segments_to_train

    folder = out or Path("launches") / allocation.stem
    ready = prepare(allocation, folder, corpus=corpus, seed=seed, base=base)
    show_realised(ready)
    left = segments_to_train(ready.run)
    workers = threads or default_workers()
    say(f"{len(left)} of {len(ready.run.tree.segments)} segments to train, about {format_seconds(wall_seconds(ready.run.tree, left, 1))} on one thread")
    if dry_run:
        return
    require_torch()
    require_method(ready.run.cells[0].method)
    with bar("training", sum(ready.run.tree.cost(segment) for segment in left)) as shown:
        row = carry_out(ready, LocalEngine(1), device=device, threads=workers, on_event=Watch(ready.run, shown))
    if row["status"] != "ok":
        raise DataError(f"the run diverged: {row['reason']}", remedy="lower the learning rate in the recipe and sweep again")
    say(f"specialist loss {row['loss_spec']:.4f} nats/token ({row['bpb_spec']:.3f} bits/byte), general loss {row['loss_general']:.4f}")
    say(f"checkpoint: {ready.checkpoint}; next: plan verify {folder}")


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of the launched run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Verify a run."""
    from planner.report.plans import verification
    from planner.report.style import save
    from planner.verify import verify as compare

    result = compare(folder)
    if as_json:
        give({**asdict(result), "error": result.error, "error_percent": result.error_percent, "inside": result.inside})
    else:
        show_verification(result)
    save(folder / "verification.png", lambda axes: verification(axes[0], result), width=4.6)
    say(f"written: {folder / 'verification.json'}, {folder / 'verification.png'}")


def show_realised(ready: Launch) -> None:
    """Print requested against realised values."""
    import warnings

    rows = []
    for name, planned, realised in ready.realised():
        change = realised / planned - 1 if planned else 0.0
        rows.append([name, format_count(planned, 5), format_count(realised, 5), f"{change:+.2%}"])
        if abs(change) > FAR_FROM_PLAN:
            warnings.warn(f"{name} is realised {change:+.1%} off the plan; the forecast is for the plan", PlannerWarning, stacklevel=2)
    tip = ready.run.tree.tips[0]
    shape = tip.shape
    caption = f"{shape.family}, {shape.layers} layers, width {shape.hidden}, learning rate {tip.learning_rate:.3g}, seed {tip.seed}"
    table(f"Run in {ready.folder}", ["", "planned", "realised", "change"], rows, caption=caption)


def show_verification(result: Verification) -> None:
    """Print forecast and outcome."""
    rows = [
        ["forecast [nats/token]", f"{result.forecast:.4f}", f"{result.low:.4f} to {result.high:.4f}"],
        ["measured [nats/token]", f"{result.measured:.4f}", "inside" if result.inside else "OUTSIDE"],
        ["error", f"{result.error:+.4f} nats", f"{result.error_percent:+.2f} %"],
    ]
    if result.general_forecast is not None:
        forecast, low, high = result.general_forecast
        rows += [
            ["general loss, forecast [nats/token]", f"{forecast:.4f}", f"{low:.4f} to {high:.4f}"],
            ["general loss, measured [nats/token]", f"{result.loss_general:.4f}", "inside" if low <= result.loss_general <= high else "OUTSIDE"],
        ]
    caption = f"forecast made {result.forecast_made}, run begun {result.run_started}"
    table(f"Run {result.run_id}", ["specialist loss", "", "90 % interval"], rows, caption=caption)
