"""Sizes as the commands take them."""

from __future__ import annotations

from planner.units import GROUPED, parse_count


def read_sizes(text: str | None) -> tuple[float | None, tuple[float, float] | None, tuple[float, ...]]:
    """Read --params: a size, a range or a list."""
    if text is None:
        return None, None, ()
    if ".." in text:
        low, _, high = text.partition("..")
        return None, (parse_count(low), parse_count(high)), ()
    several = "," in text and not GROUPED.match(text)
    among = tuple(parse_count(item) for item in text.split(",")) if several else ()
    return (None, None, among) if among else (parse_count(text), None, ())
