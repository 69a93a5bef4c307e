"""What more would buy: by the best guess too, and what text is worth in compute against a search of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate import exchange
from planner.allocate.allocate import allocate
from planner.allocate.allocation import Allocation, Worth
from planner.allocate.exchange import exchange_of
from planner.allocate.optimum import MOST_RESAMPLES, coarse, leading
from planner.allocate.plans import Plans
from planner.allocate.problem import Problem
from planner.allocate.refine import refine_search
from planner.allocate.replay_cost import cost
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.units import format_number
from tests.allocate.problems import recorded

SWEEPS = Path(__file__).parents[2] / "sweeps"


@pytest.fixture(scope="module")
def medicine() -> FittedLaw:
    return recorded("medicine")


def test_a_guess_is_priced_against_a_guess() -> None:
    """By least expected regret the larger request would do better even where it is the same: that is the price of guessing, and of nothing more."""
    law, request = recorded("nature"), Request(3e16, 1e7)
    answer = allocate(law, request, robust=False, allow_extrapolation=True)
    changes = {"10 % more": replace(request, flops=1.1 * request.flops), "twice": replace(request, unique_spec=2e7)}

    def resampled(asked: Request) -> Array:
        plan = allocate(law, asked, robust=False, allow_extrapolation=True).plan
        size = {"non_embedding": [plan.params_non_embedding], "total": [plan.params_total]}
        return law.log_loss_resamples(law.points(size, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec]), MOST_RESAMPLES)[:, 0]

    mine = resampled(request)
    assert len(answer.worths) == 3
    for worth in answer.worths[:2]:
        asked = next(asked for name, asked in changes.items() if worth.change.startswith(name))
        lower = -100 * np.expm1(resampled(asked) - mine)
        mean = -100 * np.expm1(np.log1p(-lower / 100).mean())
        assert worth.lower_percent == pytest.approx(mean, abs=0.01) and worth.high == pytest.approx(np.quantile(lower, 0.95), abs=0.05)


def _factor(text: str) -> tuple[float, float, float]:
    middle = float(text.split("FLOPs here: ")[1].split(" times")[0])
    low, high = text.split("90 % interval ")[1].split(" times")[0].split(" to ")
    return middle, float(low), float(high)


def test_text_of_great_worth_is_searched_for(medicine: FittedLaw) -> None:
    """Against closely searched plans of larger and larger budgets, among which the loss with twice the text is looked up, resample by resample."""
    flops, unique = 2e13, 4e5
    answer = allocate(medicine, Request(flops, unique))
    factor, low, high = _factor(answer.exchange)

    def best(request: Request) -> Array:
        problem = Problem.of(medicine, request)
        found = refine_search(problem, coarse(problem))
        return found.resamples[:, found.best]

    factors = np.geomspace(1, 16, 21)
    curves = np.array([best(Request(flops * value, unique)) for value in factors])
    target = best(Request(flops, 2 * unique))
    mean = np.exp(np.interp(-target.mean(), -curves.mean(1), np.log(factors)))
    each = [np.interp(-target[number], -curves[:, number], np.log(factors)) for number in range(len(target))]
    assert factor == pytest.approx(mean, rel=0.02) and 7 < mean < 8.5
    assert np.log([low, high]) == pytest.approx(np.quantile(each, (0.05, 0.95)), abs=0.06)
    assert "rate" not in answer.exchange


def test_a_small_worth_is_told_by_the_rate(medicine: FittedLaw) -> None:
    said = allocate(medicine, Request(1e12, 4e5)).exchange
    assert _factor(said)[0] <= 1.5 and "at the rate of the first 10 %" in said


RESAMPLES = np.linspace(-0.1, 0.1, 21)
COMPUTE = 0.3 * (1 - 1.1**-0.1) * (1 + RESAMPLES)
TEXT = 0.06 * (1 + RESAMPLES)


def saturating(factor: float) -> Array:
    """Return the gain of compute that falls off as a power: that of TEXT is reached at (1 − 0.2)^−10 = 9.31 times, at the rate at 8.17."""
    return 0.3 * (1 - factor**-0.1) * (1 + RESAMPLES)


def test_an_exchange_by_hand() -> None:
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT, saturating, 1e4)
    assert _factor(said)[0] == pytest.approx(0.8**-10, rel=0.02)
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT, saturating, 9.0)
    assert "are worth more than 8e+13 FLOPs here: 9 times the compute would not lower the loss as much" in said
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT, saturating, 2.0)
    assert "are worth more than 1e+13 FLOPs here: 2 times the compute would not lower the loss as much" in said, "the rate alone would say 8 times"
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT)
    assert "7.46 times the compute or more to lower the loss as much, at the rate of the first 10 % (90 % interval 7.46 to 7.46 times), with" in said
    uncertain = exchange_of(1e13, 4e5, COMPUTE, TEXT * np.linspace(0.5, 1.5, len(TEXT)) * 3)
    assert "are worth at least 9e+13 FLOPs here: it takes 10 times the compute or more" in uncertain
    assert "(90 % interval over 10 times)" in uncertain, "where the point ends its interval does too"
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT * np.linspace(0.5, 1.5, len(TEXT)))
    assert "it takes 7.74 times the compute or more" in said and "(90 % interval 3.02 to over 10 times)" in said
    said = exchange_of(1e13, 4e5, 0.0 * COMPUTE + 1e-4, TEXT, saturating, 1e4, 1e-4)
    assert "would lower the loss by 5.8 %, and 10 % more compute hardly at all" in said, "what whole steps take is no gain by compute either"


def test_the_ends_of_a_searched_interval_are_those_of_the_search() -> None:
    text = TEXT * np.linspace(0.2, 2.4, len(TEXT))
    said = exchange_of(1e13, 4e5, COMPUTE, text, saturating, 162.527576064)
    assert "to over 163 times)" in said, "the logarithm of the most and back is a little less"
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT - 0.1 * (RESAMPLES < -0.05), saturating, 1e4)
    assert "(90 % interval 1 to " in said, "text that a resample finds harmful is worth no compute, and not less than none"


def test_no_resample_needs_less_than_what_was_tried_and_did_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the way on from there is taken for."""
    places: list[float] = []

    def gain(factor: float) -> Array:
        places.append(factor)
        return saturating(factor)

    monkeypatch.setattr(exchange, "_each", lambda tried, text, at: np.full_like(text, -1.0))
    said = exchange_of(1e13, 4e5, COMPUTE, TEXT, gain, 1e4)
    low = float(said.split("90 % interval ")[1].split(" to ")[0])
    assert low == pytest.approx(max(place for place in places if (saturating(place) < TEXT).all()), rel=0.01) and low > 5


