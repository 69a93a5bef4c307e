"""What is said where the tokens per parameter of the runs bound a size."""

from dataclasses import replace

import pytest

from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.found import Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.size_bound import tell_bounded
from planner.allocate.domains.split import split
from planner.cli.sizes import read_sizes
from tests.allocate.problems import recorded


def request(least: float, *texts: float) -> DomainsRequest:
    """State domains of a law whose runs have so many tokens per parameter at least."""
    law = recorded("medicine")
    law = replace(law, support=replace(law.support, low={**law.support.low, "tokens_per_param": least}))
    return DomainsRequest(2e13, tuple(Domain(f"d{number}", law, text) for number, text in enumerate(texts)))


@pytest.mark.parametrize("search", [split, independent])
@pytest.mark.parametrize("robust", [True, False])
def test_the_sizes_that_are_named_are_as_much_better_as_is_said(search, robust: bool) -> None:  # type: ignore[no-untyped-def]
    problem = DomainsProblem.of(request(20.0, 5e4, 1e6), robust=robust)
    found: Found = search(problem)
    (told,) = tell_bounded(problem, found, 0.0)
    names = "d0" if search is split else "d0, d1"
    assert told.startswith(f"the size of the models of {names}, its interval and the regret are bounded by the lowest tokens per parameter")
    lower, sizes = float(told.split(" % lower")[0].split()[-1]), told.split("--params ")[1].split(" ")[0]
    fixed, _, among = read_sizes(sizes)
    assert (len(among) == 2) == (search is independent)
    asked = DomainsProblem.of(replace(problem.request, params=fixed, params_among=among), robust=robust)
    better: Found = search(asked)
    assert asked.weights @ asked.losses(better) == pytest.approx((1 - lower / 100) * problem.weights @ problem.losses(found), rel=6e-4) and lower > 0.3


def test_it_is_among_the_warnings_only_where_a_size_is_bounded() -> None:
    told, free = ([text for text in allocate_domains(request(least, 5e4, 1e5)).warnings if "bounded by" in text] for least in (20.0, 3.5))
    assert len(told) == 1 and "ask for it with --params 603200" in told[0] and not free
