"""Split training with a given share of specialist tokens, against every size of the ladder, and 6·N·D of what is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.answer import Structure
from planner.allocate.domains.found import INDEPENDENT, MIXED, SPLIT
from planner.allocate.domains.problem import EVERY, DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.shares import SHARES, of_share
from planner.allocate.domains.split import split
from planner.fit.fitted import FittedLaw
from tests.allocate.problems import recorded

BUDGET = 4e13
ROOT = Path(__file__).parents[3]


def request(law: FittedLaw, *unique: float, flops: float = BUDGET, **limits: float) -> DomainsRequest:
    return DomainsRequest(flops, tuple(Domain(name, law, text) for name, text in zip("abcdefgh", unique, strict=False)), **limits)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.1])
@pytest.mark.parametrize("unique", [(2e5, 1e6, 5e5), (3e6, 3e6)])
def test_an_arm_is_the_best_size_of_its_share(fitted: FittedLaw, share: float, unique: tuple[float, ...]) -> None:
    problem = DomainsProblem.of(request(fitted, *unique))
    like = split(problem)
    assert like is not None and like.tokens_spec.all()
    name = next(name for name, value in SHARES.items() if value == share)
    found = of_share(problem, name, like)
    assert found is not None
    step, special = problem.step, float(found.tokens_spec.sum())
    assert abs(special - share * (special + found.tokens_general)) <= 2 * step * len(unique)
    parts = np.where((found.tokens_spec > 0) | (share == 0), like.tokens_spec, 0.0)  # one whose part is too short for a stage has none
    parts /= parts.sum()
    assert np.abs(found.tokens_spec - special * parts).max() <= step * len(unique)
    assert 0.999 * BUDGET < problem.spent(found) <= BUDGET * (1 + 1e-9)
    again = 0.3 * (parts == 0).any() * (1 - share)
    total = problem.tokens(np.arange(len(problem.ladder))) / (1 + again)
    spec = share * total * parts[:, None]
    every = problem.weights @ problem.expected(np.arange(len(total)), (1 - share) * total, spec, EVERY)
    every = np.where((spec <= problem.most_spec[:, None]).all(0), every, np.inf)
    assert float(problem.weights @ problem.losses(found)) <= every.min() * (1 + 5e-4)


def test_the_arms_of_an_answer(fitted: FittedLaw) -> None:
    answer = allocate_domains(request(fitted, 2e5, 1e6, 5e5))
    arms = {arm.name: arm for arm in answer.arms}
    assert list(arms)[-3:] == list(SHARES)
    assert arms["no specialisation"].share_general == pytest.approx(1.0, abs=0.01)
    assert all(plan.tokens_spec == 0 for plan in arms["no specialisation"].domains)
    best = np.array([plan.tokens_spec for plan in answer.recommended.domains])
    for name in ("50/50", "90/10"):
        spec = np.array([plan.tokens_spec for plan in arms[name].domains])
        parts = np.where(spec > 0, best, 0.0)
        assert spec / spec.sum() == pytest.approx(parts / parts.sum(), abs=0.01) and (spec > 0).sum() >= 2
        assert arms[name].worse_percent is not None and arms[name].worse_percent > 0


@pytest.mark.slow
def test_an_arm_has_enough_tokens_for_its_size_in_whole_steps() -> None:
    """Of general text that is just enough for a size the part of a step made the difference, and the domain that requires nothing was named for it."""
    laws = {name: recorded(name) for name in ("computing", "nature")}
    domains = Domain("free", laws["computing"], 202_799.0, 0.9), Domain("bound", laws["nature"], 274_624.0, 0.66, max_loss=2.5792)
    answer = allocate_domains(DomainsRequest(9.9443e12, domains, general_tokens=997_217.0))
    arm = next(arm for arm in answer.arms if arm.name == "50/50")
    assert arm.note.startswith("does not reach the max_loss of domain 'bound'")


def test_text_too_short_for_a_share_leaves_its_arm_without_a_plan(fitted: FittedLaw) -> None:
    arms = {arm.name: arm for arm in allocate_domains(request(fitted, 5e4, 5e4, max_epochs=2.0, params=1e5)).arms}
    assert arms["50/50"].loss is None and "is too small" in arms["50/50"].note and arms["no specialisation"].loss is not None


def test_a_branch_too_short_to_train_is_left_away_and_the_trunk_cooled_down_is_paid(fitted: FittedLaw) -> None:
    problem = DomainsProblem.of(request(fitted, 1e6, 1e6, 1e6))
    like = split(problem)
    assert like is not None
    uneven = replace(like, tokens_spec=like.tokens_spec * np.array([1.0, 1.0, 1e-3]))
    found = of_share(problem, "50/50", uneven)
    assert found is not None and found.tokens_spec[2] == 0 and found.flops[2] > 0 and problem.spent(found) <= BUDGET * (1 + 1e-9)


def by_hand(structure: Structure) -> float:
    """Count 6·N·D of the structure from its plans, each domain with a stage of its own."""
    own = sum(6 * plan.params_non_embedding * (plan.tokens_spec + plan.replay_fraction / (1 - plan.replay_fraction) * plan.tokens_spec)
              for plan in structure.domains)  # fmt: skip
    if structure.name == INDEPENDENT:
        return own + sum(6 * plan.params_non_embedding * plan.tokens_trunk for plan in structure.domains)
    assert structure.params_non_embedding is not None and structure.tokens_general is not None
    return own + 6 * structure.params_non_embedding * structure.tokens_general


@pytest.mark.parametrize("limits", [{}, {"max_general_rise": 0.1}])
def test_6nd_is_of_all_that_is_trained(fitted: FittedLaw, general: FittedLaw, limits: dict[str, float]) -> None:
    asked = request(fitted, 1e6, 1e6, **limits)
    asked = replace(asked, domains=tuple(replace(domain, general_law=general if limits else None) for domain in asked.domains))
    answer = allocate_domains(asked, allow_extrapolation=True)
    shown = [item for item in (*answer.structures, *answer.arms) if item.loss is not None and item.name in (SPLIT, INDEPENDENT, MIXED, "50/50")]
    assert len(shown) >= 3 - bool(limits)
    for item in shown:
        assert item.flops is not None and item.flops_6nd == pytest.approx(by_hand(item), rel=1e-9)
        assert 0.3 * item.flops < item.flops_6nd < item.flops
        assert all(plan.flops_6nd is not None for plan in item.domains)
