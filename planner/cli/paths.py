"""Where commands find files: a sweep by name, the runs tables under a folder, the law."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from planner.errors import InputError

SWEEPS = Path("sweeps")
MOST_THREADS = 1024
TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
"""File endings of runs tables."""


def sweep_folder(name: str) -> Path:
    """Return the folder of a sweep that is named by folder, by its sweep.toml, or by its name under sweeps/.

    Raises:
        InputError: there is none.
    """
    for path in (Path(name), SWEEPS / name):
        if path.is_file():
            return path.parent
        if (path / "sweep.toml").is_file():
            return path
    raise InputError(f"there is no sweep {name!r}", remedy="name a folder with a sweep.toml, or one under sweeps/")


def only_file(folder: Path, name: str, remedy: str) -> Path:
    """Return the file of that name in a folder or in its one sub-folder that has it.

    Raises:
        InputError: there is none, or several.
    """
    if (folder / name).is_file():
        return folder / name
    found = sorted(folder.glob(f"*/{name}")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"there is no {name} in {folder} or directly below it", remedy=remedy)
    raise InputError(f"{folder} holds several {name}: {', '.join(str(path) for path in found)}", remedy="name one of them")


def runs_files(path: Path) -> list[Path]:
    """Return the runs tables that a path means: the file itself, that of a sweep's folder, or those of all sweeps in a folder.

    Raises:
        InputError: there is none.
    """
    if path.is_dir() and not (path / "runs.csv").is_file() and (found := sorted(path.glob("*/runs.csv"))):
        return found
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"there is no file or folder {path}", remedy="give a sweep folder, or a CSV, JSON Lines or parquet table of runs")
    first = f"plan verify {shlex.quote(str(path))}" if (path / "launch.json").is_file() else "plan sweep run"
    return [only_file(path, "runs.csv", f"run {first} first, or name a table of runs")]


def further_tables(others: Sequence[Path], path: Path, tables: Sequence[Path]) -> list[Path]:
    """Return the runs tables that --with adds to one.

    Args:
        others: values of --with, each as `runs_files` takes it.
        path: the command's own PATH.
        tables: the tables that PATH means.

    Raises:
        InputError: there is none, PATH means several, or one is named twice.
    """
    if not others:
        return []
    if len(tables) > 1:
        raise InputError(f"--with adds to one table, and {path} holds {len(tables)}", remedy=f"name one of them, such as {tables[0].parent}")
    found = [table for item in others for table in runs_files(item)]
    known = {tables[0].resolve()}
    for table in found:
        if table.resolve() in known:
            raise InputError(f"{table} is named twice", remedy="name each table of runs once")
        known.add(table.resolve())
    return found


def law_file(path: Path | None, method: str | None = None) -> Path:
    """Return the law that a path means; by default the one here, or the only one under sweeps/.

    Args:
        path: value of --law.
        method: value of --method: in a folder without law.json, its law_METHOD.json is meant.

    Raises:
        InputError: there is none, several, only laws of other methods, or a table of runs.
    """
    from planner.method import METHODS

    if path is not None and path.suffix.lower() in TABLES and path.exists():
        raise InputError(f"{path} is a table of runs, not a law", remedy=f"fit one with plan fit {shlex.quote(str(path))}, and name its law.json")
    if path is not None and path.is_file():
        return path
    if path is None and Path("law.json").is_file():
        return Path("law.json")
    if path is not None and not path.exists():
        raise InputError(f"there is no law {path}", remedy="run plan fit first, or name its law.json")
    folder = path or Path()
    named = {name: at for name in METHODS if (at := folder / f"law_{name}.json").is_file()}
    if named and not (folder / "law.json").is_file() and not (path is None and any(SWEEPS.glob("*/law.json"))):
        if method in named:
            return named[method]
        laws = " and ".join(f"{at.name} for {name}" for name, at in named.items())
        raise InputError(f"{folder} has no law.json, but {laws}", remedy=f"name it with --law {' or '.join(map(str, named.values()))}")
    return only_file(path or SWEEPS, "law.json", "run plan fit first, or give --law")


def apart(out: Path, *others: Path | None) -> None:
    """Refuse to overwrite a file that the same command reads or writes.

    Raises:
        InputError: the output is one of the others.
    """
    for other in others:
        if other is not None and os.path.realpath(out) == os.path.realpath(other):
            raise InputError(f"{out} would overwrite {other}", remedy="name another file with --out")


def replaceable(out: Path, *kinds: str) -> None:
    """Refuse to overwrite a file that holds something else, or to write where no file can be.

    Args:
        out: the file to write.
        kinds: artefacts that it may replace; none for a picture.

    Raises:
        InputError: it is.
    """
    if blocking := next((parent for parent in out.parents if parent.exists() and not parent.is_dir()), None):
        raise InputError(f"{out} cannot be written: {blocking} is a file", remedy="name another place with --out")
    if not out.is_file():
        return
    with out.open("rb") as file:
        start = file.read(200)
    if not start:
        return
    found = re.search(rb'^\s*\{\s*"kind":\s*"(\w+)"', start)  # as every artefact begins
    if kinds and not (found and found[1].decode() in kinds):
        what = f"the {found[1].decode()} that another command wrote" if found else "something that this command did not write"
        raise InputError(f"{out} holds {what}, and would be overwritten", remedy="name another file with --out, or move it away first")
    if not kinds and not start.startswith(b"\x89PNG"):
        raise InputError(f"{out} is not a PNG picture, and would be overwritten", remedy="name another file, or move it away first")


def default_workers() -> int:
    """Return one worker per core."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return max(1, os.cpu_count() or 1)


def default_threads(ranks: int) -> int:
    """Return the threads per rank on this machine: OMP_NUM_THREADS, which torch follows too, or an equal share of all cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(int(asked), MOST_THREADS) if asked.isdecimal() and int(asked) else max(1, default_workers() // ranks)
