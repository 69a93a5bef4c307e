"""What is refused, or left out, for want of something: by the name of what there is too little of, and with the least that would do."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from planner.allocate.allocate import allocate
from planner.allocate.plan_warnings import tell_memory
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.ladder import GAP

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def medicine() -> FittedLaw:
    return FittedLaw.load(ROOT / "sweeps" / "medicine" / "law.json")


def refused(law: FittedLaw, request: Request) -> DataError:
    with pytest.raises(DataError) as found:
        allocate(law, request, allow_extrapolation=True)
    return found.value


@pytest.mark.parametrize("limits", [
    {"params_range": (1.03e5, 5e5)}, {"params_range": (3e5, 3.2e5)}, {"params_range": (1.03e5, 5e5), "inference_tokens": 1e7},
    {"params_range": (2.2e7, 1e8)}, {"params": 5e5}, {},
])  # fmt: skip
def test_a_budget_that_is_named_does_and_a_little_less_does_not(medicine: FittedLaw, limits: dict[str, object]) -> None:
    """Of a range the nearest shape to its lower end may be the dearest there, or lie outside."""
    request = replace(Request(1e9, 1e12), **limits)  # type: ignore[arg-type]
    least = float(re.findall(r"at least (\S+) FLOPs", str(refused(medicine, request)))[0])
    refused(medicine, replace(request, flops=0.998 * least))
    assert allocate(medicine, replace(request, flops=least), allow_extrapolation=True).plan.flops <= least


def test_an_amount_of_text_that_is_named_does() -> None:
    """271k parameters take 543.7k tokens at least, which are 544k to three digits and too few to four."""
    law = FittedLaw.load(ROOT / "sweeps" / "three" / "computing" / "law.json")
    asked = Request(1e13, 119.0, max_epochs=0.5, general_tokens=60558.0, params=271e3)
    with pytest.raises(DataError, match="are each too few for a stage") as caught:
        allocate(law, asked, allow_extrapolation=True)
    (named,) = re.findall(r"give ([\d.]+)k tokens", caught.value.remedy)
    assert allocate(law, replace(asked, general_tokens=1e3 * float(named)), allow_extrapolation=True).plan.tokens_pt > 0


def test_a_smaller_size_is_a_remedy_where_there_is_one(medicine: FittedLaw) -> None:
    assert "--params" not in str(refused(medicine, Request(1e10, 2e5)))
    assert "or a smaller --params" in str(refused(medicine, Request(1e12, 2e5, params=1e6)))
    assert "--params" not in str(refused(medicine, Request(1e10, 2e5, params=1e6))), "none can be trained with so little"
    assert str(refused(medicine, Request(2e13, 2e5, params=1e6, memory_per_gpu=1e3))).endswith("give GPUs of more --gpu-memory.")


def test_as_many_gpus_as_are_named_hold_a_size_and_none_are_where_no_number_does(medicine: FittedLaw) -> None:
    """One sequence is whole on each."""
    request = Request(2e13, 2e5, params=1e6, memory_per_gpu=4e6)
    gpus = int(re.findall(r"give at least (\d+) --gpus", str(refused(medicine, request)))[0])
    assert allocate(medicine, replace(request, gpus=gpus)).plan.tokens_pt > 0
    refused(medicine, replace(request, gpus=gpus - 1))
    problem = Problem.of(medicine, request)
    whole = problem.whole_bytes(problem.size(1e6))
    assert 1e6 < whole < 4e6 and problem.bytes_per_gpu(problem.size(1e6)) > whole
    error = refused(medicine, replace(request, memory_per_gpu=whole, gpus=10_000))
    assert "on every GPU, however many there are" in str(error) and "--gpus" not in str(error.remedy) and "--gpu-memory" in str(error.remedy)


def test_a_budget_that_is_time_alone_is_told_as_time(medicine: FittedLaw) -> None:
    error = refused(medicine, Request(1e10, 2e5, params=1e6, training_flops=1e10))
    assert str(error).startswith("the 1e+10 FLOPs of the time limit are too few to train 1.01M parameters; give time for ")
    assert "at least" not in str(error)


def test_sizes_that_are_left_out_are_too_large_for_what_binds(medicine: FittedLaw) -> None:
    def told(request: Request) -> list[str]:
        return [text for text in allocate(medicine, request, allow_extrapolation=True).warnings if "left out" in text]

    sizes = (1e5, 3e6, 5e6)
    text = Request(1e16, 2e5, general_tokens=2e6, max_epochs=4, params_among=sizes)
    assert told(text) == ["2 of the 3 sizes of --params are too large for the available text and were left out"]
    assert told(Request(2e13, 2e5, params_among=sizes)) == ["2 of the 3 sizes of --params are too large for the budget and were left out"]
    time = Request(2e15, 2e5, params_among=sizes, inference_tokens=1e6, training_flops=1.5e14)
    assert told(time) == ["1 of the 3 sizes of --params is too large for the time limit on training and was left out"]
    both = Request(2e13, 2e5, params_among=(1e5, 6e5, 5e6), memory_per_gpu=6e6)
    assert told(both) == ["2 of the 3 sizes of --params are too large for the memory and were left out"]


def test_the_memory_binds_only_where_more_of_it_would_let_a_larger_model_be(medicine: FittedLaw) -> None:
    def told(request: Request, params: float) -> list[str]:
        return list(tell_memory(Problem.of(medicine, request), params, "a larger model"))

    tight = Request(2e13, 2e5, memory_per_gpu=6.4e6)
    assert told(tight, 2.1e5) == ["the memory binds, 6.4 MB on each of 1 GPUs: a larger model might be better"]
    assert not told(replace(tight, general_tokens=2e5, max_epochs=1.0), 2.1e5), "the text would not do for a larger one"
    assert not told(replace(tight, params_range=(1e5, 2.1e5)), 2.1e5), "none is asked for"
    assert not told(replace(tight, params=2.1e5), 2.1e5)


def test_all_that_is_too_little_is_said_at_once(medicine: FittedLaw) -> None:
    """What is named does together: no second refusal for another cause."""
    request = Request(1e10, 1e3, general_tokens=5e4, max_epochs=4.0, params=3e5, training_flops=5e9)
    error = refused(medicine, request)
    assert "50k general tokens and 4k specialist tokens with repeats are each too few for a stage of 200 steps" in str(error)
    assert "the 5e+09 FLOPs of the time limit are too few" in str(error) and "1e+10 FLOPs are too few to train" in str(error)
    (text,), (time,), (flops,) = (re.findall(unit, error.remedy or "") for unit in (r"give (\S+)k tokens", r"time for (\S+) FLOPs", r"least (\S+) FLOPs"))
    enough = replace(request, general_tokens=1e3 * float(text), training_flops=float(time), flops=float(flops))
    assert allocate(medicine, enough, allow_extrapolation=True).plan.tokens_pt > 0


def test_text_that_makes_no_stage_counts_for_nothing(medicine: FittedLaw) -> None:
    """150k tokens of each kind are 300k, and no stage of 200 steps."""
    error = refused(medicine, Request(1e13, 1.5e5, general_tokens=1.5e5, max_epochs=1.0, params=1e5))
    assert "are each too few for a stage" in str(error) and (error.remedy or "").startswith("give 204.8k tokens of one kind")
    error = refused(medicine, Request(1e13, 3e5, general_tokens=1.5e5, max_epochs=1.0, params=2e5))
    assert "has 300k tokens with its passes; its 150k general tokens make no stage, too few for" in str(error)


def test_two_stages_where_neither_text_is_enough_alone_take_two_shortest_stages(medicine: FittedLaw) -> None:
    """Of 300k tokens of each kind a model of 152k parameters takes 305k, and two stages take 410k: a budget for less is none."""
    request = Request(1e10, 3e5, general_tokens=3e5, max_epochs=1.0, params=1.52e5)
    least = float(re.findall(r"at least (\S+) FLOPs", str(refused(medicine, request)))[0])
    refused(medicine, replace(request, flops=0.998 * least))
    plan = allocate(medicine, replace(request, flops=least), allow_extrapolation=True).plan
    assert plan.tokens_pt == plan.tokens_spec == 204800


def test_the_least_budget_of_a_range_is_that_of_its_cheapest_shape(medicine: FittedLaw) -> None:
    """Which may lie further up than the shapes nearest to the lower end."""
    checked = 0
    for low in (2.24e4, 3.1e4, 4.4e4, 6.26e4, 8.9e4):
        request = Request(1e9, 1e12, params_range=(low, 4 * low))
        least = float(re.findall(r"at least (\S+) FLOPs", str(refused(medicine, request)))[0])
        problem = Problem.of(medicine, request)
        costs = [problem.least_tokens(size, problem.min_tokens_per_param) * size.flops_per_token for size in problem.every(low, 4 * low)]
        assert least == pytest.approx(min(costs), rel=1e-3)
        checked += len(costs)
    assert checked > 100


def test_ends_between_two_shapes_are_no_end(medicine: FittedLaw) -> None:
    """The ladder has gaps of up to a tenth where models are small."""
    shapes = [size.params_non_embedding for size in Problem.of(medicine, Request(1e9, 1e12)).every(1e4, 1e6)]
    assert max(after / before for before, after in itertools.pairwise(shapes)) < GAP


def test_a_range_without_a_shape_names_the_nearest(medicine: FittedLaw) -> None:
    for low, high in ((27970.0, 28109.0), (2e12, 3e12)):
        error = refused(medicine, Request(1e9, 1e12, params_range=(low, high)))
        assert "no model shape has" in str(error)
        for near in re.findall(r"\d[\d,]+", error.remedy or ""):
            assert not low <= float(near.replace(",", "")) <= high


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_range_about_one_shape_has_a_plan_with_all_that_is_shown_beside_it(medicine: FittedLaw) -> None:
    """Of 212,512 and 422,496 parameters no step that was fine enough for all others met the shape; of the last range an arm had no size at all."""
    for low, high, size in ((2.12e5, 2.127e5, 212512), (4.2e5, 4.25e5, 422496), (5.8e5, 5.82e5, 581728)):
        plan = allocate(medicine, Request(1e14, 2e5, params_range=(low, high)), allow_extrapolation=True).plan
        assert plan.params_non_embedding == size
        assert allocate(medicine, Request(1e14, 2e5, params=size), allow_extrapolation=True).plan.params_non_embedding == size


def test_a_stage_that_is_as_short_as_may_be_is_told_of(medicine: FittedLaw) -> None:
    def told(request: Request) -> list[str]:
        return [text for text in allocate(medicine, request, allow_extrapolation=True).warnings if "stage has the minimum of" in text]

    (text,) = told(Request(2e13, 2e4))
    assert text.startswith("the specialist stage has the minimum of 200 steps, 205k tokens")
    assert not told(Request(2e13, 2e5))


@pytest.mark.parametrize("flops", [2.567e12, 4.997e12, 1.8927e13, 6.782e13])
def test_a_larger_shape_that_costs_less_is_not_missed(medicine: FittedLaw, flops: float) -> None:
    """Nor is one that a smaller budget has found: shapes of nearly one size have embeddings of unlike widths."""
    problem = Problem.of(medicine, Request(flops, 2e5))
    found = problem.size(problem.size_range()[1]).params_non_embedding
    steps = [problem.size(found * (1 + 0.002 * step)) for step in range(15)]
    assert max(size.params_non_embedding for size in steps if problem.trainable(size, problem.min_tokens_per_param)) <= 1.003 * found
