"""What the commands share: messages to stderr, results to stdout, progress, and errors as one sentence with exit code 2."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from planner.artifacts import plain, room
from planner.errors import PlannerError
from planner.units import format_seconds

INTERRUPTED = 130
RESUMED = ("run", "tune-lr", "launch", "demo")
"""Commands that keep finished work when they are stopped."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_NAME = 200
"""Characters of a path shown in a message."""
PLAIN_EVERY = 20.0
"""Seconds between two progress lines where there is no terminal."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except newlines and tabs; characters that reverse the order of letters; and lone surrogates, which no terminal takes."""


class PlanGroup(TyperGroup):
    """Prints what a user can fix as one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except PlannerError as error:
            say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except (OSError, ValueError) as error:
            if (told := _of_files(error)) is None:
                raise
            say(f"error: {told}")
            raise typer.Exit(PlannerError.exit_code) from None
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand in RESUMED
            say("stopped; finished work is kept, and the same command continues from there" if resumes else "stopped; no file is left half-written")
            raise typer.Exit(INTERRUPTED) from None


def application(words: str | None = None, cls: type[PlanGroup] = PlanGroup, completion: bool = False) -> typer.Typer:
    """Return a group of commands, or one command, in the common style; `completion` adds shell completion."""
    return typer.Typer(
        cls=cls, help=words, no_args_is_help=True, add_completion=completion, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def _of_files(error: OSError | ValueError) -> str | None:
    """Describe an error of the file system, such as a name too long, an unreadable folder or a full disk; None for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit on them (ulimit -n), or ask for fewer workers or ranks."
    if isinstance(error, OSError) and error.filename is not None and error.errno != errno.EPIPE:
        name = str(error.filename)
        name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
        return f"{name}: {error.strerror}; check the path, its permissions and the room on the disk."
    if isinstance(error, OSError) and error.errno in FULL:  # raised while writing an open file, which the error does not name
        return f"a file cannot be written: {error.strerror}; {room(error, 'make room on the disk')}."
    if "embedded null" in str(error):
        return "a path holds a null character; give one without."
    return None


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    say(f"warning: {message}")


def legible(text: str) -> str:
    """Escape control characters: names come from other people's tables."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def say(text: str) -> None:
    """Write a message for people."""
    print(legible(text), file=sys.stderr, flush=True)


def give(value: Any) -> None:
    """Write a result for programs."""
    print(json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False), flush=True)


class Bar:
    """Progress of something with a known amount of work."""

    def __init__(self, what: str, total: float) -> None:
        self._what, self._total = what, max(total, 1e-12)
        self._started = self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            texts = ("{task.description}", "{task.percentage:>3.0f} %", "{task.fields[left]}")
            what_for, percent, left = (TextColumn(text, markup=False) for text in texts)  # a path may have brackets
            columns = (what_for, BarColumn(), percent, TimeElapsedColumn(), left)
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(legible(what), total=self._total, left="")

    def update(self, done: float, note: str = "", seconds_left: float | None = None) -> None:
        """Show how much is done, the current item, and the time left where the caller knows it better than the share done tells."""
        now = time.monotonic()
        share = min(done / self._total, 1.0)
        left = ""
        if seconds_left is not None:
            left = f"{format_seconds(seconds_left)} left"
        elif 0.01 < share < 1 and now - self._started > 2:  # work beyond the total, such as further probes, cannot be estimated
            left = f"{format_seconds((now - self._started) * (1 - share) / share)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, left=left, description=legible(f"{self._what}{': ' + note if note else ''}"))
        elif now - self._told >= PLAIN_EVERY:
            self._told = now
            say(f"{self._what}: {share:.0%}{', ' + note if note else ''}{', ' + left if left else ''}")

    def tell(self, what: str, share: float) -> None:
        """Show the current item and the share done, for a bar with a total of 1."""
        self.update(share, what)

    def line(self, text: str) -> None:
        """Write a message above the bar."""
        if self._bar is not None:
            self._bar.console.print(legible(text), highlight=False, markup=False, emoji=False)
        else:
            say(text)

    def close(self) -> None:
        """End it."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def bar(what: str, total: float) -> Iterator[Bar]:
    """Show progress while something runs."""
    shown = Bar(what, total)
    try:
        yield shown
    finally:
        shown.close()
