"""`plan verify`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import give, say
from planner.cli.tables import table

if TYPE_CHECKING:
    from planner.verify import Verification

HELP = "Compare a launched run's outcome with the forecast made before it.\n\nExample: plan verify launches/first"


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of the launched run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Verify a run."""
    from planner.launch.domains import KIND as DOMAINS
    from planner.launch.launch import kind_of
    from planner.report.plans import verification
    from planner.report.style import save
    from planner.verify import verify as compare

    if kind_of(folder) == DOMAINS:
        from planner.cli.launch_domains import verify_domains

        return verify_domains(folder, as_json)
    result = compare(folder)
    if as_json:
        give({**asdict(result), "error": result.error, "error_percent": result.error_percent, "inside": result.inside})
    else:
        show_verification(result)
    save(folder / "verification.png", lambda axes: verification(axes[0], result), width=4.6)
    say(f"written: {folder / 'verification.json'}, {folder / 'verification.png'}; to include the run in a fit, use --with {shlex.quote(str(folder))}")


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
