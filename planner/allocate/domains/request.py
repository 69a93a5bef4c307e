"""What the user has and wants for many specialist domains, and how it is read from a `domains.toml`.

    law = "sweeps/medicine/law.json"     # optional: of every domain that names none; a file, or a folder with a law.json

    [[domain]]
    name = "medicine"
    law = "sweeps/medicine/law.json"     # relative to this file
    unique_tokens = "200k"               # distinct specialist tokens there are: a number, or a count such as 1.2M
    weight = 1.0                         # of its loss in the objective; 1 by default
    max_loss = 2.6                       # optional: the loss that it must reach [nats/token]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.allocate.request import Request
from planner.artifacts import read_toml
from planner.errors import InputError
from planner.fit.fitted import FittedLaw
from planner.units import parse_count

MOST_DOMAINS = 1000
_KEYS = ("name", "law", "unique_tokens", "weight", "max_loss")


@dataclass(frozen=True)
class Domain:
    """One specialist domain."""

    name: str
    law: FittedLaw
    """Of its loss; domains that share a law hold the same object."""
    unique_spec: float
    """Distinct specialist tokens there are."""
    weight: float = 1.0
    """Of its forecast loss in the objective, before the weights are brought to a sum of 1."""
    max_loss: float | None = None
    """Loss that it must reach [nats/token], in the mean over the resamples; None for any."""
    law_path: Path | None = None
    """Where the law was read from."""

    def __post_init__(self) -> None:
        who = f"domain {self.name!r}"
        for name, value in (("unique_tokens", self.unique_spec), ("max_loss", self.max_loss)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{who}: {name} of {value:g} is not a positive number", remedy="give a positive number")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"{who}: a weight of {self.weight:g} is not a number from 0", remedy="give a positive number, or 0")


@dataclass(frozen=True)
class DomainsRequest:
    """A budget for all domains, and limits."""

    flops: float
    """Budget of all training together [FLOPs]."""
    domains: tuple[Domain, ...]
    params: float | None = None
    """Fixed size [non-embedding parameters], of every model."""
    max_epochs: float | None = None
    """Most passes over any domain's text; None for the most that the sweep of its law covered."""
    general_tokens: float | None = None
    """Distinct general tokens there are: a model takes each once at most."""
    params_range: tuple[float, float] | None = None
    params_among: tuple[float, ...] = ()
    memory_per_gpu: float | None = None
    """Memory of one GPU [bytes], which limits the size of every model; None for no limit."""
    gpus: int = 1
    """GPUs that share a model's states."""

    def __post_init__(self) -> None:
        names = [domain.name for domain in self.domains]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"there are {names.count(name)} domains named {name!r}", remedy="give each domain a name of its own")
        if not any(domain.weight > 0 for domain in self.domains):
            raise InputError("every domain has a weight of 0, so there is nothing to lower", remedy="give one domain at least a positive weight")

    def of(self, domain: Domain) -> Request:
        """Return the request as it would be for one domain alone."""
        return Request(
            self.flops, domain.unique_spec, self.params, self.max_epochs, self.general_tokens, self.params_range, self.params_among,
            memory_per_gpu=self.memory_per_gpu, gpus=self.gpus,
        )  # fmt: skip


def read_domains(path: Path) -> tuple[Domain, ...]:
    """Read a `domains.toml`.

    Raises:
        InputError: no such file, fewer than two domains or too many, an unknown key, or a value that cannot be used.
    """
    document = read_toml(path)
    _only(document, ("law", "domain"), str(path))
    rows = document.get("domain", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"{path}: domain is not a list of tables", remedy="begin each domain with [[domain]]")
    if not 2 <= len(rows) <= MOST_DOMAINS:
        raise InputError(
            f"{path} has {len(rows)} domain{'' if len(rows) == 1 else 's'}, and what is compared needs 2 to {MOST_DOMAINS}",
            remedy="use --spec-tokens for one domain" if len(rows) == 1 else f"list 2 to {MOST_DOMAINS} [[domain]] tables",
        )
    laws: dict[Path, FittedLaw] = {}
    return tuple(_domain(row, number, document.get("law"), path, laws) for number, row in enumerate(rows, 1))


def _domain(row: Mapping[str, Any], number: int, default: Any, path: Path, laws: dict[Path, FittedLaw]) -> Domain:
    name = row.get("name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{path}: domain {number} has no name", remedy='add name = "..."')
    who = f"{path}: domain {name!r}"
    _only(row, _KEYS, who)
    if "unique_tokens" not in row:
        raise InputError(f"{who} has no unique_tokens", remedy='add unique_tokens = "200k", its distinct specialist tokens')
    written = row.get("law", default)
    if written is None:
        raise InputError(f"{who} has no law", remedy='add law = ".../law.json" to it, or at the top of the file for all')
    if not isinstance(written, str):
        raise InputError(f"{who}: law = {written!r} is not a path", remedy='write law = ".../law.json"')
    place = path.parent / written
    if place.is_dir():
        place /= "law.json"
    if not place.is_file():
        raise InputError(f"{who}: there is no law {place}", remedy="give the path of a law.json relative to the file of domains, or run plan fit first")
    key = place.resolve()
    if key not in laws:
        laws[key] = FittedLaw.load(place)
    try:
        unique = parse_count(row["unique_tokens"])
    except InputError as error:
        raise InputError(f"{who}: unique_tokens: {error.message}", remedy=error.remedy) from None
    most = row.get("max_loss")
    return Domain(name, laws[key], unique, _number(row.get("weight", 1.0), "weight", who), None if most is None else _number(most, "max_loss", who), place)


def _number(value: Any, name: str, who: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{who}: {name} = {value!r} is not a number", remedy="write a number")
    return float(value)


def _only(table: Mapping[str, Any], known: tuple[str, ...], who: str) -> None:
    for key in table:
        if key not in known:
            raise InputError(f"{who} has a setting {key!r} that is not known", remedy=f"use only {', '.join(known)}")
