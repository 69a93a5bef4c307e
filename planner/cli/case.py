"""`--case FILE`: the options of a command from a file, with a description of the case and its question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from planner.artifacts import LARGEST, read_toml
from planner.cli.console import say
from planner.errors import InputError

PATHS = ("law", "general_law", "domains", "accuracy")
"""Options that name a file; a relative path is resolved against the case's folder."""
TEXT_KEYS = ("title", "known", "asks", "note")
"""Texts that a case may have besides its options."""


def _beside(case: Path, text: str) -> str:
    """Resolve a base's configuration against the case's folder."""
    pairs = [item.partition("=") for item in text.split(",")]
    return ",".join(f"{key}={case.parent / value}" if key.strip() == "config" else key + sign + value for key, sign, value in pairs)


def take_case(context: typer.Context, path: Path | None) -> Path | None:
    """Make the options of a case the defaults of the command, so that those on the command line override them.

    Raises:
        InputError: no such file, an option that the command does not have or that is given twice, or a value of another kind.
    """
    if path is None:
        return None
    body = read_toml(path)
    if unknown := sorted(set(body) - {"options", *TEXT_KEYS}):
        raise InputError(f"{path} has {unknown[0]!r}, which is not part of a case", remedy=f"use only options, {', '.join(TEXT_KEYS)}")
    options = body.get("options")
    if not isinstance(options, dict):
        raise InputError(f"{path} has no table [options]", remedy="write the options there, such as flops = 1e21")
    # By the option's name, such as json, not the parameter's, such as as_json.
    known = {option.lstrip("-").replace("-", "_"): parameter for parameter in context.command.params for option in parameter.opts}
    known = {word: parameter for word, parameter in known.items() if word not in ("case", "help")}
    found: dict[str, Any] = {}
    for key, value in options.items():
        parameter = known.get(key.replace("-", "_"))
        if parameter is None:
            raise InputError(f"{path}: {key!r} is not an option of plan {context.info_name}", remedy=f"choose among {', '.join(sorted(known))}")
        name = str(parameter.name)
        if name in found:
            raise InputError(f"{path}: {key!r} is given twice", remedy="write it once, with _ or with - between its words")
        several = getattr(parameter, "multiple", False)
        items = value if several and isinstance(value, list) else [value]
        for item in items:
            _check(path, key, item, parameter)
        if several:
            found[name] = [_beside(path, str(item)) for item in items]
        else:
            found[name] = str(path.parent / value) if name in PATHS else value
    context.default_map = found
    for key in TEXT_KEYS:
        if key in body:
            say(f"{key}: {' '.join(str(body[key]).split())}" if key != "title" else str(body[key]))
    return path


def _check(path: Path, key: str, value: Any, parameter: Any) -> None:
    """Refuse a value of the wrong type: the parser of the command line would read a number as text, or true as 1.

    Raises:
        InputError: it is.
    """
    kind = parameter.type.name  # int or integer, by the version of typer
    if parameter.is_flag:
        right, remedy = isinstance(value, bool), "write true or false"
    elif kind in ("path", "file"):
        right, remedy = isinstance(value, str), "write a path, in quotation marks"
    elif isinstance(value, (list, dict)):
        right, remedy = False, "write one value; only a repeatable option takes a list"
    elif kind.startswith("int"):
        right, remedy = type(value) is int, "write a whole number"
    elif kind.startswith("float"):
        right, remedy = _is_number(value), "write a number"
    else:  # a count, with or without a unit
        right, remedy = isinstance(value, str) or _is_number(value), "write a number, or text"
    if not right:
        raise InputError(f"{path}: {key} = {repr(value)[:40]} has the wrong type", remedy=remedy)


def _is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; a whole one of hundreds of digits is no float."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST
