"""Under a limit on the general loss, where budget is left over: more is never worse, no price is below nothing, and no plan by brute force is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.allocate import allocate, best_plan
from planner.allocate.closer import closest
from planner.allocate.describe import resampled
from planner.allocate.optimum import MOST_RESAMPLES, Search, coarse
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost
from planner.allocate.request import Request
from planner.fit.fitted import FittedLaw
from planner.laws.dual import Array
from tests.allocate.problems import LEAST_STAGE, STEP, ladder

COMPUTING = Path(__file__).parents[2] / "sweeps" / "computing"
REQUEST = Request(1e14, 2e5)
BUDGETS, RISES = np.geomspace(2e13, 1e14, 5), (0.02, 0.03, 0.05, 0.06, 0.1)


@pytest.fixture(scope="module")
def laws() -> tuple[FittedLaw, FittedLaw]:
    return FittedLaw.load(COMPUTING / "law.json"), FittedLaw.load(COMPUTING / "replay" / "law_general.json")


def best(laws: tuple[FittedLaw, FittedLaw], request: Request) -> Search:
    problem = Problem.of(laws[0], request, laws[1])
    return closest(problem, coarse(problem))


def test_more_budget_and_looser_limits_are_never_worse(laws: tuple[FittedLaw, FittedLaw]) -> None:
    found = [[best(laws, replace(REQUEST, flops=float(flops), max_general_rise=rise)) for rise in RISES] for flops in BUDGETS]
    losses = np.array([[search.expected.min() for search in row] for row in found])
    used = np.array([[search.plans.flops[search.best] for search in row] for row in found]) / BUDGETS[:, None]
    assert (used < 0.9).sum() > 10, "budget is left over in most of them"
    assert np.diff(losses, axis=0).max() < 1e-5, "more budget"
    assert np.diff(losses, axis=1).max() < 0, "a looser limit"


def test_between_two_limits_more_budget_is_never_worse(laws: tuple[FittedLaw, FittedLaw]) -> None:
    """There only a few amounts of general text keep both."""
    budgets = np.geomspace(1.2e13, 1e14, 6)
    found = [best(laws, replace(REQUEST, flops=float(flops), max_general_rise=0.05, max_general_loss=3.3)) for flops in budgets]
    assert np.diff([search.expected.min() for search in found]).max() < 1e-4


CORNERS = [(1.03427e15, 0.0819815), (3.55344e14, 0.0882723), (1.89586e13, 0.0333297)]
"""Where the best plan has the most replay and the fewest tokens that it may, or spends nearly all and not all of the budget."""


@pytest.mark.parametrize(("flops", "rise"), [(1e14, 0.05), (7.6e13, 0.02), (1e13, 0.1), (3e15, 0.08), *CORNERS])
def test_no_plan_by_brute_force_is_better(laws: tuple[FittedLaw, FittedLaw], flops: float, rise: float) -> None:
    mine = float(best(laws, replace(REQUEST, flops=flops, max_general_rise=rise)).expected.min())
    theirs = min(brute_force(*laws, flops, rise))
    assert theirs - 2e-4 < mine < theirs + 1e-4


@pytest.mark.parametrize(("flops", "rise"), [(3.29977e14, 0.0977081), (1.31371e15, 0.0850121), (9.86776e14, 0.109642)])
def test_the_plan_in_whole_steps_is_as_good_where_a_step_is_worth_more_than_that(laws: tuple[FittedLaw, FittedLaw], flops: float, rise: float) -> None:
    """It has the most replay and the fewest tokens that it may, so that a step of specialist text less is 0.03 % of the loss if no other size makes up."""
    problem = Problem.of(laws[0], replace(REQUEST, flops=flops, max_general_rise=rise), laws[1])
    plan = best_plan(problem)
    assert plan.tokens_pt % STEP == plan.tokens_spec % STEP == 0 and plan.flops <= flops
    assert problem.retention is not None and problem.retention.tell(plan, plan.replay_fraction).rise_percent <= 100 * rise
    assert float(resampled(problem, plan, MOST_RESAMPLES).mean()) < min(brute_force(*laws, flops, rise)) + 1e-4


def brute_force(law: FittedLaw, general: FittedLaw, flops: float, rise: float) -> Iterator[float]:
    """Cross sizes, specialist and general tokens and shares of replay, ever closer around the best of each share; yield what the best are worth."""
    sizes, unique = ladder("full"), REQUEST.unique_spec
    sizes = sizes.where(flops / sizes.cost >= law.support.low["tokens_per_param"] * sizes.params)
    passes = law.support.high["epochs_spec"]

    def grid(params: Array, spec: Array, pt: Array, shares: Array) -> tuple[Array, Array]:
        at = np.unique(np.searchsorted(sizes.params, params).clip(0, len(sizes.params) - 1))
        at, special, trunk, share = (item.ravel() for item in np.meshgrid(at, spec, pt, shares, indexing="ij"))
        taken = trunk + special
        fits = (taken * sizes.cost[at] <= flops) & (taken >= 2 * sizes.params[at]) & (special <= passes * unique) & (special >= LEAST_STAGE)
        fits &= trunk - special * share / (1 - share) >= LEAST_STAGE
        at, special, trunk, share = (item[fits] for item in (at, special, trunk, share))
        size = {"non_embedding": sizes.params[at], "total": sizes.total[at]}
        after = general.points(size, trunk - special * share / (1 - share), special, np.full(len(at), unique), share)
        before = general.points(size, trunk, np.zeros(len(at)), np.full(len(at), unique), np.zeros(len(at)))
        keeps = general.log_loss(after) - general.log_loss(before) <= np.log1p(rise)
        rows = np.array([sizes.params[at], special, trunk, share])[:, keeps]
        points = law.points({kind: values[keeps] for kind, values in size.items()}, trunk[keeps], special[keeps], np.full(int(keeps.sum()), unique))
        return rows, law.log_loss_resamples(points, 30).mean(0) + cost(share[keeps])

    shares = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rows, values = grid(np.geomspace(2e5, 4e6, 30), np.geomspace(LEAST_STAGE, passes * unique, 30), np.geomspace(LEAST_STAGE, 3e7, 70), shares)
    for share in shares:
        own = np.flatnonzero(rows[3] == share)
        if not len(own):
            continue
        place = rows[:, own[values[own].argmin()]]
        for reach in (0.15, 0.15, 0.06, 0.06, 0.025, 0.025, 0.01, 0.01, 0.004, 0.0015):
            spec, pt = (place[axis] * np.exp(np.linspace(-reach, reach, count)) for axis, count in ((1, 11), (2, 21)))
            every = sizes.params[np.abs(np.log(sizes.params / place[0])) < max(reach, 0.04)]
            around = np.unique(np.clip([share, *(place[3] + reach / 3 * np.linspace(-1, 1, 5))], 0.0, shares[-1]))
            found, worth = grid(every[:: max(1, len(every) // 30)], spec, pt, around)
            if len(worth):
                place = found[:, worth.argmin()]
        size = next(number for number, params in enumerate(sizes.params) if params == place[0])
        points = law.points({"non_embedding": place[:1], "total": sizes.total[[size]]}, place[2:3], place[1:2], np.array([unique]))
        yield float(law.log_loss_resamples(points, MOST_RESAMPLES).mean() + cost(place[3]))


@pytest.mark.parametrize(("flops", "rise"), [(6e13, 0.05), (1e14, 0.05), (5e15, 0.08)])
def test_no_price_is_below_nothing(laws: tuple[FittedLaw, FittedLaw], flops: float, rise: float) -> None:
    """At 5e15 a plan without a specialist stage is as good, but with another spread over the resamples."""
    answer = allocate(laws[0], replace(REQUEST, flops=flops, max_general_rise=rise), general=laws[1], allow_extrapolation=True)
    assert all(worth.lower_percent >= 0 for worth in answer.worths if "for the same budget" not in worth.change)
    (text,) = [worth.lower_percent for worth in answer.worths if "twice the specialist" in worth.change]
    assert text > 5 and "nothing here" not in answer.exchange
    assert ("10 % more compute hardly at all" in answer.exchange) == (flops < 5e15), "where budget is left over"
