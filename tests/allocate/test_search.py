"""Short ways of a search, held against the long ones: the same best plan, from fewer forecasts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate import least_share, optimum
from planner.allocate.optimum import GLANCES, MOST_RESAMPLES, coarse, guesses, leading, search
from planner.allocate.problem import Problem
from planner.allocate.refine import around_plan, refine_search
from planner.allocate.request import Request
from planner.allocate.retention import Retention
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.laws import LAWS
from tests.allocate.problems import REFERENCE, TWO_STAGE, random_law, random_request

FORGETS = {"A": 3.0, "c": 0.9, "α": 0.12, "β": 1.3, "F": 0.4, "s0": 0.005, "k": 2.5, "b": 400.0, "χ": 0.4}
SWEEPS = Path(__file__).parents[2] / "sweeps"
COMPUTING, NATURE = (FittedLaw.load(SWEEPS / name / "law.json") for name in ("computing", "nature"))
EACH = 6
"""Problems of each law."""


def limited(law: FittedLaw, rise: float) -> Retention:
    """Limit the rise of the general loss."""
    form = LAWS["rehearsal"]
    theta = np.array([FORGETS[parameter.name] for parameter in form.parameters])
    member = Member(form, "non_embedding", REFERENCE, theta, theta[None], "converged", 1, 1, 1.0, (), (), 0.0)
    return Retention(replace(law, members=(member,), source={"replay_fractions": [0.0, 0.5]}), None, rise)


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize("name", [law.name for law in TWO_STAGE])
def test_plans_that_some_resamples_give_up_are_never_the_best(name: str) -> None:
    given_up = looked_at = 0
    for number in range(EACH):
        random = np.random.default_rng([7, *name.encode(), number])
        law, request = random_law(LAWS[name], random, MOST_RESAMPLES), random_request(random)
        problem = Problem.of(law, request)
        problem = problem if number % 2 else replace(problem, retention=limited(law, float(random.uniform(0.02, 0.5))))
        try:
            whole = coarse(problem)
        except DataError:
            continue
        plans = around_plan(problem, whole.plans, whole.best)
        every, some = search(problem, plans), leading(problem, plans)
        assert (np.argmin(guesses(problem, plans)), guesses(problem, plans).min()) == (every.best_guess, every.guess.min())
        assert some.expected.min() == pytest.approx(every.expected.min(), rel=1e-9, abs=1e-12)
        given_up, looked_at = given_up + len(plans) - len(some.plans), looked_at + len(plans)
    assert given_up > 0.1 * looked_at > 0, "it is to be quicker, too"


@pytest.mark.parametrize("at_once", [0, 10**9])
@pytest.mark.parametrize("rise", [0.01, 0.05, 0.2, 1.0])
def test_the_least_share_is_that_of_every_share_in_turn(rise: float, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In thousandths, and no more than the general text holds; the shares in between are told apart to one of them, one by one or at once."""
    monkeypatch.setattr(least_share, "AT_ONCE", at_once)
    random = np.random.default_rng(3)
    law = random_law(LAWS["root-rote"], random)
    problem = replace(Problem.of(law, Request(1e13, 2e5, params_among=(5e4, 2e5))), retention=limited(law, rise))
    plans = problem.plans(problem.sizes(), np.linspace(0.02, 1.0, 30), [0.0, *np.geomspace(2.2e5, 1e8, 30)])
    keeping, least = problem.retention, problem.min_tokens_stage
    assert keeping is not None
    found, rough = keeping.replay(plans, least), keeping.replay(plans, least, closely=False)
    each = []
    for share in np.arange(501) / 1000:
        after, before = keeping.losses(plans, share, least)
        within = after - before <= np.log1p(rise) - np.where(plans.tokens_spec > 0, 0.0, -1e-9)
        each.append(np.where(within & ((plans.tokens_pt > 0) | (plans.tokens_spec == 0)), share, np.inf))
    every = np.min(each, axis=0)
    kept = np.isfinite(found)
    assert (kept == np.isfinite(rough)).all() and (rough[kept] >= found[kept]).all() and 0 < kept.sum()
    assert found[kept] == pytest.approx(every[kept], abs=1e-9)
    assert (np.isfinite(every) & ~kept).mean() < 0.01, "plans that only shares between those that are tried let keep the limit are few"
    assert ((found[kept] > 0) & (found[kept] < 0.5)).any() or rise == 1.0


