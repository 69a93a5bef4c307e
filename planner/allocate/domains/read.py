"""How domains are read from a `domains.toml`.

    law = "sweeps/medicine/law.json"     # optional: default for domains that name none; a file, or a folder with a law.json

    [[domain]]
    name = "medicine"
    law = "sweeps/medicine/law.json"     # relative to this file
    unique_tokens = "200k"               # distinct specialist tokens available: a number, or a count such as 1.2M
    weight = 1.0                         # of its loss in the objective; 1 by default
    max_loss = 2.6                       # optional: the loss that it must reach [nats/token]
    general_law = "law_general.json"     # law of the general loss, if that is limited; law_general.json beside its law by default
    accuracy = "my_models.csv"           # optional: your models' loss on this domain's text and accuracy on its task, to forecast accuracy
    chance = 0.25                        # optional: accuracy of guessing in that table; fitted by default
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.allocate.accuracy import read_curve
from planner.allocate.domains.request import Domain
from planner.allocate.sigmoid import Sigmoid
from planner.artifacts import known_keys, read_toml
from planner.errors import InputError, PlannerError
from planner.fit.fitted import FittedLaw
from planner.units import parse_count

MOST_DOMAINS = 1000
_KEYS = ("name", "law", "unique_tokens", "weight", "max_loss", "general_law", "accuracy", "chance")
_FILES = {"law": "law.json", "general_law": "law_general.json"}


def read_domains(path: Path, *, limited: bool = False, general_law: Path | None = None) -> tuple[Domain, ...]:
    """Read a `domains.toml`.

    Args:
        path: the file.
        limited: whether the general loss is limited, so that every domain needs a law of it.
        general_law: default of that law for domains that name none.

    Raises:
        InputError: no such file, fewer than two domains or too many, an unknown key, or a value that cannot be used.
    """
    document = read_toml(path)
    known_keys(document, ("law", "domain"), str(path))
    rows = document.get("domain", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"{path}: domain is not a list of tables", remedy="begin each domain with [[domain]]")
    if not 2 <= len(rows) <= MOST_DOMAINS:
        raise InputError(
            f"{path} has {len(rows)} domain{'' if len(rows) == 1 else 's'}, and a comparison needs 2 to {MOST_DOMAINS}",
            remedy="use --spec-tokens for one domain" if len(rows) == 1 else f"list 2 to {MOST_DOMAINS} [[domain]] tables",
        )
    laws: dict[Path, FittedLaw] = {}
    found = [_domain(row, number, document.get("law"), path, laws) for number, row in enumerate(rows, 1)]
    if limited:
        found = [_with_general(domain, general_law, path, laws) for domain in found]
    curves: dict[tuple[Path, float | None], Sigmoid] = {}
    return tuple(_with_accuracy(domain, row, path, curves) for domain, row in zip(found, rows, strict=True))


def _domain(row: Mapping[str, Any], number: int, default: Any, path: Path, laws: dict[Path, FittedLaw]) -> Domain:
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{path}: domain {number} has no name", remedy='add name = "..."')
    who = f"{path}: domain {name!r}"
    known_keys(row, _KEYS, who)
    if "unique_tokens" not in row:
        raise InputError(f"{who} has no unique_tokens", remedy='add unique_tokens = "200k", its distinct specialist tokens')
    written = row.get("law", default)
    if written is None:
        raise InputError(f"{who} has no law", remedy='add law = ".../law.json" to it, or at the top of the file for all')
    place = _place(written, "law", path, who)
    try:
        unique = parse_count(row["unique_tokens"])
    except InputError as error:
        raise InputError(f"{who}: unique_tokens: {error.message}", remedy=error.remedy) from None
    most = row.get("max_loss")
    most = None if most is None else _number(most, "max_loss", who)
    general = _place(row["general_law"], "general_law", path, who) if "general_law" in row else None  # read only if there is a limit
    return Domain(name, _load(place, laws), unique, _number(row.get("weight", 1.0), "weight", who), most, place, general_law_path=general)


def _with_general(domain: Domain, default: Path | None, path: Path, laws: dict[Path, FittedLaw]) -> Domain:
    """Add the law of the general loss."""
    who = f"{path}: domain {domain.name!r}"
    if domain.general_law_path is not None:
        place = domain.general_law_path
    elif default is not None:
        place = default / "law_general.json" if default.is_dir() else default
    else:
        place = (domain.law_path or path).with_name("law_general.json")
    if not place.is_file():
        raise InputError(
            f"{who} has no law of the general loss, which the limit needs: there is no {place}",
            remedy="fit it with plan fit SWEEP --target general, and name it with general_law or --general-law",
        )
    return replace(domain, general_law=_load(place, laws), general_law_path=place)


def _with_accuracy(domain: Domain, row: Mapping[str, Any], path: Path, curves: dict[tuple[Path, float | None], Sigmoid]) -> Domain:
    """Add the curve from loss to accuracy if a domain has a table of models; each table is fitted once."""
    who = f"{path}: domain {domain.name!r}"
    if "accuracy" not in row:
        if "chance" in row:
            raise InputError(f"{who}: chance = {row['chance']!r} has no effect without accuracy", remedy="add accuracy, a table of models, or delete it")
        return domain
    if not isinstance(row["accuracy"], str) or not row["accuracy"].strip():
        raise InputError(f"{who}: accuracy = {row['accuracy']!r} is not a path", remedy='write accuracy = "models.csv", a table of loss and accuracy')
    place = path.parent / row["accuracy"]
    chance = _number(row["chance"], "chance", who) if "chance" in row else None
    key = place.resolve(), chance
    if key not in curves:
        try:
            curves[key] = read_curve(place, chance)
        except PlannerError as error:
            raise type(error)(f"{who}: {error.message}", remedy=error.remedy) from None
    return replace(domain, accuracy=curves[key], accuracy_path=place, chance=chance)


def _place(written: Any, key: str, path: Path, who: str) -> Path:
    """Resolve the path of a law, relative to the file of domains."""
    if not isinstance(written, str):
        raise InputError(f"{who}: {key} = {written!r} is not a path", remedy=f'write {key} = ".../{_FILES[key]}"')
    place = path.parent / written
    if place.is_dir():
        place /= _FILES[key]
    if not place.is_file():
        raise InputError(
            f"{who}: there is no law {place}", remedy=f"give the path of a {_FILES[key]} relative to the file of domains, or run plan fit first"
        )
    return place


def _load(place: Path, laws: dict[Path, FittedLaw]) -> FittedLaw:
    """Read a law once, so that domains that share it hold the same object."""
    key = place.resolve()
    if key not in laws:
        laws[key] = FittedLaw.load(place)
    return laws[key]


def _number(value: Any, name: str, who: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):  # a whole number of hundreds of digits is no float
        raise InputError(f"{who}: {name} = {repr(value)[:40]} is not a number", remedy="write a number") from None
