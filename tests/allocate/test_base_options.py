"""What a base shares with a model of one's own: inference that is paid, plans within a tolerance, the best guess; against brute force over a fine grid."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.base import Base
from planner.allocate.bases import allocate_bases
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.request import Request
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token, forward_flops_per_token
from planner.method import Method

UNIQUE = 2e5
LARGE, SMALL = (Base.parse(f"name={name},params={params},tokens=2M,context=128,vocab=1024") for name, params in (("large", "300k"), ("small", "60k")))
BOTH = (LARGE, SMALL)


def resampled(law: FittedLaw, base: Base, spec: Sequence[float]) -> np.ndarray:
    """Return ln L after each amount, shape (resamples, amounts), with the counts of the law's own vocabulary."""
    count = len(spec)
    size = {"non_embedding": np.full(count, float(base.shape.params_non_embedding)), "total": np.full(count, float(base.params_total(1024)))}
    return law.log_loss_resamples(law.points(size, np.full(count, base.tokens), np.asarray(spec), np.full(count, UNIQUE)), MOST_RESAMPLES)


def brute(law: FittedLaw, base: Base, flops: float, inference: float, epochs: float, method: Method | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return every thousandth of the specialist tokens that the budget and the passes allow, and the mean of ln L after each."""
    left = flops - inference * flops_per_token(base.shape, 128) / 3
    most = min(left / (method or Method()).flops_per_token(base.shape, 128), epochs * UNIQUE)
    spec = np.linspace(0, most, 4001)
    return spec, resampled(law, base, spec).mean(0)


@pytest.mark.parametrize("method", ["full", "qlora"])
@pytest.mark.parametrize("inference", [0.0, 3e5, 6e5, 8e5, 9.2e5])
def test_inference_is_paid_at_the_base_s_own_forward_cost(fitted: FittedLaw, inference: float, method: str) -> None:
    """The best amount of each base and the best base, against every thousandth of what the budget leaves."""
    flops, way = 9e11, Method(method, 4)
    answer = allocate_bases(fitted, Request(flops, UNIQUE, max_epochs=8, inference_tokens=inference), BOTH, way)
    least = {}
    for base in BOTH:
        spec, loss = brute(fitted, base, flops, inference, 8, way)
        least[base.name] = loss.min()
        choice = next(choice for choice in answer.choices if choice.base == base.name)
        mine = resampled(fitted, base, [choice.plan.tokens_spec]).mean()
        assert loss.min() - 1e-9 <= mine + 1e-5 and mine <= loss.min() + 1e-4
        assert choice.plan.flops_inference == pytest.approx(inference * forward_flops_per_token(base.shape, 128))
        assert choice.plan.flops + choice.plan.flops_inference <= flops * (1 + 1e-9)
        assert choice.plan.tokens_spec <= spec[-1] * (1 + 1e-9)
    assert [choice.base for choice in answer.choices] == sorted(least, key=lambda name: least[name])
    other = answer.scratch.plan
    assert other is not None and 0.98 * flops < other.flops + other.flops_inference <= flops * (1 + 1e-9)
    assert (other.flops_inference > 0) == (inference > 0)


def test_inference_changes_the_choice(fitted: FittedLaw) -> None:
    """A large base is best until its inference leaves too little to specialise it with, and is left out where it leaves nothing."""
    best = {tokens: allocate_bases(fitted, Request(9e11, UNIQUE, max_epochs=8, inference_tokens=tokens), BOTH, Method()) for tokens in (0.0, 9.2e5, 2e6)}
    assert [answer.choices[0].base for answer in best.values()] == ["large", "small", "small"]
    excluded = best[2e6]
    assert [choice.base for choice in excluded.choices] == ["small"]
    over = LARGE.flops_inference(2e6) - 9e11
    assert excluded.left_out == {"large": f"its inference takes {over + 9e11:.3g} FLOPs, {over:.3g} more than the budget"}
    assert any(text.startswith("left out: large: its inference takes") for text in excluded.warnings)


@pytest.mark.parametrize("robust", [True, False])
def test_more_inference_never_forecasts_better(fitted: FittedLaw, robust: bool) -> None:
    found: list[list[float]] = []
    for tokens in np.linspace(0, 9.5e5, 13):
        answer = allocate_bases(fitted, Request(9e11, UNIQUE, inference_tokens=float(tokens)), BOTH, Method(), robust=robust)
        ends = {choice.base: choice.plan for choice in answer.choices}
        loss = [float(resampled(fitted, base, [ends[base.name].tokens_spec]).mean()) if robust else np.log(ends[base.name].loss) for base in BOTH]
        assert answer.scratch.plan is not None
        found.append([*loss, min(loss), np.log(answer.scratch.plan.loss)])
    steps = np.diff(np.array(found), axis=0)
    assert (steps[:, :3] >= -2e-5).all() and (steps[:, 3] >= -2e-3).all()  # a model of one's own is rounded to whole steps
    assert (np.array(found)[-1] > np.array(found)[0] + 0.01).all()


def test_inference_that_no_base_can_pay_is_refused(fitted: FittedLaw) -> None:
    needed = SMALL.flops_inference(1e9)
    with pytest.raises(DataError) as caught:
        allocate_bases(fitted, Request(9e11, UNIQUE, inference_tokens=1e9), BOTH, Method())
    text = str(caught.value)
    said = f"1B inference tokens of small take {needed:.3g} FLOPs, {needed - 9e11:.3g} more than the budget of 9e+11"
    assert f"{said}; the other bases need even more" in text
    least = float(text.split("give at least ")[1].split(" FLOPs")[0])
    assert allocate_bases(fitted, Request(1.001 * least, UNIQUE, inference_tokens=1e9), BOTH, Method()).choices[0].base == "small"
    with pytest.raises(DataError, match="steps of one sequence of 128 tokens of small in addition to .* FLOPs of its inference"):
        allocate_bases(fitted, Request(1.00001 * needed, UNIQUE, inference_tokens=1e9), BOTH, Method())


def test_a_share_kept_back_must_pay_the_inference(fitted: FittedLaw) -> None:
    request = Request(9e11, UNIQUE, inference_tokens=1e6)
    answer = allocate_bases(fitted, request, [SMALL], Method(), kept_back=(0.2,))
    less = allocate_bases(fitted, replace(request, flops=0.8 * 9e11), [SMALL], Method())
    assert answer.kept[0].tokens_spec == less.choices[0].plan.tokens_spec
    with pytest.raises(InputError, match="--kept-back 0.9 leaves 9e.10 FLOPs, but the inference of small alone takes"):
        allocate_bases(fitted, request, [SMALL], Method(), kept_back=(0.9,))


def test_a_base_that_only_its_inference_is_paid_of_stays_as_it_is(fitted: FittedLaw) -> None:
    answer = allocate_bases(fitted, Request(LARGE.flops_inference(1e6), UNIQUE, inference_tokens=1e6), BOTH, Method())
    large = next(choice for choice in answer.choices if choice.base == "large")
    assert (large.plan.tokens_spec, large.plan.flops, large.gain_percent, large.tokens_within) == (0, 0, 0, (0, 0))
    assert large.plan.loss == large.loss_before and large.cheapest == large.plan
    assert not answer.longer and allocate_bases(fitted, Request(9e11, UNIQUE), BOTH, Method()).longer  # what it would gain is not known from this


def test_a_stage_too_short_to_train_is_said(fitted: FittedLaw) -> None:
    flops = 1.0005 * LARGE.flops_inference(1e6)
    answer = allocate_bases(fitted, Request(flops, UNIQUE, inference_tokens=1e6), BOTH, Method())
    large = next(choice for choice in answer.choices if choice.base == "large")
    short = any(text.startswith("large: the budget left after its inference") for text in answer.warnings)
    assert short == (0 < large.plan.tokens_spec < 200 * 128)
    assert short


@pytest.mark.parametrize(
    ("tolerance", "flops", "epochs"), [(0.002, 9e11, 8.0), (0.01, 9e11, 8.0), (0.005, 3e13, 40.0), (0.03, 3e13, 40.0), (0.2, 9e11, 8.0)]
)
def test_the_plans_within_the_tolerance_are_those_of_brute_force(fitted: FittedLaw, tolerance: float, flops: float, epochs: float) -> None:
    request = Request(flops, UNIQUE, max_epochs=epochs, tolerance=tolerance, inference_tokens=2e5)
    answer = allocate_bases(fitted, request, BOTH, Method())
    best = {}
    for base in BOTH:
        spec, loss = brute(fitted, base, flops, 2e5, epochs)
        good = spec[loss <= loss.min() + np.log1p(tolerance)]
        choice = next(choice for choice in answer.choices if choice.base == base.name)
        best[base.name] = resampled(fitted, base, [choice.plan.tokens_spec]).mean()
        assert choice.tokens_within is not None and choice.epochs_within is not None and choice.cheapest is not None
        room = 0.02 * (good[-1] - good[0]) + 2 * spec[1]
        assert choice.tokens_within == pytest.approx((good[0], good[-1]), abs=room)
        assert choice.epochs_within == pytest.approx([tokens / UNIQUE for tokens in choice.tokens_within])
        assert choice.tokens_within[0] <= choice.plan.tokens_spec <= choice.tokens_within[1]
        assert choice.cheapest.tokens_spec == choice.tokens_within[0]
        assert choice.cheapest.flops <= choice.plan.flops and choice.cheapest.flops_inference == choice.plan.flops_inference
        assert resampled(fitted, base, [choice.cheapest.tokens_spec]).mean() <= best[base.name] + np.log1p(tolerance) + 1e-6
    for choice in answer.choices:
        behind = best[choice.base] - min(best.values())
        assert choice.higher_percent == pytest.approx(100 * np.expm1(behind), abs=1e-3)
        assert choice.as_good == (behind <= np.log1p(tolerance))
    assert answer.choices[0].higher_percent == 0 and answer.choices[0].as_good


def test_a_wider_tolerance_has_more_plans(fitted: FittedLaw) -> None:
    spans = []
    for tolerance in (0.001, 0.005, 0.02, 0.1):
        choice = allocate_bases(fitted, Request(3e13, UNIQUE, tolerance=tolerance), [LARGE], Method()).choices[0]
        assert choice.tokens_within is not None
        spans.append(choice.tokens_within)
    low, high = np.array(spans).T
    assert (np.diff(low) <= 0).all() and (np.diff(high) >= 0).all() and low[-1] < 0.5 * low[0]


def test_the_best_guess_is_that_of_the_fitted_parameters(fitted: FittedLaw) -> None:
    """Where the resamples lie to one side of the fitted parameters, the two differ: here they are made to."""
    member = fitted.members[0]
    names = [parameter.name for parameter in member.law.parameters]
    harm = member.resamples.copy()
    harm[:, names.index("P")] *= 30  # many passes do harm, under every resample but not the fitted parameters
    law = replace(fitted, members=(replace(member, resamples=harm),))
    request = Request(1e13, UNIQUE, max_epochs=40)
    robust, guess = (allocate_bases(law, request, BOTH, Method(), robust=robust) for robust in (True, False))
    size = {"non_embedding": np.array([1.0]), "total": np.array([1.0])}
    least = {}
    for base in BOTH:
        spec, _ = brute(law, base, 1e13, 0.0, 40)
        size = {"non_embedding": np.full(4001, float(base.shape.params_non_embedding)), "total": np.full(4001, float(base.params_total(1024)))}
        loss = law.log_loss(law.points(size, np.full(4001, base.tokens), spec, np.full(4001, UNIQUE)))
        least[base.name] = float(loss.min())
        plan = next(choice.plan for choice in guess.choices if choice.base == base.name)
        assert np.log(plan.loss) <= loss.min() + 1e-4
    assert [choice.base for choice in guess.choices] == sorted(least, key=lambda name: least[name])
    assert robust.best_guess is not None and guess.best_guess is not None and robust.best_guess == guess.best_guess
    assert guess.best_guess.base == guess.choices[0].base and guess.best_guess.plan == guess.choices[0].plan
    assert guess.choices[0].plan.tokens_spec > 1.2 * robust.choices[0].plan.tokens_spec
    assert guess.choices[0].tokens_within == robust.choices[0].tokens_within


def test_the_file_has_what_was_asked_of_which_bases(fitted: FittedLaw, tmp_path: Path) -> None:
    answer = allocate_bases(fitted, Request(9e11, UNIQUE, inference_tokens=1e5), BOTH, Method())
    answer.save(tmp_path / "a.json", {})
    body = json.loads((tmp_path / "a.json").read_text())
    assert [Base.from_dict(item) for item in body["request"]["bases"]] == list(BOTH)
    assert body["choices"][0]["cheapest"]["flops_inference"] > 0 and body["best_guess"]["base"] in ("large", "small") and body["left_out"] == {}


def test_a_stage_of_a_few_steps_is_said_so(fitted: FittedLaw) -> None:
    said = " ".join(allocate_bases(fitted, Request(9e11, 1e4, max_epochs=1), BOTH).warnings)
    assert "large: its best stage is less than 200 steps of one sequence of 128 tokens" in said
    assert "200 steps" not in " ".join(allocate_bases(fitted, Request(9e11, UNIQUE, max_epochs=4), BOTH).warnings)


def test_a_base_too_far_from_the_runs_is_not_told_to_choose_params(fitted: FittedLaw) -> None:
    far = Base.parse("name=far,params=1B,tokens=2M,context=128,vocab=1024")
    with pytest.raises(DataError, match="too far beyond the runs") as refusal:
        allocate_bases(fitted, Request(2e14, UNIQUE), [far])
    assert "--params" not in (refusal.value.remedy or "")


def test_under_a_limit_more_budget_never_forecasts_worse(fitted: FittedLaw, general: FittedLaw) -> None:
    """The amounts that are tried do not move with the budget, and the edge of the limit is found to a thousandth."""
    losses = []
    for flops in np.geomspace(4e11, 3e12, 9):
        request = Request(float(flops), UNIQUE, max_general_rise=0.03)
        losses.append(allocate_bases(fitted, request, [SMALL], Method(), general=general, allow_extrapolation=True).choices[0].plan.loss)
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(losses)), losses


def test_time_that_binds_a_base_is_told_and_what_is_kept_back_does_not_take_it(fitted: FittedLaw) -> None:
    free = allocate_bases(fitted, Request(9e11, UNIQUE), [SMALL], Method()).choices[0].plan
    within = Request(9e13, UNIQUE, inference_tokens=1e5, training_flops=0.3 * free.flops)
    answer = allocate_bases(fitted, within, [SMALL], Method(), kept_back=(0.3,))
    assert answer.choices[0].plan.flops == pytest.approx(0.3 * free.flops, rel=0.02)
    assert any("the time limit on training binds" in text for text in answer.warnings)
    assert answer.kept[0].higher_percent == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("flops", "most", "told"), [(9e11, None, "the budget pays for"), (9e13, None, ""), (9e13, 2.0, ""), (2.5e12, 3.0, "")])
def test_one_more_epoch_of_a_base_has_its_price_or_the_reason_why_not(fitted: FittedLaw, flops: float, most: float | None, told: str) -> None:
    """A pass on top of the best amount, or as much of it as is paid where the passes allowed bind; the budget has no other use."""
    request = Request(flops, UNIQUE, max_epochs=most)
    answer = allocate_bases(fitted, request, [SMALL], Method(), allow_extrapolation=True)
    rows, plan = [row for row in answer.worths if "epoch" in row.change], answer.choices[0].plan
    if told:
        paid = f"{told} {flops / plan.flops * plan.tokens_spec / 1e6:.3g}M tokens"
        assert not rows and answer.exchange.endswith(f"for the same budget: {paid}, but the stage would take {(plan.tokens_spec + UNIQUE) / 1e6:.3g}M")
        return
    paid = flops / flops_per_token(SMALL.shape, 128)
    losses = resampled(fitted, SMALL, [plan.tokens_spec, min(plan.tokens_spec + UNIQUE, paid)])
    assert len(rows) == 1 and "no gain can be given" not in answer.exchange
    assert rows[0].lower_percent == pytest.approx(-100 * np.expm1((losses[:, 1] - losses[:, 0]).mean()), abs=2e-3)
    assert (rows[0].lower_percent > 0.1) == (most is not None)


def test_what_holds_a_base_is_named_where_no_number_of_gpus_does(fitted: FittedLaw) -> None:
    """The matrices that QLoRA packs are whole on each GPU, and so is one sequence."""
    def refused(method: str, memory: float, gpus: int = 1) -> DataError:
        with pytest.raises(DataError) as found:
            allocate_bases(fitted, Request(9e13, UNIQUE, memory_per_gpu=memory, gpus=gpus), [LARGE], Method(method))
        return found.value

    sequence, packed = (Method(name).whole_bytes(LARGE.shape, 128) for name in ("full", "qlora"))
    error = refused("full", 1.3 * sequence)
    named = {method or "full": int(count) for method, count in re.findall(r"(?:--method (\w+) with )?at least (\d+) --gpus", error.remedy or "")}
    assert list(named) == ["full", "lora", "qlora"] and named["full"] > named["lora"] > 1
    for method, count in named.items():
        allocate_bases(fitted, Request(9e11, UNIQUE, memory_per_gpu=1.3 * sequence, gpus=count), [LARGE], Method(method))
        refused(method, 1.3 * sequence, count - 1)
    error = refused("qlora", (sequence + packed) / 2, 1000)
    assert "on every GPU, however many there are" in str(error) and (error.remedy or "").startswith("give --method lora, a smaller base or GPUs of more")
    error = refused("full", 0.9 * sequence, 1000)
    assert "--gpus" not in str(error.remedy) and "context= if sequences are shorter than 128 tokens" in str(error.remedy)


def test_all_that_is_too_little_for_a_base_is_said_at_once(fitted: FittedLaw) -> None:
    """And what is named for all of it does."""
    needed = 200 * 128 * flops_per_token(SMALL.shape, 128)
    memory = Method().bytes_per_gpu(SMALL.shape, 1, 128)
    poor = Request(0.5 * needed, UNIQUE, training_flops=0.1 * needed, inference_tokens=1e6, memory_per_gpu=0.99 * memory)
    with pytest.raises(DataError) as found:
        allocate_bases(fitted, poor, [SMALL], Method())
    said, remedy = str(found.value), found.value.remedy or ""
    assert "on each of 1 GPUs" in said and "FLOPs of the time limit do not pay for 200 steps" in said and "more than the budget" in said
    gpus, time, budget = (re.search(what, remedy) for what in (r"at least (\d+) --gpus", r"time for (\S+) FLOPs", r"at least (\S+) FLOPs"))
    assert gpus and time and budget
    enough = replace(poor, flops=float(budget[1]), training_flops=float(time[1]), gpus=int(gpus[1]))
    assert allocate_bases(fitted, enough, [SMALL], Method(), allow_extrapolation=True).choices[0].plan.tokens_spec > 0
    alone = Request(0.5 * needed, UNIQUE, training_flops=0.5 * needed)  # nothing but time was given
    with pytest.raises(DataError, match="FLOPs of the time limit") as found:
        allocate_bases(fitted, alone, [SMALL], Method())
    assert "at least" not in (found.value.remedy or "")
