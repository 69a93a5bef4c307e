"""`plan watch`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.console import give, say
from planner.cli.tables import table
from planner.errors import StateError
from planner.units import format_count, format_seconds

if TYPE_CHECKING:
    from planner.launch.watch import Progress

HELP = (
    "Show a launched run's progress, wherever it trains: measured and forecast loss, speed, time left.\n\nExample: plan watch launches/first\n\n"
    "Example: plan watch launches/many/medicine"
)


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder of the launched run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Watch a run."""
    from planner.launch.watch import watch as read
    from planner.launch.watch import watch_all
    from planner.report.loss_curve import loss_curve
    from planner.report.style import save

    several = watch_all(folder)
    if several is not None:
        if as_json:
            give({"runs": {name: progress and _body(progress) for name, progress in several.items()}})
        else:
            show_several(folder, several)
        return
    progress = read(folder)
    if as_json:
        give(_body(progress))
    else:
        show_progress(progress)
    try:
        save(folder / "progress.png", lambda axes: loss_curve(axes[0], progress))
        say(f"written: {folder / 'progress.png'}")
    except StateError as error:  # a reader without write permission has seen the table
        say(f"no figure: {error}")


def _body(progress: Progress) -> dict[str, Any]:
    return {
        "run_id": progress.name, "steps": progress.steps, "last": progress.last, "seconds_left": progress.seconds_left,
        "outcome": progress.outcome, "evaluations": progress.of("evaluation"), "events": progress.of("event"),
        "forecast": [vars(point) for point in progress.course.points] if progress.course else [],
    }  # fmt: skip


def show_several(folder: Path, several: Mapping[str, Progress | None]) -> None:
    """Print how far each run of a plan for many domains is."""
    rows = []
    for name, progress in several.items():
        if progress is None:
            rows.append([name, "no curve", "", "", "", ""])
            continue
        last, ended, evaluations = progress.last, progress.outcome, progress.of("evaluation")
        end = progress.course.points[-1] if progress.course else None
        measured = ended["loss_spec"] if ended else evaluations[-1]["loss_spec"] if evaluations else None
        steps = f"{last['step'] if last else 0} of {progress.steps}"
        idle = "" if progress.held else ", not training"
        time = "" if last is None or last["step"] == progress.steps else f"{format_seconds(progress.seconds_left)}{idle}"
        left = time if ended is None else "ended" if ended["status"] == "ok" else ended["status"]
        forecast = ["", ""] if end is None else [f"{end.loss:.4f}", f"{end.low:.4f} to {end.high:.4f}"]
        rows.append([name, steps, left, "" if measured is None else f"{measured:.4f}", *forecast])
    columns = ["run", "steps", "time left", "measured [nats/token]", "forecast of the end", "90 % interval"]
    caption = "a loss measured before a run has ended is higher than its final one; steps of a branch count from the trunk's first"
    table(f"Runs in {folder}", columns, rows, caption=caption)
    if curves := [name for name, progress in several.items() if progress is not None and progress.course is not None]:
        say(f"one run with its curve: plan watch {shlex.quote(str(folder / curves[-1]))}")


def show_progress(progress: Progress) -> None:
    """Print the losses so far beside the forecast for cooling down at that step."""
    rows = []
    for line in progress.of("evaluation"):
        point = progress.course.at(line["step"]) if progress.course else None
        expected = ["", ""] if point is None else [f"{point.loss:.4f}", f"{point.low:.4f} to {point.high:.4f}"]
        rows.append([str(line["step"]), format_count(line["tokens"]), f"{line['rate_share']:.2f}", told_loss(line), *expected])
    if progress.course is not None:
        end = progress.course.points[-1]
        measured = f"{progress.outcome['loss_spec']:.4f}" if progress.outcome and progress.outcome["loss_spec"] is not None else ""
        rows.append([str(end.step), format_count(end.tokens), "0.00", measured, f"{end.loss:.4f}", f"{end.low:.4f} to {end.high:.4f}"])
    last, speed = progress.last, progress.speed
    caption = "not begun"
    if last is not None and speed is not None:
        mfu = "" if speed[1] is None else f", MFU {speed[1]:.1%}"
        idle = "" if progress.held or progress.outcome is not None else ", but it is not training now"
        loss = "" if last["loss_smooth"] is None else f"training loss {last['loss_smooth']:.4f}, "  # a stage's first batches may be prompts only
        caption = (
            f"step {last['step']} of {progress.steps}, {loss}{format_count(speed[0])} tokens/s{mfu}, "
            f"{format_seconds(progress.seconds_left)} left{idle}; the forecast is for cooling down at that step"
        )
    columns = ["step", "tokens", "rate / peak", "measured [nats/token]", "forecast", "90 % interval"]
    table(f"Run {progress.name}", columns, rows, caption=caption)
    if progress.course is not None and progress.outcome is None and not progress.of("evaluation"):
        say(f"held-out losses beside the forecast: {losses_on_the_way(progress.evaluate_at, progress.steps)}")
    for line in progress.of("event"):
        if line["what"] != "forecast":
            say(f"step {line['step']}: {line['what']}: {line['reason']}")
    if progress.word is not None:
        say(f"step {progress.word['step']}: {progress.word['reason']}")
    if progress.outcome is not None and progress.outcome["status"] != "ok":
        say(f"the run {progress.outcome['status']}: {progress.outcome['reason']}")


def losses_on_the_way(at: Sequence[int], steps: int) -> str:
    """Write how many held-out losses a run measures on the way, and after which step the first."""
    if not at:
        return "none, since the run is too short: no held-out loss is measured before its end"
    return f"{len(at)}, the first after step {at[0]} of {steps}"


def told_loss(line: Mapping[str, Any]) -> str:
    """Write the held-out loss of an evaluation; one that is not a number is null in the file."""
    return "no number" if line["loss_spec"] is None else f"{line['loss_spec']:.4f}"