@pytest.mark.parametrize("aside", [1.0, 1.0005])
def test_a_shape_is_found_in_any_range_that_it_lies_in(aside: float) -> None:
    """Though sizes outside the range are what it is the nearest shape to, as with 217,120 parameters."""
    free = Problem.of(NATURE, Request(1e13, 2e5))
    for size in free.every(1.8e5, 2.3e5):
        among = (size.params_non_embedding / aside - 0.5, size.params_non_embedding * aside + 0.5)
        assert size in Problem.of(NATURE, Request(1e13, 2e5, params_range=among)).sizes()
    with pytest.raises(DataError, match="the nearest have 215,696 and 217,120"):
        Problem.of(NATURE, Request(1e13, 2e5, params_range=(216_000.0, 217_000.0))).sizes()


def expected(problem: Problem, size: float, spec: float) -> float:
    """Return the mean of ln L of a plan that spends the rest on general text."""
    assert problem.recipe is not None and problem.vocab is not None
    shape = problem.size(size)
    if shape.params_non_embedding != size:
        shape = next(one for one in problem.every(size, size))
    plans = problem.plans((shape,), np.array([spec / min(problem.tokens(shape), problem.max_tokens_spec)]))
    rows = np.flatnonzero(np.isclose(plans.tokens_spec, spec, rtol=1e-9))
    return float(search(problem, plans.rows(rows)).expected.min())


def test_a_cheap_shape_far_from_the_best_size_is_found_with_a_share_of_its_own() -> None:
    """It sees a sixth more tokens than the best of the others, and wants as many specialist ones."""
    problem = Problem.of(NATURE, Request(1.7556e13, 221_187.0, inference_tokens=150_978.0, training_flops=7.6389e12))
    assert refine_search(problem, coarse(problem)).expected.min() <= expected(problem, 217_120, 1_765_098.0) + 1e-6


def test_general_text_too_short_for_a_stage_moves_no_bound() -> None:
    """The most parameters for a text are those that have two tokens each, of the specialist text alone."""
    problem = Problem.of(COMPUTING, Request(4.2947e12, 30_854.0, general_tokens=167_418.0, inference_tokens=4.8756e6))
    assert refine_search(problem, coarse(problem)).expected.min() <= expected(problem, 181_136, 362_272.0) + 1e-6


@pytest.mark.parametrize(("sweep", "flops", "unique"), [("medicine", 2e13, 2e5), ("scripture", 1e14, 1e6), ("medicine", 1e20, 1e8)])
def test_a_first_look_with_few_resamples_discards_nothing_that_counts(monkeypatch: pytest.MonkeyPatch, sweep: str, flops: float, unique: float) -> None:
    """Near the runs most of a grid goes at once; at 1e20 FLOPs resamples disagree so much that only the limits to the numbers of plans do it."""
    problem = Problem.of(FittedLaw.load(SWEEPS / sweep / "law.json"), Request(flops, unique))
    quick = coarse(problem)
    for name, value in (("GLANCES", 1000 * GLANCES), ("MOST_GLANCED", 10**9), ("MOST_HOPEFUL", 10**9)):
        monkeypatch.setattr(optimum, name, value)
    whole = coarse(problem)
    assert quick.expected.min() == whole.expected.min() and len(quick.plans) <= len(whole.plans)
    # Which plan each resample itself prefers: what intervals are of.
    np.testing.assert_array_equal(quick.resamples.min(1), whole.resamples.min(1))
