"""Sizes bounded by the fewest tokens per parameter of the runs, and what the laws forecast below them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from planner.allocate.domains.found import Found
from planner.allocate.domains.prices import searched
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.plan_warnings import LOWER
from planner.allocate.problem import AT_LEAST_RATIO
from planner.units import format_names

EVALUATIONS = 3e5
"""Losses evaluated per grid in the search beyond the bound."""
LARGER = 1.001
"""Factor in size below which the best plan beyond the bound counts as the same size."""


def tell_bounded(problem: DomainsProblem, found: Found, margin: float) -> Iterator[str]:
    """Say whose size is bounded by the fewest tokens per parameter of the runs, and which --params beyond it are forecast better; empty if none is.

    Args:
        problem: the request under its laws.
        found: the recommendation.
        margin: by which required losses were tightened.
    """
    params, request = problem.params[found.size], problem.request
    bound = np.flatnonzero(found.tokens_pt + found.tokens_spec < AT_LEAST_RATIO * problem.least_ratio * params)
    if request.sized or not len(bound):
        return
    beyond = replace(DomainsProblem.of(request, robust=problem.robust, beyond=True), mix=problem.mix, evaluations=EVALUATIONS)
    best = searched(beyond, found, margin, None)
    if best is None or (beyond.params[best.size[bound]] <= LARGER * params[bound]).all():
        return
    lower = 100 * float(1 - (problem.weights @ beyond.losses(best)) / (problem.weights @ problem.losses(found)))
    # With all digits: a quarter of rounded sizes would select another shape.
    sizes = ",".join(f"{size:.0f}" for size in np.unique(beyond.params[best.size]))
    further = f"; with fewer the laws forecast a loss {lower:.2g} % lower: ask for it with --params {sizes}" if lower >= LOWER else ""
    names = format_names([request.domains[number].name for number in bound])
    yield (
        f"the size of the models of {names}, its interval and the regret are bounded by the lowest tokens per parameter of any run of the law{further}"
    )
