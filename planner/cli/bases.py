"""Options of `plan allocate --base`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.console import say
from planner.cli.paths import apart
from planner.errors import InputError, PlannerError
from planner.units import parse_share

if TYPE_CHECKING:
    from planner.allocate.base import Base
    from planner.fit.fitted import FittedLaw
    from planner.method import Method


def method_of(law: FittedLaw, name: str | None, rank: int | None) -> Method:
    """Return the method asked for, with the settings of the law's runs where none are given.

    Raises:
        InputError: a rank is given for full training.
    """
    from dataclasses import replace

    from planner.method import Method
    from planner.recipe import Recipe

    name = name or str(law.source.get("method", "full"))
    if name == "full" and rank is not None:
        raise InputError(f"--lora-rank {rank} applies to lora and qlora only", remedy="add --method lora, or leave it out")
    # No run of a law of full training has used its recipe's adapter settings.
    used = law.source.get("recipe") if law.source.get("method", "full") != "full" else None
    method = Recipe.from_mapping(used).method(name) if used else Method(name)
    return method if rank is None else replace(method, rank=rank)


def laws_beside(path: Path, law: FittedLaw) -> dict[Path, FittedLaw]:
    """Read the laws of other methods beside a law, named as plan fit names them and of the same text; warn of one that cannot be read."""
    from planner.fit.fitted import FittedLaw

    near = (path.with_name(name) for name in ("law.json", "law_lora.json", "law_qlora.json"))
    found: dict[Path, FittedLaw] = {}
    for one in near:
        if one.is_file() and one.resolve() != path.resolve():
            try:
                other = FittedLaw.load(one)
            except PlannerError as error:  # nobody asked for it
                say(f"warning: {one}, beside the law, is ignored: {error.message}")
                continue
            if all(other.source.get(key) == law.source.get(key) for key in ("corpus", "domain", "target")):
                found[one] = other
    return found


def law_by_method(
    path: Path, law: FittedLaw, beside: dict[Path, FittedLaw], named: Path | None, method: str | None
) -> tuple[Path, FittedLaw, dict[Path, FittedLaw]]:  # fmt: skip
    """Prefer the law of the method asked for, if it lies beside the law found, unless --law names a file.

    Args:
        path: of the law found.
        law: the law found.
        beside: those that lie beside it, as `laws_beside` reads them.
        named: what --law says.
        method: what --method says.

    Returns:
        The law to use with its path, and those beside it.
    """
    found = [one for one, other in beside.items() if method is not None and other.source.get("method", "full") == method]
    if not found or law.source.get("method", "full") == method or (named is not None and named.is_file()):
        return path, law, beside
    one = found[0]
    say(f"--method {method}: using {one}, the law of runs with that method; give --law {path} for the other")
    return one, beside[one], {**{other: item for other, item in beside.items() if other != one}, path: law}


def shares_of(text: str | None) -> list[float]:
    """Read --kept-back, such as 0.1,0.3."""
    return [parse_share(item) for item in text.split(",")] if text else []


def bases_of(texts: Sequence[str], out: Path) -> list[Base]:
    """Read the checkpoints that --base names; the answer must not overwrite any of their files."""
    from planner.allocate.base import Base

    bases = [Base.parse(text) for text in texts]
    apart(out, *(base.config for base in bases))
    return bases
