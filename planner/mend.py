"""Torn files in a sweep's folder, as a crash or a bad disk may leave them: each is renamed, and its run trained again.

Our own writes are atomic. What is checked here comes from power cuts, interrupted copies and
editors. Nothing is deleted: the torn file keeps its content as NAME.torn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from planner.artifacts import read_json
from planner.errors import InputError, StateError

HEADER = 8
"""Bytes that give the length of a safetensors header."""


def read_record(path: Path) -> dict[str, Any] | None:
    """Read an endpoint's record, or None if it is torn; one of another kind or schema is not torn.

    Raises:
        InputError: see `_read`.
    """
    record = _read(path)
    try:
        return record if isinstance(record["row"]["status"], str) else None
    except (KeyError, TypeError):
        return None


def whole_note(path: Path) -> bool:
    """Tell whether the note of a divergence is whole.

    Raises:
        InputError: see `_read`.
    """
    return isinstance(_read(path).get("reason"), str)


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one where the file holds none.

    Raises:
        InputError: the file cannot be read, as where it is another user's or too many files are open; it may well be whole.
    """
    try:
        return read_json(path)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return {}


def whole_state(path: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says; reads the header only.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER), "little")
            size = os.fstat(file.fileno()).st_size
            if not 0 < length <= size - HEADER:
                return False
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return HEADER + length + max(ends, default=0) == size
    except OSError as error:
        if path.is_dir():
            return False
        raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def read_identity(folder: Path) -> dict[str, Any] | None:
    """Read what the runs of a folder were made with, or None if it is not recorded; a torn file that describes no runs is renamed.

    Raises:
        StateError: it is torn, and there are runs that it describes.
    """
    path = folder / "state" / "identity.json"
    if not path.exists():
        return None
    try:
        return read_json(path)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        records, state = (sorted((folder / name).iterdir()) if (folder / name).is_dir() else [] for name in ("records", "state"))
        if records or any(not item.name.startswith(("identity.json", ".identity.json", "live.json", ".live.json")) for item in state):
            raise StateError(
                f"{path}, which says what the runs in {folder} were made with, is torn",
                remedy=f"make sure that recipe, corpus and base are those of the runs, then delete {path}; it is rewritten without a check",
            ) from error
        _set_aside(path)
        return None


def set_aside_torn(records: Iterable[Path], states: Iterable[Path], notes: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Rename what is torn, so that it is trained again.

    Args:
        records: endpoints' records, where they exist.
        states: states, where they exist.
        notes: notes of divergences, where they exist.

    Returns:
        Old and new name of each file that was set aside.

    Raises:
        InputError: one of them cannot be read.
    """
    checks: list[tuple[Iterable[Path], Callable[[Path], bool]]] = [
        (records, lambda path: read_record(path) is not None),
        (states, whole_state),
        (notes, whole_note),
    ]
    torn = [path for paths, whole in checks for path in paths if path.exists() and not whole(path)]
    return [(path, _set_aside(path)) for path in torn]


def _set_aside(path: Path) -> Path:
    target, number = path.with_name(f"{path.name}.torn"), 1
    while target.exists():  # earlier torn files stay too
        number += 1
        target = path.with_name(f"{path.name}.torn{number}")
    path.rename(target)
    return target
