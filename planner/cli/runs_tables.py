"""The runs tables of `plan fit` and `plan backtest`: what PATH, --with, --map and --params-kind mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planner.cli.console import give
from planner.errors import InputError


def check_params_kind(params_kind: str) -> None:
    """Refuse an unknown --params-kind.

    Raises:
        InputError: it is one.
    """
    from planner.fit.data import PARAMS_KINDS

    if params_kind not in (*PARAMS_KINDS, "auto"):
        raise InputError(f"--params-kind {params_kind!r} is not known", remedy=f"choose one of {', '.join(PARAMS_KINDS)}, auto")


def tables_and_further(path: Path, together: Sequence[Path], out: Path | None) -> tuple[list[Path], list[Path]]:
    """Return the runs tables that a path means, each answered separately, and those that --with adds where it means one.

    Raises:
        InputError: there is no table, --out names one file for several, or --with names what it cannot add.
        DataError: the tables are of several domains.
    """
    from planner.cli.paths import further_tables, runs_files
    from planner.fit.source import one_domain

    tables = runs_files(path)
    if out and len(tables) > 1:
        raise InputError(f"--out names one file, and {path} holds {len(tables)} runs tables", remedy="name one table, or omit --out")
    if further := further_tables(together, path, tables):
        one_domain([*tables, *further])
    return tables, further


def column_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Read OURS=THEIRS pairs.

    Raises:
        InputError: not a pair, or a column named twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not sign or not ours or not theirs:
            raise InputError(f"--map {pair!r} is not OURS=THEIRS", remedy="write it as in --map tokens_pt=D")
        if ours in found:
            raise InputError(f"--map names {ours} twice", remedy="name it once")
        found[ours] = theirs
    return found


def give_documents(documents: Sequence[Any]) -> None:
    """Print the document of one table as it is, those of several as a list."""
    give(documents[0] if len(documents) == 1 else documents)
