"""The problem under single resamples of the laws, and how much better than a recommendation the best plan under one would be."""

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
"""Most and fewest resamples whose own best plan is searched, and the product of domains and resamples in between."""
OWN = (Resolution(0.06, 12, 0.3, 2), Resolution(0.012, 16, 0.08, 2))
"""Resolutions of that search, from the recommendation: wide in sizes, since a few cheap shapes are the best under many resamples."""
OWN_OF_MANY = (Resolution(0.25, 3, 0.5, 1), Resolution(0.06, 3, 0.15, 2))
"""The same with many domains."""


def resample_problems(problem: DomainsProblem, known: FittedLaw | None = None) -> Iterator[DomainsProblem]:
    """Yield the problem under one resample at a time.

    Args:
        problem: the request.
        known: the law to replace by its resamples, the others staying as uncertain as they are; None to replace all laws, drawn independently.
    """
    count = int(np.clip(LOOKED_AT // problem.count, FEWEST_RESAMPLES, MOST_RESAMPLES))
    random = np.random.default_rng(0)
    drawn = {id(law): _single_resamples(law, count, random) for law, _ in problem.groups if known is None or law is known}
    for number in range(count):
        domains = tuple(replace(domain, law=drawn[id(domain.law)][number]) if id(domain.law) in drawn else domain for domain in problem.request.domains)
        yield replace(problem, request=replace(problem.request, domains=domains), robust=True)


def best_in(drawn: DomainsProblem, found: Found, margin: float) -> tuple[Found, float]:
    """Return the best plan under a resample, searched from the recommendation, and the recommendation's excess weighted loss over it [%]."""
    resolutions = OWN if drawn.count <= MANY_DOMAINS else OWN_OF_MANY
    if found.name == INDEPENDENT:
        own = independent(drawn, margin, start=found, climbs=False)
    else:
        own = split(drawn, found.name, margin, start=found, resolutions=resolutions, climbs=False)
    assert own is not None
    return own, 100 * float((drawn.weights @ drawn.losses(found)) / (drawn.weights @ drawn.losses(own)) - 1)


def _single_resamples(law: FittedLaw, count: int, random: np.random.Generator) -> list[FittedLaw]:
    """Draw resamples of a law, each as a law of its own, with repeats if there are too few."""
    numbers = [(member, row) for member in law.members for row in range(len(member.resamples))]
    chosen = (numbers[int(at)] for at in np.resize(random.permutation(len(numbers)), count))
    return [replace(law, members=(replace(member, resamples=member.resamples[row : row + 1]),)) for member, row in chosen]