def test_no_compute_is_said_to_buy_what_none_does(medicine: FittedLaw) -> None:
    """For one small size all compute there is buys less than twice the text does."""
    request = Request(2e13, 2e5, params=1e5)
    answer = allocate(medicine, request)
    factor = float(answer.exchange.split("FLOPs here: ")[1].split(" times")[0])
    assert "times the compute would not lower the loss as much" in answer.exchange and factor > 100
    more = allocate(medicine, replace(request, flops=factor * request.flops), allow_extrapolation=True).plan.loss
    assert answer.worths[1].lower_percent > 10 * 100 * (1 - more / answer.plan.loss) > 0


def test_little_is_not_called_nothing() -> None:
    """Nothing is what the table beside it shows as nothing."""
    law = FittedLaw.load(SWEEPS / "medicine" / "lora" / "law_lora.json")
    answer = allocate(law, Request(3.3e12, 5.5e5))
    assert 0.005 < answer.worths[1].lower_percent < 0.1 and answer.exchange.endswith("would gain next to nothing here")


def test_what_whole_steps_take_is_no_gain_by_text(medicine: FittedLaw) -> None:
    """Twice so little text makes no stage, and the general text binds: all that either gains is the part of a step that the plan leaves over."""
    answer = allocate(medicine, Request(2e13, 5e3, general_tokens=5e5))
    assert 1e-3 < answer.worths[1].lower_percent < 1e-2
    assert answer.exchange.startswith("another 5k distinct specialist tokens would gain nothing here; no gain can be given for one more epoch")


def test_text_is_worth_what_a_search_says_where_inference_takes_most(medicine: FittedLaw) -> None:
    request = Request(2e13, 2e5, inference_tokens=1e8)
    factor, low, high = _factor(allocate(medicine, request).exchange)
    more = allocate(medicine, replace(request, flops=factor * request.flops)).plan.loss
    assert more == pytest.approx(allocate(medicine, replace(request, unique_spec=4e5)).plan.loss, rel=2e-3)
    assert 1.3 < low <= factor <= high < 1.6


