"""One model of the whole mix where early specialist text is measured, against split training and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.answer import DomainsAllocation, Structure
from planner.allocate.domains.found import MIXED, SPLIT
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.errors import DataError
from planner.fit.early import Early
from planner.fit.fitted import FittedLaw

pytestmark = pytest.mark.usefixtures("plans_alone")

BUDGET = 4e13
UNIQUE = (2e5, 1e6, 5e5)


def measured(law: FittedLaw, worth: float, spread: float = 0.1, off: float = 0.5, most: float = 0.95) -> FittedLaw:
    count = sum(len(member.resamples) for member in law.members)
    return replace(law, early=Early(worth, worth * np.exp(spread * np.random.default_rng(1).normal(size=count)), off, 9, 0.02, most))


def answer_of(*laws: FittedLaw) -> DomainsAllocation:
    domains = tuple(Domain(name, law, text) for name, law, text in zip("abc", laws, UNIQUE, strict=True))
    return allocate_domains(DomainsRequest(BUDGET, domains))


def of(answer: DomainsAllocation, name: str) -> Structure:
    return next(structure for structure in answer.structures if structure.name == name)


def test_text_that_is_worth_a_stage_makes_the_mix_as_good_as_split_training(fitted: FittedLaw) -> None:
    answer = answer_of(*[measured(fitted, 1.0, spread=0.0, off=0.0)] * 3)
    mix, split = of(answer, MIXED), of(answer, SPLIT)
    assert mix.loss == pytest.approx(split.loss, rel=1e-6) and mix.loss_high > split.loss_high, "several domains in one mix are less sure"
    assert mix.loss_low < split.loss_low, "down to what the other domains' text could do"


def test_the_forecast_is_the_law_with_the_worth_by_hand(fitted: FittedLaw) -> None:
    law = measured(fitted, 0.4)
    mix = of(answer_of(law, law, law), MIXED)
    for plan in mix.domains:
        assert plan.shape is not None and plan.tokens_pt == mix.tokens_general
        size = {"non_embedding": [plan.params_non_embedding], "total": [np.nan]}
        log_loss = law.log_loss_resamples(law.points(size, [plan.tokens_pt], [0.4 * plan.tokens_spec], [plan.unique_spec]))
        assert plan.loss == pytest.approx(float(np.exp(log_loss).mean()), rel=1e-9)
        assert plan.flops_path == mix.flops and plan.loss_low < plan.loss < plan.loss_high
    assert "0.4 (0.3" in mix.assumption and "for every domain" in mix.assumption


@pytest.mark.slow
def test_it_is_recommended_only_if_every_law_has_measured_it(fitted: FittedLaw) -> None:
    assert answer_of(*[measured(fitted, 0.4)] * 3).best == SPLIT
    dear = measured(fitted, 4.0)
    answer = answer_of(dear, dear, dear)
    assert answer.best == MIXED and answer.recommended.probability is None and of(answer, SPLIT).worse_percent > 0
    little = measured(fitted, 4.0, most=0.1)
    assert answer_of(little, little, little).best == SPLIT, "a worth does not carry to shares that no run had"
    partly = answer_of(dear, fitted, dear)
    assert partly.best == SPLIT and "for a, c, and assumed for the other domains" in of(partly, MIXED).assumption


@pytest.mark.slow
def test_a_mix_that_is_forecast_better_and_not_recommended_says_why(fitted: FittedLaw) -> None:
    def said(*laws: FittedLaw) -> list[str]:
        return [text for text in answer_of(*laws).warnings if text.startswith(MIXED)]

    dear, little = measured(fitted, 4.0), measured(fitted, 4.0, most=0.1)
    partly = answer_of(dear, fitted, dear)
    (why,) = said(dear, fitted, dear)
    of_refits = 1 - (of(partly, MIXED).probability or 0.0)
    assert f"is forecast {-of(partly, MIXED).worse_percent:.2f} % lower than {SPLIT}, in {of_refits:.0%} of the refits, but is not recommended" in why
    assert "no run of the law of b has specialist text in its general stage" in why and "and no run had more" not in why and "the sweep of b, refit" in why
    mix = of(partly, MIXED)
    special = sum(plan.tokens_spec for plan in mix.domains)
    assert f"early_fraction of up to {special / (mix.tokens_general + special):.2g} to" in why
    (far,) = said(little, little, little)
    assert "no run of the laws" not in far and "to the sweeps, refit" in far and "of its tokens is specialist, and no run had more than 0.1:" in far
    assert not said(dear, dear, dear) and not said(measured(fitted, 0.4), fitted, fitted) and not said(fitted, fitted, fitted)


def test_doubt_about_the_worth_and_runs_off_the_law_widen_the_interval(fitted: FittedLaw) -> None:
    def width(spread: float, off: float) -> tuple[float, float]:
        mix = of(answer_of(*[measured(fitted, 0.4, spread, off)] * 3), MIXED)
        plan = mix.domains[1]
        return mix.loss_high / mix.loss, plan.loss_high / plan.loss

    sure, unsure, loose = width(0.0, 0.0), width(0.4, 0.0), width(0.0, 4.0)
    assert unsure[0] > sure[0] and unsure[1] > sure[1]
    assert loose[0] > sure[0] and loose[1] > 1.01 * sure[1]


@pytest.mark.slow
def test_the_budget_that_would_do_counts_on_a_mix_that_was_measured(fitted: FittedLaw) -> None:
    dear = measured(fitted, 4.0, most=1.0)
    limits = [share * plan.loss for share, plan in zip((1.0005, 0.9985, 1.002), answer_of(dear, dear, dear).recommended.domains, strict=True)]

    def request(law: FittedLaw, flops: float) -> DomainsRequest:
        return DomainsRequest(flops, tuple(Domain(name, law, text, max_loss=most) for name, text, most in zip("abc", UNIQUE, limits, strict=True)))

    def told(law: FittedLaw) -> float:
        with pytest.raises(DataError, match="cannot all be reached .* about .* FLOPs for all domains would suffice") as refusal:
            allocate_domains(request(law, BUDGET))
        return float(refusal.value.message.split("about ")[1].split(" FLOPs")[0])

    with_mix = told(dear)
    assert with_mix < 0.8 * told(fitted), "split training needs far more"
    assert allocate_domains(request(dear, 1.05 * with_mix), allow_extrapolation=True).best == MIXED
