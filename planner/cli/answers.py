"""What the answers of `plan allocate` have in common: the laws and tables that they use, and how they are printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.console import give, say
from planner.errors import InputError
from planner.units import parse_flops, parse_share

if TYPE_CHECKING:
    from planner.allocate.allocation import Plan
    from planner.fit.fitted import FittedLaw

ANSWERS = ("allocation", "bases", "domains")
"""Kinds of the artefacts that `plan allocate` writes; each may overwrite another."""


def beside(source: dict[str, Any], law: Path, out: Path, general: Path | None = None) -> dict[str, Any]:
    """Make the corpus path, stored relative to the law, relative to the answer, and add the laws' paths; the project folder can then be moved."""
    place = out.resolve().parent
    found = {"law_path": os.path.relpath(law.resolve(), place)}
    if source.get("corpus_path"):
        found["corpus_path"] = os.path.relpath(os.path.normpath(law.resolve().parent / source["corpus_path"]), place)
    if general is not None:
        found["general_law_path"] = os.path.relpath(general.resolve(), place)
    return {**source, **found}


def tell(out: Path, replaced: bool, warnings: Sequence[str], show_one: Callable[[Any], None], answer: Any, as_json: bool) -> None:
    """Print an answer that was written, with its cost and its warnings."""
    from planner.allocate.budget import say_cost

    if as_json:
        from planner.artifacts import read_json

        give(read_json(out))
    else:
        show_one(answer)
        if line := say_cost(answer.cost, answer.request["gpus"]):
            say(line)
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"written: {out}" + (" (replaces an older one)" if replaced else ""))


def refuse_idle(general_law: Path | None) -> None:
    """Refuse --general-law where the general loss is not limited.

    Raises:
        InputError: it is given.
    """
    if general_law is not None:
        raise InputError("--general-law has no effect without a limit", remedy="add --max-general-rise 3% or --max-general-loss")


def general_law_file(path: Path | None, law: Path, limited: bool) -> Path | None:
    """Return the file of the general law, where the general loss is limited.

    Raises:
        InputError: there is none, or one is named without a limit.
    """
    if not limited:
        refuse_idle(path)
        return None
    if path is None and (near := law.with_name("law_general.json")).is_file():
        return near
    if path is not None and path.is_dir():
        path = path / "law_general.json"
    if path is not None and not path.is_file():
        raise InputError(f"there is no law {path}", remedy="fit it with plan fit SWEEP --target general, and name its law_general.json")
    return path


def accuracy_of(plan: Plan, path: Path, chance: str | None) -> tuple[dict[str, Any], list[str]]:
    """Forecast the accuracy that a table of models lets a plan expect, and list its warnings."""
    from planner.allocate.accuracy import forecast, read_curve

    share = None if chance is None else parse_share(chance)
    return forecast(read_curve(path, share), plan, chance=share)


def budget_of_runs(next_runs: str | None, laws: Iterable[FittedLaw], as_json: bool) -> float | None:
    """Read --next-runs [FLOPs]; None where it is not given.

    Raises:
        InputError: the answer is to be JSON, or a law is of runs with adapters.
    """
    if next_runs is None:
        return None
    if as_json:
        raise InputError("--next-runs prints a table", remedy="leave it out with --json, or use plan sweep design --json")
    if (what := next((name for law in laws if (name := law.source.get("method", "full")) != "full"), None)) is not None:
        raise InputError(f"--next-runs works for full training only, and the law is of runs with {what}", remedy="leave it out")
    return parse_flops(next_runs)


def design_for(out: Path, flops: float) -> None:
    """Print the runs that would say most about an answer that was written, for so many FLOPs."""
    from planner.cli.decision import read_decision
    from planner.cli.design import tell_runs

    tell_runs(read_decision(out), flops)