def test_compute_that_buys_no_more_ends_the_search() -> None:
    def flat(factor: float) -> Array:
        return np.minimum(saturating(factor), 0.03)

    said = exchange_of(1e13, 4e5, COMPUTE, TEXT, flat, 1e4)
    assert "are worth more than 1e+17 FLOPs here: 10,000 times the compute would not" in said

    def refused(factor: float) -> Array:
        raise DataError("no plan", remedy="")

    assert "would not lower the loss as much" in exchange_of(1e13, 4e5, COMPUTE, TEXT, refused, 1e4)


def test_a_looser_limit_has_a_price_for_a_guess_too() -> None:
    """A plan rounded to whole steps may miss the limit by a hair, which made the price minus infinity."""
    folder = SWEEPS / "computing"
    law, general = recorded("computing"), FittedLaw.load(folder / "replay" / "law_general.json")
    request = Request(8e13, 2e5, max_general_rise=0.05)
    answer = allocate(law, request, general=general, robust=False, allow_extrapolation=True)
    eased = next(row for row in answer.worths if "may rise 6 % instead of 5" in row.change)
    assert np.isfinite([eased.lower_percent, eased.low, eased.high]).all() and eased.lower_percent > -0.05


def _epoch(answer: Allocation) -> Worth:
    return next(row for row in answer.worths if row.change.startswith(("one more epoch", "one epoch")))


@pytest.mark.parametrize("request_", [Request(2e13, 2e5), Request(1e13, 2e6), Request(2e13, 2e5, params=3e5), Request(2e15, 2e5, general_tokens=3e6)])
@pytest.mark.parametrize("robust", [True, False])
def test_one_more_epoch_than_is_best_costs_what_all_else_divided_anew_says(medicine: FittedLaw, request_: Request, robust: bool) -> None:
    """Against every shape with that many specialist tokens, and as many general ones as budget and text allow."""
    answer = allocate(medicine, request_, robust=robust, allow_extrapolation=True)
    plan, priced, problem = answer.plan, _epoch(answer), Problem.of(medicine, request_)
    spec = plan.tokens_spec + plan.unique_spec
    assert f"{format_number(spec / plan.unique_spec)} in all, for the same budget" in priced.change
    sizes = [plan] if request_.params else problem.every(0.3 * plan.params_non_embedding, 3 * plan.params_non_embedding)
    size = {name: np.array([getattr(item, f"params_{name}") for item in sizes]) for name in ("non_embedding", "total")}
    cost = np.array([problem.size(item.params_non_embedding).flops_per_token for item in sizes])
    left = np.minimum(request_.flops / cost - spec, request_.general_tokens or np.inf)
    left = np.where(left < problem.min_tokens_stage, np.minimum(left, 0.0), left)
    keep = (left >= 0) & (left + spec >= problem.shortest * size["non_embedding"])
    points = medicine.points({name: values[keep] for name, values in size.items()}, left[keep], spec, plan.unique_spec)
    losses = medicine.log_loss_resamples(points, MOST_RESAMPLES)
    best = losses[:, (losses.mean(0) if robust else medicine.log_loss(points)).argmin()]
    shape = {"non_embedding": np.array([plan.params_non_embedding]), "total": np.array([plan.params_total])}
    mine = medicine.log_loss_resamples(medicine.points(shape, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec]), MOST_RESAMPLES)[:, 0]
    assert priced.lower_percent == pytest.approx(-100 * np.expm1((best - mine).mean()), abs=0.01) and priced.lower_percent < 0.01
    assert priced.low == pytest.approx(np.quantile(-100 * np.expm1(best - mine), 0.05), abs=0.05)


