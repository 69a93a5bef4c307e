"""Domains whose laws are of runs with adapters: a branch costs what its adapters do, and stands on a trunk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.found import MIXED, SPLIT
from planner.allocate.domains.independent import independent
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.split import split
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.method import Method

UNIQUE = (1e6, 1e6)


def lora(law: FittedLaw) -> FittedLaw:
    return replace(law, source={**law.source, "method": "lora"})


@pytest.mark.parametrize(("params", "flops", "limit"), [(2.5e4, 3e12, None), (1e6, 1.5e14, None), (1e6, 1.5e14, 0.05)])
def test_branches_are_paid_at_the_price_of_their_adapters(
    fitted: FittedLaw, general: FittedLaw, params: float, flops: float, limit: float | None
) -> None:
    """Small models pay more for adapters than for all of it, larger ones less."""
    keeping = replace(general, source={**general.source, "method": "lora"})
    domains = (Domain("a", lora(fitted), UNIQUE[0], general_law=keeping), Domain("b", fitted, UNIQUE[1], 2.0, general_law=general))
    problem = DomainsProblem.of(DomainsRequest(flops, domains, params=params, max_general_rise=limit))
    for search in (split, independent):
        found = search(problem)
        assert found is not None
        shape = problem.ladder[found.size[0]].shape
        assert shape is not None and found.tokens_spec[0] > 0
        full, adapted = flops_per_token(shape, 128), Method("lora").flops_per_token(shape, 128)
        assert (adapted > full) == (params < 1e5)
        replayed = found.replayed
        assert limit is None or replayed.sum() > 0
        own = found.tokens_pt - replayed if search is independent else np.zeros(2)
        by_hand = own * full + (found.tokens_spec + replayed) * np.array([adapted, full])
        assert found.flops == pytest.approx(by_hand, rel=1e-9)
        assert found.total_flops <= flops * (1 + 1e-9)
        assert limit is not None or found.total_flops > 0.97 * flops


def test_no_other_division_is_better_by_brute_force(fitted: FittedLaw) -> None:
    domains = (Domain("a", lora(fitted), UNIQUE[0]), Domain("b", fitted, UNIQUE[1], 2.0))
    problem = DomainsProblem.of(DomainsRequest(2e12, domains, params=2.5e4))
    found = split(problem)
    assert found is not None
    mine, size, total = float(problem.weights @ problem.losses(found)), int(found.size[0]), float(problem.tokens(found.size[0]))
    shape, best = problem.ladder[size].shape, np.inf
    assert shape is not None
    cost = np.array([Method("lora").flops_per_token(shape, 128) / flops_per_token(shape, 128), 1.0])
    spec = [np.append(0.0, np.geomspace(problem.least_stage, most, 120)) for most in problem.most_spec]
    for trunk in np.linspace(0.02, 0.98, 49) * total:
        if trunk < problem.least_stage:
            continue
        each = []
        for number in (0, 1):
            at = np.zeros((2, 121))
            at[number] = spec[number]
            each.append(problem.weights[number] * problem.expected(size, np.full((2, 121), trunk), at, most=1000)[number])
        fits = cost[0] * spec[0][:, None] + cost[1] * spec[1][None] + trunk <= total
        best = min(best, float(np.where(fits, each[0][:, None] + each[1][None], np.inf).min()))
    assert best * (1 - 5e-3) <= mine <= best * (1 + 1e-4)


def test_adapters_stand_on_a_trunk_and_are_told(fitted: FittedLaw) -> None:
    rich = tuple(Domain(name, lora(fitted), 3e7) for name in "ab")
    plain = allocate_domains(DomainsRequest(4e12, tuple(replace(domain, law=fitted) for domain in rich)), allow_extrapolation=True)
    answer = allocate_domains(DomainsRequest(4e12, rich), allow_extrapolation=True)
    assert plain.recommended.tokens_general == 0 and all(plan.tokens_pt > 0 for plan in answer.recommended.domains if plan.tokens_spec)
    by = {structure.name: structure for structure in answer.structures}
    assert by[MIXED].loss is None and "trains all parameters" in by[MIXED].note and by[SPLIT].loss is not None
    assert any("the law of a, b was fitted to runs with lora: specialist stages counted with adapters of rank 16" in text for text in answer.warnings)
    assert {source["method"] for source in answer.sources.values()} == {"lora"}
