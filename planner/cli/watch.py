"""`plan watch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import give, say
from planner.cli.tables import table
from planner.units import format_count, format_seconds

if TYPE_CHECKING:
    from planner.launch.watch import Progress

HELP = "Show how a launched run is doing, wherever it trains: measured beside forecast, speed, time left.\n\nExample: plan watch launches/first"


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder of the launched run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Watch a run."""
    from planner.launch.watch import watch as read
    from planner.report.course import course
    from planner.report.style import save

    progress = read(folder)
    if as_json:
        give({
            "run_id": progress.name, "steps": progress.steps, "last": progress.last, "outcome": progress.outcome,
            "evaluations": progress.of("evaluation"), "events": progress.of("event"),
            "forecast": [vars(point) for point in progress.course.points] if progress.course else [],
        })  # fmt: skip
    else:
        show_progress(progress)
    save(folder / "progress.png", lambda axes: course(axes[0], progress))
    say(f"written: {folder / 'progress.png'}")


def show_progress(progress: Progress) -> None:
    """Print losses so far beside the forecast of cooling down there."""
    rows = []
    for line in progress.of("evaluation"):
        point = progress.course.at(line["step"]) if progress.course else None
        expected = ["", ""] if point is None else [f"{point.loss:.4f}", f"{point.low:.4f} to {point.high:.4f}"]
        rows.append([str(line["step"]), format_count(line["tokens"]), f"{line['rate_share']:.2f}", f"{line['loss_spec']:.4f}", *expected])
    if progress.course is not None:
        end = progress.course.points[-1]
        measured = f"{progress.outcome['loss_spec']:.4f}" if progress.outcome and progress.outcome["loss_spec"] is not None else ""
        rows.append([str(end.step), format_count(end.tokens), "0.00", measured, f"{end.loss:.4f}", f"{end.low:.4f} to {end.high:.4f}"])
    last, speed = progress.last, progress.speed
    caption = "not begun"
    if last is not None and speed is not None:
        mfu = "" if speed[1] is None else f", MFU {speed[1]:.1%}"
        loss = "" if last["loss_smooth"] is None else f"training loss {last['loss_smooth']:.4f}, "  # a stage's first batches may be of prompts alone
        caption = (
            f"step {last['step']} of {progress.steps}, {loss}{format_count(speed[0])} tokens/s{mfu}, "
            f"{format_seconds(last['seconds_left'])} left; the forecast is for cooling down at that step"
        )
    columns = ["step", "tokens", "rate / peak", "measured [nats/token]", "forecast", "90 % interval"]
    table(f"Run {progress.name}", columns, rows, caption=caption)
    for line in progress.of("event"):
        if line["what"] != "forecast":
            say(f"step {line['step']}: {line['what']}: {line['reason']}")
    if progress.word is not None:
        say(f"step {progress.word['step']}: {progress.word['reason']}")