def test_one_more_epoch_is_looked_for_among_sizes_far_from_the_first_ones() -> None:
    """It takes nearly all of the budget, and of the sizes that were looked at first the best is the largest."""
    law, request = recorded("computing"), Request(4e12, 3e6)
    answer = allocate(law, request, allow_extrapolation=True)
    plan, problem = answer.plan, Problem.of(law, request)
    sizes = [size for size in problem.every(1e4, 2e6) if problem.trainable(size, problem.min_tokens_per_param)]
    spec = np.full(len(sizes), plan.tokens_spec + plan.unique_spec)
    left = np.array([problem.tokens(size) for size in sizes]) - spec
    keep = (left >= 0) & (left < problem.min_tokens_stage)  # all but a few of its sizes have room for specialist text alone
    shapes = {name: np.array([getattr(size, f"params_{name}") for size in sizes])[keep] for name in ("non_embedding", "total")}
    losses = law.log_loss_resamples(law.points(shapes, np.zeros(int(keep.sum())), spec[keep], spec[keep] * 0 + plan.unique_spec)).mean(0)
    mine = law.log_loss_resamples(law.points(plan.params_by, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec])).mean()
    assert _epoch(answer).lower_percent >= -100 * np.expm1(losses.min() - mine) - 0.02


def test_one_more_epoch_under_a_limit_leaves_general_text_out_as_the_plan_does() -> None:
    folder = SWEEPS / "computing"
    law, general = recorded("computing"), FittedLaw.load(folder / "replay" / "law_general.json")
    request = Request(2e13, 2e5, max_general_rise=0.03)
    answer = allocate(law, request, general=general)
    plan, problem = answer.plan, Problem.of(law, request, general)
    assert plan.flops < 0.95 * request.flops
    spec, best = plan.tokens_spec + plan.unique_spec, np.inf
    nearby = problem.every(plan.params_non_embedding / 1.5, 1.5 * plan.params_non_embedding)
    sizes = tuple(size for size in nearby if problem.trainable(size, problem.min_tokens_per_param))
    for part in np.linspace(0.02, 1.0, 50):
        total = np.array([part * problem.tokens(size) for size in sizes])
        rows = np.flatnonzero(total > spec)
        made = Plans(rows, np.array([sizes[row].params_non_embedding for row in rows]), (total - spec)[rows], np.full(len(rows), spec),
                     np.full(len(rows), plan.unique_spec), sizes)  # fmt: skip
        found = leading(problem, made.rows(problem.enough(made)))
        best = min(best, float(found.expected.min())) if len(found.plans) else best
    mine = float((law.log_loss_resamples(law.points(plan.params_by, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec]), MOST_RESAMPLES)).mean())
    mine += float(cost(plan.replay_fraction))
    assert -0.3 < _epoch(answer).lower_percent < 0 and _epoch(answer).lower_percent == pytest.approx(-100 * np.expm1(best - mine), abs=0.02)


def test_an_epoch_without_a_price_says_why(medicine: FittedLaw) -> None:
    def told(answer: Allocation) -> str:
        assert not any("epoch" in row.change for row in answer.worths)
        return answer.exchange.split("; ")[-1]

    folder = SWEEPS / "computing"
    law, general = recorded("computing"), FittedLaw.load(folder / "replay" / "law_general.json")
    short, kept = (allocate(law, Request(2e13, text, max_general_loss=3.0), general=general) for text in (2e5, 4e5))
    assert kept.plan.tokens_spec == 0
    why = "it is 200k tokens, but a stage takes at least 205k"
    assert told(short) == f"no gain can be given for one epoch over the specialist text, for the same budget: {why}"
    assert told(kept).endswith(": no plan with it keeps the limit on the general loss")
    assert told(allocate(medicine, Request(1e11, 1e9))).endswith("for the same budget: the budget cannot train any size with it")
    assert told(allocate(medicine, Request(2e13, 1.0))).endswith("all passes together are below a stage's minimum of 205k tokens")


@pytest.mark.parametrize("robust", [True, False])
def test_passes_that_bind_are_priced_as_more_of_them_allowed(medicine: FittedLaw, robust: bool) -> None:
    """Among them those which all together make no stage."""
    for unique, most in ((1e5, 4.0), (2e4, 10.0)):
        answer, more = (allocate(medicine, Request(2e13, unique, max_epochs=passes), robust=robust) for passes in (most, most + 1))
        priced = _epoch(answer)
        assert priced.change == "one more epoch over the specialist text"
        assert priced.lower_percent == pytest.approx(100 * (1 - more.plan.loss / answer.plan.loss), abs=0.3) and priced.lower_percent > 0.1
