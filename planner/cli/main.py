"""`plan`: parses, calls one function of the library, prints."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer

from planner.cli.console import PlanGroup, application

COMMANDS = ("corpus", "sweep", "laws", "fit", "backtest", "allocate", "scaling", "methods", "launch", "watch", "verify", "evaluate", "demo")
"""Each is a module of this name, with an `app` of several commands, or with a function of this name and its HELP."""


@cache
def _command(name: str) -> Any:
    module = import_module(f"planner.cli.{name}")
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    alone = application()
    alone.command(name, help=module.HELP)(getattr(module, name))
    return typer.main.get_command(alone)


class _Modules(Mapping[str, Any]):
    """Commands by name. A module is imported when its command is called or listed: importing all would take a sixth of the time of `plan allocate`."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(PlanGroup):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands: Any = _Modules()


app = application(
    "Measure small runs, fit one law, split a big training budget well, and check afterwards that the forecast came true.\n\n"
    "corpus → sweep → fit → allocate → launch → verify; each stage leaves a file that the next one reads.",
    cls=_Commands,
    completion=True,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"plan {version('compute-allocation-planner')}")
        raise typer.Exit


@app.callback()
def _alone(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)] = False,
) -> None:
    """Take --version, the only option before a command."""


def _open_streams() -> None:
    """Open those of the three standard streams that the parent process closed.

    Otherwise messages would be written where results go, and the first file opened would receive what libraries write to that stream's number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        # A terminal that is not UTF-8 may lack α or ≤: a question mark is better than a crash in the middle of a table.
        getattr(sys, name).reconfigure(errors="replace" if name == "stdout" else "backslashreplace")


def main() -> None:
    """Run the command line."""
    _open_streams()
    # At exit Python would search all imported objects for cycles, a tenth of a second after a fit, although the process ends anyway.
    atexit.register(gc.freeze)
    app()


if __name__ == "__main__":
    main()
