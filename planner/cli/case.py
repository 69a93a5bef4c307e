"""`--case FILE`: the options of a command from a file, with what is known of the case and what it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from planner.artifacts import read_toml
from planner.cli.console import say
from planner.errors import InputError

PATHS = ("law", "general_law", "domains", "accuracy")
"""Options that name a file; a relative one is looked for beside the case."""


def _beside(case: Path, text: str) -> str:
    """Look for a base's configuration beside the case."""
    pairs = [item.partition("=") for item in text.split(",")]
    return ",".join(f"{key}={case.parent / value}" if key.strip() == "config" else key + sign + value for key, sign, value in pairs)


def take_case(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of a case the defaults of the command, so that those on the command line go before them.

    Raises:
        InputError: no such file, or an option that the command does not have.
    """
    if path is None:
        return None
    body = read_toml(path)
    options = body.get("options")
    if not isinstance(options, dict):
        raise InputError(f"{path} has no table [options]", remedy="write the options there, such as flops = 1e21")
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name not in (None, "case", "help")}
    found: dict[str, Any] = {}
    for key, value in options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise InputError(f"{path}: {key!r} is no option of plan {context.info_name}", remedy=f"choose among {', '.join(sorted(filter(None, known)))}")
        if getattr(known[name], "multiple", False) and not isinstance(value, list):
            value = [value]
        if isinstance(value, dict) or (isinstance(value, list) and not getattr(known[name], "multiple", False)):
            raise InputError(f"{path}: {key} = {value!r} is not one value", remedy="write one value, or several for an option that is repeatable")
        items = [_beside(path, str(item)) for item in value] if isinstance(value, list) else value
        found[name] = str(path.parent / str(items)) if name in PATHS else items
    context.default_map = found
    for key in ("title", "known", "asks", "note"):
        if key in body:
            say(f"{key}: {' '.join(str(body[key]).split())}" if key != "title" else str(body[key]))
    return path
