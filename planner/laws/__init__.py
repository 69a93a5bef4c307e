"""Laws of the loss, and the registry by which they are named.

Every module here that has a tuple `LAWS` is found automatically, and so is every file that the environment variable PLANNER_LAWS names
(several joined as in PATH): a new law is one file, and nothing else changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules

import numpy as np

from planner.errors import InputError
from planner.laws.base import Law, Parameter, Points, Reference
from planner.laws.dual import derivatives

VARIABLE = "PLANNER_LAWS"


def _found() -> Iterator[Law]:
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        yield from getattr(import_module(f"{__name__}.{module.name}"), "LAWS", ())
    for path in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield from _from_file(Path(path))


def _from_file(path: Path) -> tuple[Law, ...]:
    spec = spec_from_file_location(f"planner_laws_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"{VARIABLE} names {path}, which is no Python file", remedy="name a file with a tuple LAWS")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        laws = tuple(module.LAWS)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise InputError(f"{path}, which {VARIABLE} names, cannot be read as laws: {error}", remedy="fix the file") from error
    if not all(isinstance(law, Law) for law in laws):
        raise InputError(f"{path}: LAWS holds something that is no Law", remedy="fill it with objects of planner.laws.Law")
    for law in laws:
        _try(law, path)
    return laws


def _try(law: Law, path: Path) -> None:
    """Evaluate a user's law, with its derivatives, at the middle of its start ranges.

    It is evaluated twice, since += would change its inputs, and for a run among others, since a mean over the runs would make its loss depend on them.
    The others differ in which tokens they lack, so that each parameter has some run that needs it.
    """
    theta = np.array([[0.5 * (parameter.start[0] + parameter.start[1]) for parameter in law.parameters]])
    try:
        with np.errstate(all="ignore"):
            points = Points(Reference(1.0, 1.0), [2.0], [3.0], [4.0], [2.0], [0.5])
            among = Points(Reference(1.0, 1.0), [5, 2, 3, 1], [8, 3, 0, 1], [9, 4, 3, 0], [4, 2, 1, 1], [0.25, 0.5, 0, 0])
            law.log_loss_and_slopes(theta, points)
            used = {*derivatives(law.traced(theta, points), np.ones(1)), *derivatives(law.traced(theta, among), np.ones(1))}
            first = law.log_loss(theta, points).copy()
            same = np.array_equal(first, law.log_loss(theta, points), equal_nan=True)
            apart = np.allclose(first, law.log_loss(theta, among)[:, 1:2], rtol=1e-9, equal_nan=True)
    except Exception as error:  # a user's formula may raise anything
        remedy = "compute with +, -, *, / and the functions of planner.laws.dual, such as exp and log, which have derivatives"
        raise InputError(f"{path}: the formula of the law {law.name!r} fails: {type(error).__name__}: {error}", remedy=remedy) from error
    if not same:
        remedy = "draw nothing at random in it and change no input: write t = t + u, since t += u changes a parameter or a run"
        raise InputError(f"{path}: the formula of the law {law.name!r} gives another number when it is evaluated again", remedy=remedy)
    if not apart:
        remedy = "compute each run's loss from that run alone, without sums, means or extremes over the runs"
        raise InputError(f"{path}: the formula of the law {law.name!r} gives a run another loss when other runs are beside it", remedy=remedy)
    for number, parameter in enumerate(law.parameters):
        if number not in used:
            said = f"{path}: the formula of the law {law.name!r} does not use its parameter {parameter.name}"
            raise InputError(said, remedy="use it, or take it out of parameters")


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
    """Return a law by name.

    Raises:
        InputError: there is none.
    """
    if name not in LAWS:
        raise InputError(f"there is no law {name!r}", remedy=f"choose one of {', '.join(LAWS)}, or name the file that holds it in {VARIABLE}")
    return LAWS[name]


def laws_named(text: str) -> list[Law]:
    """Return the laws of a list with commas.

    Raises:
        InputError: one is unknown, or named twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the law {name} is named {names.count(name)} times", remedy="name it once")
    return [law_named(name) for name in names]


__all__ = ["LAWS", "Law", "Parameter", "Points", "Reference", "law_named", "laws_named"]
