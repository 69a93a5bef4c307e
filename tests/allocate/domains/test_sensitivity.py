"""What lies around a recommendation for many domains, and what more would buy, against searches of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.answer import DomainsAllocation
from planner.allocate.domains.found import INDEPENDENT, SPLIT
from planner.allocate.domains.problem import EVERY, DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.resample_problems import resample_problems
from planner.allocate.domains.split import split
from planner.errors import DataError
from planner.fit.fitted import FittedLaw

BUDGET = 4e13


def request(law: FittedLaw, **limits: object) -> DomainsRequest:
    domains = tuple(Domain(name, law, text, weight) for name, text, weight in zip("abc", (2e5, 1e6, 5e5), (1.0, 2.0, 0.5), strict=True))
    return replace(DomainsRequest(BUDGET, domains), **limits)  # type: ignore[arg-type]


def value(asked: DomainsRequest) -> float:
    problem = DomainsProblem.of(asked)
    found = split(problem)
    assert found is not None
    return float(problem.weights @ problem.losses(found))


@pytest.fixture(scope="module")
def answer(fitted: FittedLaw) -> DomainsAllocation:
    found = allocate_domains(request(fitted))
    assert found.best == SPLIT
    return found


def test_sizes_within_the_tolerance_are_as_good_and_those_outside_are_not(fitted: FittedLaw, answer: DomainsAllocation) -> None:
    low, high = answer.around["params_within"]
    assert low < answer.recommended.params_non_embedding < high
    best = answer.recommended.loss
    assert best is not None
    for size in (low, high):
        assert value(request(fitted, params=size)) <= best * 1.006  # the tolerance, and whole steps of four stages
    for size in (low / 1.3, high * 1.3):
        assert value(request(fitted, params=size)) > best * 1.004
    wider = allocate_domains(request(fitted, tolerance=0.02)).around
    assert wider["params_within"][0] < low and wider["params_within"][1] > high
    assert wider["share_within"][0] <= answer.around["share_within"][0] and wider["share_within"][1] >= answer.around["share_within"][1]


def test_resamples_that_agree_leave_nothing_to_regret(fitted: FittedLaw, answer: DomainsAllocation) -> None:
    same = replace(fitted, members=tuple(replace(member, resamples=np.tile(member.theta, (20, 1))) for member in fitted.members))
    around = allocate_domains(request(same)).around
    assert 0 <= around["regret_90_percent"] < 0.01 and around["params_interval"][0] == around["params_interval"][1]
    random = np.random.default_rng(0)
    members = tuple(replace(member, resamples=member.theta * np.exp(0.15 * random.normal(size=(40, len(member.theta))))) for member in fitted.members)
    unsure = allocate_domains(request(replace(fitted, members=members))).around
    assert unsure["regret_expected_percent"] > 5 * answer.around["regret_expected_percent"] > 0
    assert unsure["regret_90_percent"] >= unsure["regret_expected_percent"]
    assert unsure["params_interval"][0] < unsure["params_interval"][1]


def test_a_law_of_few_resamples_has_regret_too(fitted: FittedLaw) -> None:
    few = replace(fitted, members=tuple(replace(member, resamples=member.resamples[:5]) for member in fitted.members))
    assert allocate_domains(request(few)).around["regret_90_percent"] >= 0


def test_prices_are_what_the_changed_requests_bring(fitted: FittedLaw, answer: DomainsAllocation) -> None:
    asked = request(fitted)
    text = tuple(replace(domain, unique_spec=2 * domain.unique_spec) for domain in asked.domains)
    changed = {
        "10 % more compute": replace(asked, flops=1.1 * BUDGET),
        "twice the specialist text of every domain (1.7M more tokens)": replace(asked, domains=text),
        "twice the text of b (1M more tokens)": replace(asked, domains=(asked.domains[0], text[1], asked.domains[2])),
    }
    by, base = {worth.change: worth for worth in answer.worths}, value(asked)
    for name, other in changed.items():
        assert by[name].lower_percent == pytest.approx(100 * (1 - value(other) / base), rel=0.03, abs=0.02), name
        assert by[name].low <= by[name].lower_percent <= by[name].high and by[name].lower_percent > 0
    assert "another 1.7M distinct specialist tokens" in answer.exchange


def test_a_required_loss_has_a_price_and_no_regret(fitted: FittedLaw, answer: DomainsAllocation) -> None:
    asked = request(fitted)
    tight = replace(asked.domains[0], max_loss=0.985 * answer.recommended.domains[0].loss)
    bound = allocate_domains(replace(asked, domains=(tight, *asked.domains[1:])))
    assert bound.around["regret_expected_percent"] is None
    assert [worth for worth in bound.worths if worth.change.startswith("max_loss of a ")][0].lower_percent > 0


def test_limits_that_bind_are_priced(fitted: FittedLaw) -> None:
    short = allocate_domains(request(fitted, max_epochs=1.0, general_tokens=1e6))
    names = [worth.change for worth in short.worths]
    assert "one more epoch over every domain's text" in names and "twice the general text (1M more tokens)" in names
    assert all(worth.lower_percent > -0.02 for worth in short.worths)


def test_text_that_first_makes_a_stage_possible_has_its_price(fitted: FittedLaw) -> None:
    """One pass over any domain's text is shorter than a stage, twice the text is not: the best plan then lies far from one that is all trunk."""
    text = 0.75 * DomainsProblem.of(request(fitted)).least_stage
    asked = DomainsRequest(BUDGET, (Domain("a", fitted, text), Domain("b", fitted, text)), max_epochs=1.0)
    short = allocate_domains(asked)
    assert all(plan.tokens_spec == 0 for plan in short.recommended.domains)
    by = {worth.change.split(" (")[0]: worth.lower_percent for worth in short.worths}
    more = replace(asked, domains=tuple(replace(domain, unique_spec=2 * domain.unique_spec) for domain in asked.domains))
    twice, again = "twice the specialist text of every domain", "one more epoch over every domain's text"
    for name, other in ((twice, more), (again, replace(asked, max_epochs=2.0))):
        assert by[name] == pytest.approx(100 * (1 - value(other) / value(asked)), rel=0.05) and by[name] > 0.1, name
    assert "gain nothing" not in short.exchange


