"""`--decision FILE`: the question behind an answer of `plan allocate`, for designing the runs that would say most about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.allocate.base import Base
    from planner.allocate.request import Request
    from planner.fit.fitted import FittedLaw
    from planner.method import Method


@dataclass(frozen=True)
class Decision:
    """What was asked."""

    request: Request
    law: Path
    """Its file."""
    general: FittedLaw | None
    """Law of the general loss, where that was limited."""
    method: Method | None = None
    """How the bases are specialised, where there are any."""
    bases: tuple[Base, ...] = ()
    """To choose among; none for a model trained from scratch."""


def read_decision(path: Path) -> Decision:
    """Read the question behind an answer of `plan allocate`, for a model trained from scratch or for bases.

    Raises:
        InputError: another kind of answer, or a law that is no longer there, or has changed.
    """
    from planner.allocate.allocation import Allocation
    from planner.allocate.base import Base
    from planner.allocate.base_answer import KIND, VERSION
    from planner.allocate.domains.answer import KIND as OF_DOMAINS
    from planner.allocate.request import Request
    from planner.artifacts import read_artifact, read_json, whole
    from planner.fit.fitted import FittedLaw
    from planner.method import Method

    body = read_json(path)
    method, bases = Method(), tuple[Base, ...]()
    of_bases = body.get("kind") == KIND
    if body.get("kind") == OF_DOMAINS:
        remedy = "ask plan allocate --domains --next-runs FLOPs, which lists runs for the law that is worth most"
        raise InputError(f"{path} is an answer for many domains, and runs are designed for one law", remedy=remedy)
    if of_bases:
        body = read_artifact(path, KIND, VERSION)
    else:
        Allocation.load(path)  # checks it
    with whole(path):
        asked, source, made_with = dict(body["request"]), dict(body["source"]), dict(body["inputs"])
        if of_bases:
            way = asked.pop("method")
            if "bases" not in asked:
                raise InputError(f"{path} does not list its bases: it was written by an older version", remedy="run plan allocate again, then design")
            bases = tuple(Base.from_dict(item) for item in asked.pop("bases"))
            method = Method(str(way["name"]), int(way["rank"]), tuple(way["targets"]))
        request = Request.from_mapping(asked)
    law = _unchanged(path, "law", source.get("law_path"), made_with)
    general = FittedLaw.load(_unchanged(path, "general_law", source.get("general_law_path"), made_with)) if request.limited else None
    return Decision(request, law, general, method, bases)


def _unchanged(path: Path, key: str, place: str | None, made_with: dict[str, Any]) -> Path:
    """Return the file of a law that an answer was made with.

    Raises:
        InputError: it is no longer there, or has changed.
    """
    from planner.artifacts import sha256_file

    name = key.replace("_", " ")
    if not place:
        raise InputError(f"{path} does not say where its {name} is", remedy="run plan allocate again, then design")
    where = path.parent / place
    if not where.is_file():
        raise InputError(f"the {name} that {path} was made with is not at {where}", remedy="run plan allocate again, then design")
    if sha256_file(where) != made_with.get(key):
        raise InputError(f"{where} has changed since {path} was made with it", remedy="run plan allocate again, then design")
    return where
