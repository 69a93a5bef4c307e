"""What more of each resource would gain for many domains: the best plan with a little more of it, compared with the recommendation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Worth
from planner.allocate.domains.forecast import outlook
from planner.allocate.domains.found import INDEPENDENT, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.rounding import better
from planner.allocate.domains.search_grid import MANY_DOMAINS
from planner.allocate.domains.split import split
from planner.allocate.exchange import MORE_COMPUTE, exchange_of
from planner.allocate.prices import EASED, MORE_TEXT, eased, price_of
from planner.allocate.request import LEFT_OVER, TAKEN
from planner.arrays import Array
from planner.units import format_count

PRICED = 4
"""Most domains whose own text is priced: those with the largest product of weight and epochs."""
EVALUATIONS = 6e4
"""Losses evaluated per grid here."""
AFRESH = 3e5
"""The same in a search of the whole range."""


def prices(problem: DomainsProblem, found: Found, mine: Array, margin: float) -> tuple[list[Worth], str]:
    """Price changes of a request, in the recommended structure.

    Args:
        problem: the request under its laws.
        found: the recommendation.
        mine: its weighted loss under joint draws of the resamples, as `outlook` gives it.
        margin: by which required losses were tightened.

    Returns:
        The gains, and a sentence on what the specialist text is worth in compute.
    """
    gains: dict[str, Array] = {}
    for name, changed, passes in _changes(problem, found):
        under = _under(problem, changed, passes)
        best = searched(under, found, margin, found)
        if _far(problem, changed, found):
            best = better(under, best, searched(replace(under, evaluations=AFRESH), found, margin, None), margin)
        if best is not None:
            gains[name] = np.log(mine) - np.log(outlook(under, best).resamples)
    rows, named = [price_of(name, gain) for name, gain in gains.items()], list(gains)
    text = exchange_of(problem.request.flops, float(problem.unique.sum()), gains[named[0]], gains[named[1]]) if len(named) > 1 else ""
    return rows, text


def searched(problem: DomainsProblem, like: Found, margin: float, start: Found | None) -> Found | None:
    """Find the best plan of the recommended structure, around a given plan or in the whole range."""
    return independent(problem, margin, start=start) if like.name == INDEPENDENT else split(problem, like.name, margin, start=start)


def _far(problem: DomainsProblem, changed: DomainsRequest, found: Found) -> bool:
    """Tell whether the best plan of a changed request may lie far from the recommendation, so that the whole range must be searched too.

    It may if a domain without a stage could then have one, if some of the budget is left over, if all domains have twice the text, or if a required
    loss is looser. With many domains the others keep it close, unless none has a stage (100 domains with twice the text of all: at most 0.1 % of the
    loss).
    """
    if problem.count > MANY_DOMAINS:
        return not found.tokens_spec.any()
    if ((found.tokens_spec == 0) & (problem.weights > 0)).any() or problem.spent(found) < LEFT_OVER * problem.request.flops:
        return True
    both = list(zip(changed.domains, problem.request.domains, strict=True))
    return all(new.unique_spec > old.unique_spec for new, old in both) or any(new.max_loss != old.max_loss for new, old in both)


def _under(problem: DomainsProblem, request: DomainsRequest, passes: float) -> DomainsProblem:
    """Make the problem of a changed request with the same laws and sizes, and with more passes over every domain's text."""
    problems = []
    for one, domain in zip(problem.problems, request.domains, strict=True):
        asked = replace(request.of(domain), max_epochs=one.max_epochs + passes)
        limit = one.retention and replace(one.retention, max_loss=asked.max_general_loss, max_rise=asked.max_general_rise)
        problems.append(replace(one, request=asked, retention=limit))
    return replace(problem, request=request, problems=tuple(problems), evaluations=EVALUATIONS)


def _changes(problem: DomainsProblem, found: Found) -> Iterator[tuple[str, DomainsRequest, float]]:
    """List the changes to price: name, changed request, and additional passes for every domain."""
    request = problem.request
    yield f"{100 * (MORE_COMPUTE - 1):.0f} % more compute", replace(request, flops=MORE_COMPUTE * request.flops), 0.0
    more = [replace(domain, unique_spec=MORE_TEXT * domain.unique_spec) for domain in request.domains]
    total = format_count(float(problem.unique.sum()))
    yield f"twice the specialist text of every domain ({total} more tokens)", replace(request, domains=tuple(more)), 0.0
    passes = problem.weights * found.tokens_spec / problem.unique
    for number in np.argsort(-passes)[: PRICED if problem.count <= MANY_DOMAINS else PRICED // 2]:
        if passes[number] > 0:
            domain = request.domains[number]
            yield f"twice the text of {domain.name} ({format_count(domain.unique_spec)} more tokens)", _with(request, int(number), more[number]), 0.0
    short = (problem.most_spec < problem.least_stage) & (problem.weights > 0)  # all passes together are shorter than a stage
    if (short | (found.tokens_spec > TAKEN * problem.most_spec)).any():
        beyond = any(one.max_epochs + 1 > one.law.support.high["epochs_spec"] for one in problem.problems)
        yield "one more epoch over every domain's text" + (", beyond what the runs cover" if beyond else ""), request, 1.0
    if request.general_tokens and float(found.tokens_pt.max()) > TAKEN * request.general_tokens:
        name = f"twice the general text ({format_count(request.general_tokens)} more tokens)"
        yield name, replace(request, general_tokens=MORE_TEXT * request.general_tokens), 0.0
    for name, rise, loss in eased(request.max_general_rise, request.max_general_loss):
        yield name, replace(request, max_general_rise=rise, max_general_loss=loss), 0.0
    tight = problem.losses(found) / problem.max_loss
    for number in np.argsort(-tight)[:PRICED]:
        domain = request.domains[number]
        if domain.max_loss is not None and tight[number] > TAKEN:
            looser = domain.max_loss * (1 + EASED)
            name = f"max_loss of {domain.name} {looser:.4g} instead of {domain.max_loss:.4g}"
            yield name, _with(request, int(number), replace(domain, max_loss=looser)), 0.0


def _with(request: DomainsRequest, number: int, domain: Domain) -> DomainsRequest:
    """Replace one domain of a request."""
    return replace(request, domains=(*request.domains[:number], domain, *request.domains[number + 1 :]))