def test_the_inference_of_all_models_is_refused_with_its_sum(fitted: FittedLaw) -> None:
    asked = request(fitted, inference_tokens=1e12)
    with pytest.raises(DataError, match="whose inference takes") as refused:
        allocate_domains(asked)
    enough = float(refused.value.remedy.split(" FLOPs")[0].split()[-1])
    assert allocate_domains(replace(asked, flops=1.01 * enough), allow_extrapolation=True).recommended.loss is not None


def test_models_of_their_own_have_prices_and_regret_too(fitted: FittedLaw) -> None:
    """Domains that no trunk would serve: one of them has so much text that it needs no other."""
    domains = (Domain("a", fitted, 5e4, 0.02), Domain("b", fitted, 3e7, 1.0))
    found = allocate_domains(DomainsRequest(4e12, domains), allow_extrapolation=True)
    assert found.best == INDEPENDENT
    assert found.around["params_within"] is None and found.around["regret_expected_percent"] >= 0
    assert found.worths[0].change == "10 % more compute" and found.worths[0].lower_percent > 0


def test_the_best_guess_is_that_of_the_fitted_parameters(fitted: FittedLaw) -> None:
    members = tuple(replace(member, resamples=member.theta * np.exp(0.3 + 0.0 * member.resamples)) for member in fitted.members)
    moved = replace(fitted, members=members)  # resamples that all say something else
    guess, robust = (allocate_domains(request(moved), robust=way).recommended for way in (False, True))
    plain = allocate_domains(request(fitted), robust=False).recommended
    assert guess.params_non_embedding == plain.params_non_embedding and guess.tokens_general == plain.tokens_general
    assert robust.params_non_embedding != guess.params_non_embedding and robust.loss < guess.loss


def test_the_file_keeps_them(answer: DomainsAllocation, tmp_path: Path) -> None:
    answer.save(tmp_path / "a.json", {})
    again = DomainsAllocation.load(tmp_path / "a.json")
    assert again.worths == answer.worths and again.exchange == answer.exchange
    assert {key: value if value is None else np.ravel(value).tolist() for key, value in again.around.items()} == {
        key: value if value is None else np.ravel(value).tolist() for key, value in answer.around.items()
    }


@pytest.mark.slow
def test_nothing_more_makes_it_worse_and_the_plan_is_within_its_own_range(fitted: FittedLaw, general: FittedLaw) -> None:
    random = np.random.default_rng(4)
    for number in range(12):
        text, weights = np.exp(random.uniform(np.log(6e4), np.log(2e6), 3)), random.uniform(0.3, 2, 3)
        each = zip("abc", text, weights, strict=True)
        domains = tuple(Domain(name, fitted, float(one), float(weight), general_law=general) for name, one, weight in each)
        limits = ({}, {"max_general_rise": 0.1}, {"general_tokens": 6e5}, {"max_epochs": 1.5})[number % 4]
        asked = replace(DomainsRequest(float(np.exp(random.uniform(np.log(4e12), np.log(2e14)))), domains), **limits)  # type: ignore[arg-type]
        answer = allocate_domains(asked, robust=number % 3 > 0, allow_extrapolation=True)
        assert all(worth.lower_percent >= -0.02 for worth in answer.worths), (number, answer.worths)
        around, best = answer.around, answer.recommended
        assert around["regret_expected_percent"] >= 0
        if around["share_within"] is not None and best.tokens_general is not None:
            stages = sum(plan.tokens_spec / (1 - plan.replay_fraction) for plan in best.domains)
            share = best.tokens_general / (best.tokens_general + stages)
            assert around["share_within"][0] - 1e-9 <= share <= around["share_within"][1] + 1e-9
            assert around["params_within"][0] <= best.params_non_embedding <= around["params_within"][1]


