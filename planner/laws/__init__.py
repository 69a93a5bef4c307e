"""Laws of the loss, and the registry by which they are named.

Every module here that has a tuple `LAWS` is found by itself, and so is every one that an installed package names under the entry
point group `planner.laws`: a new law is one file, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from planner.errors import InputError
from planner.laws.base import Law, Parameter, Points, Reference

ENTRY_POINTS = "planner.laws"


def _found() -> Iterator[Law]:
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        yield from getattr(import_module(f"{__name__}.{module.name}"), "LAWS", ())
    for entry in entry_points(group=ENTRY_POINTS):
        yield from entry.load().LAWS


def _registered() -> dict[str, Law]:
    laws: dict[str, Law] = {}
    for law in _found():
        if law.name in laws:
            raise InputError(f"two laws are named {law.name!r}", remedy="rename the one that was added")
        laws[law.name] = law
    return dict(sorted(laws.items(), key=lambda item: (item[1].target != "spec", item[1].stages, item[1].repeats)))


LAWS: dict[str, Law] = _registered()
"""Every law by its name: laws of one stage first, then of two, then those of the general loss."""


def law_named(name: str) -> Law:
    """Return a law by name; raise InputError when there is none."""
    if name not in LAWS:
        raise InputError(f"there is no law {name!r}", remedy=f"choose one of {', '.join(LAWS)}")
    return LAWS[name]


__all__ = ["LAWS", "Law", "Parameter", "Points", "Reference", "law_named"]
