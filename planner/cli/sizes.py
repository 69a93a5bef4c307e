"""Counts and sizes as command-line options give them."""

from __future__ import annotations

import re

from planner.errors import InputError
from planner.units import GROUPED, parse_count


def read_counts(text: str) -> tuple[float, ...]:
    """Read counts separated by commas, or one count with commas between its thousands."""
    return (parse_count(text),) if GROUPED.match(text) else tuple(parse_count(item) for item in text.split(","))


def read_sizes(text: str | None) -> tuple[float | None, tuple[float, float] | None, tuple[float, ...]]:
    """Read --params: a size, a range or a list.

    Raises:
        InputError: none of these.
    """
    if text is None:
        return None, None, ()
    if dashed := re.fullmatch(r"\s*([\d.]+\s*[kKmMbBtT])\s*[-–:]\s*(\S+)\s*", text):  # 1e-3 has no suffix before its dash
        raise InputError(f"--params {text!r} is not a range", remedy=f"write {dashed[1]}..{dashed[2]}")
    if ".." in text:
        low, high = (parse_count(end) for end in text.split("..", 1))
        return (low, None, ()) if low == high else (None, (low, high), ())
    found = read_counts(text)
    return (None, None, found) if len(found) > 1 else (found[0], None, ())
