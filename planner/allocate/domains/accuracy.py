"""Forecast accuracy for the domains of a recommended structure, from tables of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.allocate.accuracy import forecast
from planner.allocate.domains.answer import Structure
from planner.allocate.domains.request import Domain


def with_accuracy(structure: Structure, domains: Sequence[Domain]) -> tuple[Structure, list[str]]:
    """Add the forecast accuracy to the plan of every domain that has a table, and list the warnings about it.

    Args:
        structure: with a plan for each domain.
        domains: in the same order.
    """
    plans, warnings = [], []
    for plan, domain in zip(structure.domains, domains, strict=True):
        if domain.accuracy is not None:
            found, said = forecast(domain.accuracy, plan, chance=domain.chance)
            plan = replace(plan, accuracy=found)
            warnings += [f"domain {domain.name!r}: {line}" for line in said]
        plans.append(plan)
    return replace(structure, domains=tuple(plans)), warnings