def test_required_losses_are_kept_by_the_measure_of_the_best_guess(fitted: FittedLaw, answer: DomainsAllocation) -> None:
    asked = request(fitted)
    tight = replace(asked.domains[0], max_loss=0.99 * answer.recommended.domains[0].loss)
    found = allocate_domains(replace(asked, domains=(tight, *asked.domains[1:])), robust=False).recommended.domains[0]
    size = {"non_embedding": [found.params_non_embedding], "total": [found.params_total]}
    assert float(np.exp(fitted.log_loss(fitted.points(size, [found.tokens_pt], [found.tokens_spec], [2e5])))[0]) <= tight.max_loss * (1 + 1e-9)


def test_a_plan_that_is_all_trunk_has_prices_too(fitted: FittedLaw) -> None:
    """Domains with too little text for a stage: what more compute buys is a longer trunk."""
    domains = (Domain("a", fitted, 2e4), Domain("b", fitted, 1e4))
    asked = DomainsRequest(2e13, domains, max_epochs=4.0)
    answer = allocate_domains(asked)
    assert answer.best == SPLIT and not any(plan.tokens_spec for plan in answer.recommended.domains)
    more = allocate_domains(replace(asked, flops=2.2e13)).recommended.loss
    assert more is not None and answer.recommended.loss is not None
    expected = 100 * (1 - more / answer.recommended.loss)
    assert answer.worths[0].lower_percent == pytest.approx(expected, rel=0.05, abs=0.02) and expected > 0.3


def scattered(law: FittedLaw, by: float) -> FittedLaw:
    """Give a law resamples that differ from what was fitted by some share."""
    random = np.random.default_rng(3)
    shapes = [(24, len(member.theta)) for member in law.members]
    drawn = [member.theta * np.exp(by * random.normal(size=shape)) for member, shape in zip(law.members, shapes, strict=True)]
    return replace(law, members=tuple(replace(member, resamples=rows) for member, rows in zip(law.members, drawn, strict=True)))


def test_a_law_that_is_known_saves_nothing_and_an_unsure_one_what_the_own_plans_of_its_resamples_save(fitted: FittedLaw) -> None:
    sure, unsure, little = (scattered(fitted, by) for by in (0.0, 0.15, 0.01))
    asked = request(fitted)
    asked = replace(asked, domains=tuple(replace(domain, law=law) for domain, law in zip(asked.domains, (sure, unsure, little), strict=True)))
    answer = allocate_domains(asked, ask_laws=True)
    assert answer.best == SPLIT
    by_name = {item.domains: item for item in answer.knowing}
    assert [*by_name][0] == ("b",) and by_name["a",].most_percent < 0.01
    assert by_name["b",].most_percent > by_name["b",].saved_percent > 10 * by_name["c",].saved_percent
    problem, plan = DomainsProblem.of(asked), answer.recommended
    at = problem.nearest(np.log([item.params_non_embedding for item in plan.domains]))[:, None]
    tokens = [np.array([[getattr(item, key)] for item in plan.domains]) for key in ("tokens_pt", "tokens_spec")]
    saved = []
    for drawn in resample_problems(problem, unsure):
        assert [domain.law is law for domain, law in zip(drawn.request.domains, (sure, unsure, little), strict=True)] == [True, False, True]
        own = split(drawn)
        assert own is not None
        mine = drawn.expected(at, *tokens, EVERY)
        saved.append(100 * float(drawn.weights @ mine[:, 0] / (drawn.weights @ drawn.losses(own)) - 1))
    assert by_name["b",].saved_percent == pytest.approx(np.mean(saved), rel=0.15)


def test_laws_that_domains_share_are_asked_once(fitted: FittedLaw) -> None:
    (item,) = allocate_domains(request(fitted), ask_laws=True).knowing
    assert sorted(item.domains) == ["a", "b", "c"] and 0 <= item.saved_percent <= item.most_percent
