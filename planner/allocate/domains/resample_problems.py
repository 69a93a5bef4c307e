"""Resamples of the laws as worlds of their own, and how much better than a recommendation the best plan in one would be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.search_grid import MANY_DOMAINS, Resolution
from planner.allocate.domains.split import split
from planner.fit.fitted import FittedLaw

MOST_RESAMPLES, FEWEST_RESAMPLES, LOOKED_AT = 12, 6, 600
"""Resamples whose own best plan is sought, and domains times resamples that are looked at."""
OWN = (Resolution(0.06, 12, 0.3, 2), Resolution(0.012, 16, 0.08, 2))
"""How they are sought, from the recommendation on: wide in sizes, of which some cost less than their neighbours and are the best of many worlds."""
OWN_OF_MANY = (Resolution(0.25, 3, 0.5, 1), Resolution(0.06, 3, 0.15, 2))
"""The same with many domains."""


def resample_problems(problem: DomainsProblem, known: FittedLaw | None = None) -> Iterator[DomainsProblem]:
    """Put a request under one resample at a time.

    Args:
        problem: the request.
        known: the law whose resamples are meant, all others staying as unsure as they are; None for one of every law, drawn independently.
    """
    count = int(np.clip(LOOKED_AT // problem.count, FEWEST_RESAMPLES, MOST_RESAMPLES))
    random = np.random.default_rng(0)
    drawn = {id(law): _single_resamples(law, count, random) for law, _ in problem.groups if known is None or law is known}
    for number in range(count):
        domains = tuple(replace(domain, law=drawn[id(domain.law)][number]) if id(domain.law) in drawn else domain for domain in problem.request.domains)
        yield replace(problem, request=replace(problem.request, domains=domains), robust=True)


def best_in(world: DomainsProblem, found: Found, margin: float) -> tuple[Found, float]:
    """Return the best plan of a world, sought from a recommendation on, and how much higher the recommendation's weighted loss is than its [%], from 0."""
    resolutions = OWN if world.count <= MANY_DOMAINS else OWN_OF_MANY
    if found.name == INDEPENDENT:
        own = independent(world, margin, start=found, climbs=False)
    else:
        own = split(world, found.name, margin, start=found, resolutions=resolutions, climbs=False)
    assert own is not None
    return own, 100 * float((world.weights @ world.losses(found)) / (world.weights @ world.losses(own)) - 1)


def _single_resamples(law: FittedLaw, count: int, random: np.random.Generator) -> list[FittedLaw]:
    """Draw resamples of a law, each as a law of its own; some come twice where there are fewer."""
    numbers = [(member, row) for member in law.members for row in range(len(member.resamples))]
    chosen = (numbers[int(at)] for at in np.resize(random.permutation(len(numbers)), count))
    return [replace(law, members=(replace(member, resamples=member.resamples[row : row + 1]),)) for member, row in chosen]
