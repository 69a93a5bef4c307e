"""Tables for people, as wide as the terminal: columns that do not fit follow below, and no number is cut."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from planner.cli.console import legible

PIPED = 160
"""Width of the text where there is no terminal and COLUMNS is not set [characters]."""
WRAPPED = 26
"""Length from which a cell counts as a sentence and may be wrapped; shorter ones are numbers or intervals and stay whole [characters]."""
LEAST_NAME = 22
"""Width that the first column keeps, if it needs it, before columns move below [characters]."""
GAP, EDGES = 3, 2
"""Between columns, and at both ends of a row together."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str | None = None) -> None:
    """Write a table to stdout; the first column is text, the rest are aligned right, and short rows are padded.

    Columns that do not fit follow in a table of their own below, which repeats the first column and omits rows that are empty in it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    said = os.environ.get("COLUMNS", "")
    piped = int(said) if said.isdecimal() and int(said) else PIPED
    console = Console(width=None if sys.stdout.isatty() else piped, highlight=False, markup=False, emoji=False)
    cells = [[*(legible(str(item)) for item in row), *[""] * (len(columns) - len(row))] for row in rows]
    needed = [_needed(name, [row[number] for row in cells]) for number, name in enumerate(columns)]
    needed[0] = min(needed[0], max(LEAST_NAME, _longest_word(columns[0], [row[0] for row in cells])))
    console.print(legible(title), style="bold")
    natural = [max(len(text) for text in (name, *(row[number] for row in cells))) for number, name in enumerate(columns)]
    groups = _groups(needed, console.width - EDGES)
    for group in groups:
        drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        left = console.width - EDGES - sum(needed[at] + GAP for at in (0, *group)) + GAP
        for at in (0, *group):
            # Spare width goes to columns that would use it, the names first; rich's own division may cut what is needed.
            more = max(0, min(natural[at] - needed[at], left))
            left -= more
            drawn.add_column(columns[at], justify="right" if at else "left", width=needed[at] + more, overflow="fold")
        below = group is not groups[0]
        for row in cells:
            if not below or any(row[at] for at in group):
                drawn.add_row(row[0], *(row[at] for at in group))
        if drawn.row_count or not below:
            console.print(drawn)
    if caption:
        console.print(legible(caption), style="italic")


def _needed(name: str, cells: list[str]) -> int:
    """Return the least width of a column."""
    whole = [len(cell) for cell in cells if len(cell) < WRAPPED]
    return max([*whole, _longest_word(name, [cell for cell in cells if len(cell) >= WRAPPED])])


def _longest_word(name: str, cells: list[str]) -> int:
    # A mark before a name, or two spaces in its place, stays with it.
    return max((len(word) for text in (name, *cells) for word in re.findall(r"(?:^[* ] )?\S+", text)), default=1)


def _groups(needed: list[int], width: int) -> list[list[int]]:
    """Split the columns after the first into groups that each fit beside the first, if possible."""
    groups: list[list[int]] = [[]]
    used = needed[0]
    for number, wide in enumerate(needed[1:], 1):
        if groups[-1] and used + GAP + wide > width:
            groups.append([])
            used = needed[0]
        groups[-1].append(number)
        used += GAP + wide
    return groups
