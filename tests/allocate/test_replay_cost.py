"""What replay costs the specialist loss: as the recorded runs have it, and in every plan that replays."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from planner.allocate.allocate import allocate, best_plan
from planner.allocate.base import Base
from planner.allocate.base_stage import stage_of
from planner.allocate.bases import allocate_bases
from planner.allocate.optimum import coarse, guesses, search
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import COSTS, SHARES, cost, cost_on_top, dearer
from planner.allocate.request import Request
from planner.allocate.split_arm import profile
from planner.fit.fitted import FittedLaw, Forecast
from planner.method import Method
from planner.next_runs.target import Target

FOLDER = Path(__file__).parents[2] / "sweeps" / "computing"
REQUEST = Request(1e13, 2e5)
LIMITS = np.arange(4, 21) / 100
BASE = Base.parse("name=B1,tokens=8e6,params=150e3,vocab=1024,context=128")
OF_BASE = Request(1e12, 1e6)


@pytest.fixture(scope="module")
def law() -> FittedLaw:
    return FittedLaw.load(FOLDER / "law.json")


@pytest.fixture(scope="module")
def general() -> FittedLaw:
    return FittedLaw.load(FOLDER / "replay" / "law_general.json")


def test_the_costs_are_what_the_recorded_runs_have(law: FittedLaw) -> None:
    """Runs with replay against the run without, less what the law says of the replayed text as general text; means to a hundredth of a per cent."""
    runs = pd.read_csv(FOLDER / "replay" / "runs.csv")
    runs = runs[runs.tokens_spec > 0].assign(share=runs.replay_fraction.fillna(0), amount=(runs.tokens_spec / 1e5).round())
    found: dict[float, list[float]] = {}
    for _, group in runs.groupby(["params_non_embedding", "tokens_pt", "amount"]):
        bare = group[group.share == 0].iloc[0]
        for _, run in group[group.share > 0].iterrows():
            size = {kind: [run[f"params_{kind}"]] * 2 for kind in ("non_embedding", "total")}
            general = [run.tokens_pt + run.share / (1 - run.share) * run.tokens_spec, bare.tokens_pt]
            points = law.points(size, general, [run.tokens_spec, bare.tokens_spec], [run.unique_spec] * 2)
            said = law.log_loss_resamples(points).mean(0)
            found.setdefault(run.share, []).append(np.log(run.loss_spec / bare.loss_spec) - (said[0] - said[1]))
    assert {share: len(values) for share, values in found.items()} == {0.02: 8, 0.05: 3, 0.1: 14, 0.3: 14, 0.5: 3}
    for share, known in zip(SHARES[1:], COSTS[1:], strict=True):
        assert float(np.mean(found[share])) == pytest.approx(known, abs=1e-4)
    for share, values in found.items():
        assert max(values) <= 2.3 * cost(share) + 5e-4, "no pair lies far outside of what the interval allows for"
        assert abs(np.mean(values) - cost(share)) < 5e-4


def test_costs_between_and_beyond_what_was_measured() -> None:
    assert cost(0.0) == 0 and cost(0.2) == pytest.approx((COSTS[1] + COSTS[2]) / 2)
    assert cost(0.6) == pytest.approx(COSTS[3] + (COSTS[3] - COSTS[2]) / 2)
    values = cost(np.linspace(0, 0.9, 91))
    assert (np.diff(values) > 0).all() and np.isnan(cost(np.nan))


def test_a_dearer_forecast_reaches_down_to_no_cost_and_up_to_twice() -> None:
    sure, unsure = (Forecast(np.array([3.0]), np.array([3.0 / width]), np.array([3.0 * width])) for width in (1.0, 1.02))
    found = dearer(sure, np.array([0.01]))
    assert found.low[0] == pytest.approx(3.0) and found.loss[0] == pytest.approx(3.0 * np.exp(0.01)) and found.high[0] == pytest.approx(3.0 * np.exp(0.02))
    found = dearer(unsure, np.array([0.01]))
    assert found.low[0] < 3.0 * np.exp(0.01) / 1.02 and found.low[0] < 3.0 and found.high[0] > 3.0 * np.exp(0.01) * 1.02
    same = dearer(unsure, np.array([0.0]))
    assert (same.loss[0], same.low[0], same.high[0]) == pytest.approx((3.0, 3.0 / 1.02, 3.0 * 1.02), rel=1e-12)


def test_what_is_replayed_on_top_makes_up_for_its_cost_at_the_most() -> None:
    share = np.array([0.0, 0.3, 0.3])
    assert cost_on_top(share, np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.005, 1.02])).tolist() == pytest.approx([0.0, COSTS[2], 0.02])


def test_a_plan_pays_for_its_replay_everywhere(law: FittedLaw, general: FittedLaw) -> None:
    answer = allocate(law, replace(REQUEST, max_general_rise=0.1), general=general)
    for plan in (answer.plan, answer.best_guess, *(arm.plan for arm in (*answer.arms, *answer.alternatives) if arm.plan)):
        size = {"non_embedding": [plan.params_non_embedding], "total": [plan.params_total]}
        free = law.forecast(size, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec], mean=plan is not answer.best_guess)
        added = float(cost(plan.replay_fraction))
        assert plan.loss == pytest.approx(float(free.loss[0]) * np.exp(added), rel=1e-2 if plan is answer.best_guess else 1e-9)
        assert plan.loss_low <= plan.loss * np.exp(-added) and plan.loss_high >= plan.loss * np.exp(added)
    assert answer.general is not None and answer.plan.replay_fraction == answer.general["replay_fraction"] > 0.1
    assert sum(arm.plan is not None and arm.plan.replay_fraction > 0 for arm in answer.arms) > 0
    said = next(text for text in answer.warnings if "as measured in one sweep" in text)
    assert f"{100 * np.expm1(cost(answer.plan.replay_fraction)):.2g} % to the specialist loss for replaying it" in said
    # The price of a looser limit is what the forecasts with a looser one say.
    looser = allocate(law, replace(REQUEST, max_general_rise=0.11), general=general)
    (worth,) = [worth for worth in answer.worths if "may rise 11 % instead of 10" in worth.change]
    assert worth.lower_percent == pytest.approx(100 * (1 - looser.plan.loss / answer.plan.loss), abs=0.01) and worth.lower_percent > 0.05


def test_searches_count_it(law: FittedLaw, general: FittedLaw) -> None:
    problem = Problem.of(law, replace(REQUEST, max_general_rise=0.08), general)
    found = coarse(problem)
    again, points = search(problem, found.plans), problem.law.points(found.plans.params_by, *_tokens(found.plans))
    assert found.plans.replay is not None and (found.plans.replay > 0).any()
    assert again.expected == pytest.approx(law.log_loss_resamples(points, 120).mean(0) + cost(found.plans.replay))
    assert guesses(problem, found.plans) == pytest.approx(law.log_loss(points) + cost(found.plans.replay))
    target = Target.among(found.plans, found.resamples, found.best, 0.005)
    assert target.plans.added == pytest.approx(cost(target.plans.replay)) and target.plans.added.any()
    shares, losses = profile(problem, found.plans.sizes, 1.0)
    free = profile(replace(problem, retention=None), found.plans.sizes, 1.0)
    assert (losses >= np.interp(shares, *free) * (1 - 1e-9)).all()


def _tokens(plans: object) -> tuple[object, object, object]:
    return plans.tokens_pt, plans.tokens_spec, plans.unique_spec  # type: ignore[attr-defined]


@pytest.mark.slow
def test_no_tighter_limit_is_forecast_better_and_each_has_its_own_plan(law: FittedLaw, general: FittedLaw) -> None:
    problems = [Problem.of(law, replace(REQUEST, max_general_rise=float(limit)), general) for limit in LIMITS]
    plans = [best_plan(problem) for problem in problems]
    losses = [plan.loss for plan in plans]
    assert all(looser < tighter for tighter, looser in pairwise(losses)), losses
    for limit, problem, plan in zip(LIMITS, problems, plans, strict=True):
        assert problem.retention is not None
        rise = problem.retention.tell(plan, plan.replay_fraction).rise_percent
        assert 100 * limit - 0.05 < rise <= 100 * limit, "as little replay as keeps it, no less"
    answer = allocate(law, problems[0].request, general=general)
    assert answer.plan == plans[0] and answer.general is not None and 100 * LIMITS[0] - 0.05 < answer.general["rise_percent"] <= 100 * LIMITS[0]


@pytest.mark.parametrize(("tokens", "request_"), [(8e6, OF_BASE), (6e5, Request(4e12, 1e5))])
def test_no_tighter_limit_has_a_base_forecast_better(law: FittedLaw, general: FittedLaw, tokens: float, request_: Request) -> None:
    """One of them with so little general text, and so few passes, that by the law more replay would be better even at its cost."""
    base = replace(BASE, tokens=tokens)
    every = [stage_of(Problem.of(law, replace(request_, max_general_rise=float(limit)), general), base, Method()) for limit in (*LIMITS, 9.0)]
    ends = [float(stage.end.mean()) for stage in every]
    assert all(looser <= tighter + 1e-6 for tighter, looser in pairwise(ends)) and ends[-1] < ends[0], ends


@pytest.mark.slow
def test_a_base_keeps_its_limit_with_shares_between_those_that_are_tried_first(law: FittedLaw, general: FittedLaw) -> None:
    """Held against every share in thousandths with every amount."""
    answer = allocate_bases(law, replace(OF_BASE, max_general_rise=0.1), [BASE], general=general)
    (choice,), paid = answer.choices, 1e12 / Method().flops_per_token(BASE.shape, BASE.context)
    size = {"non_embedding": np.full(300, float(BASE.shape.params_non_embedding)), "total": np.full(300, float(BASE.params_total(1024)))}
    trunk, unique, best = np.full(300, BASE.tokens), np.full(300, 1e6), np.inf
    before = general.log_loss(general.points(size, trunk, np.zeros(300), unique, np.zeros(300)))
    for share in np.arange(0, 501, 5) / 1000:
        spec = paid * (1 - share) * np.geomspace(0.02, 1, 300)
        keeps = general.log_loss(general.points(size, trunk, spec, unique, np.full(300, share))) - before <= np.log1p(0.1)
        told = law.log_loss_resamples(law.points(size, trunk + share / (1 - share) * spec, spec, unique)).mean(0) + cost(share)
        best = min(best, float(np.where(keeps, told, np.inf).min()))
    assert np.log(choice.plan.loss) <= best + 1e-4
    assert choice.general is not None and 9.9 < choice.general["rise_percent"] <= 10 and 0.4 < choice.plan.replay_fraction < 0.43
    (said,) = [text for text in answer.warnings if "as measured in one sweep" in text]
    assert "adds 1.6 % to the specialist loss for replaying it" in said and said.endswith("the gain from the replayed text is capped at that")
    (worth,) = [worth for worth in answer.worths if worth.change == "a general loss that may rise 11 % instead of 10"]
    looser = allocate_bases(law, replace(OF_BASE, max_general_rise=0.11), [BASE], general=general).choices[0].plan
    assert worth.lower_percent == pytest.approx(100 * (1 - looser.loss / choice.plan.loss), abs=0.02) and worth.lower_percent > 0.5


def test_of_two_limits_the_one_that_binds_is_eased(law: FittedLaw, general: FittedLaw) -> None:
    """Both are asked on their own, and together, since both may bind."""
    request = replace(REQUEST, max_general_rise=0.3, max_general_loss=3.45)
    gains = {worth.change: worth.lower_percent for worth in allocate(law, request, general=general).worths}
    rise, loss, both = (gains[name] for name in gains if "general loss" in name or "together" in name)
    assert list(gains)[-3:] == ["a general loss that may rise 31 % instead of 30", "a general loss up to 3.485 instead of 3.45", "both of these together"]
    assert abs(rise) < 0.01 < 0.05 < loss and both == pytest.approx(loss, abs=0.01)
    alone = {worth.change for worth in allocate(law, replace(request, max_general_rise=None), general=general).worths}
    assert not any("rise" in name or "together" in name for name in alone)
    bases = allocate_bases(law, replace(OF_BASE, max_general_rise=0.12, max_general_loss=9.0), [BASE], general=general)
    assert [worth.change for worth in bases.worths if "together" in worth.change]


def test_without_a_limit_nothing_is_paid(law: FittedLaw) -> None:
    answer = allocate(law, REQUEST)
    assert answer.plan.replay_fraction == 0 and not any("as measured in one sweep" in text for text in answer.warnings)
    assert coarse(Problem.of(law, REQUEST)).plans.replay is None
