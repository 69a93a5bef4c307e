"""Laws of the loss, and the registry by which they are named."""

from planner.errors import InputError
from planner.laws.base import Law, Parameter, Points, Reference
from planner.laws.separate import LAWS as _SEPARATE
from planner.laws.single import LAWS as _SINGLE
from planner.laws.transfer import LAWS as _TRANSFER

LAWS: dict[str, Law] = {law.name: law for law in (*_SINGLE, *_SEPARATE, *_TRANSFER)}
"""Every law by its name."""


def law_named(name: str) -> Law:
    """Return a law by name; raise InputError when there is none."""
    if name not in LAWS:
        raise InputError(f"there is no law {name!r}", remedy=f"choose one of {', '.join(LAWS)}")
    return LAWS[name]


__all__ = ["LAWS", "Law", "Parameter", "Points", "Reference", "law_named"]
