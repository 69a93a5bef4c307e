"""Ladder and FLOPs against the real models and torch's own counter."""

import math

import numpy as np
import pytest

from planner.flops import forward_flops_per_token
from planner.ladder import FINE, LARGEST, SMALLEST, shape_for, shapes_at, shapes_between
from planner.recipe import Recipe


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("size", [2e4, 3e5, 4e6])
def test_parameters_and_flops_of_the_real_model(family: str, size: float) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from planner.train.model import build_model

    shape = shape_for(size, family=family, vocab=512)
    model = build_model(shape, Recipe(family=family, seq_len=32), seed=0)
    model.config._attn_implementation = "eager"  # the counter does not know the fused kernel of the CPU
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.params_total
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros((1, 32), dtype=torch.long))
    assert counter.get_total_flops() == pytest.approx(32 * forward_flops_per_token(shape, 32), rel=1e-3)  # rotary angles are counted there


@pytest.mark.parametrize("size", [1e4, 1e6, 7e9, 4e11, 1e12])
def test_the_ladder_meets_the_request(size: float) -> None:
    assert shape_for(size, family="qwen3", vocab=32000).params_non_embedding == pytest.approx(size, rel=0.05)


@pytest.mark.parametrize(("low", "high", "step"), [
    (3e5, 9e5, 2e-4), (SMALLEST, 1.7e4, 1e-3), (9e8, 1.2e9, 2e-4), (0.9 * LARGEST, LARGEST, 2e-4), (SMALLEST, LARGEST, 0.17), (5e5, 5.0001e5, 1e-3),
])  # fmt: skip
def test_shapes_between_two_sizes_are_those_of_each_size_in_turn(low: float, high: float, step: float) -> None:
    """Blocks that are kept begin before a range and end after it; fine steps find what lies between two of them too."""
    sizes = np.exp(step * np.arange(np.ceil(np.log(low) / step), np.floor(np.log(high) / step) + 1))
    one_by_one = dict.fromkeys(shape_for(size, family="llama", vocab=512) for size in [low, *sizes.tolist(), high])
    between = shapes_between(low, high, step, family="llama", vocab=512)
    assert tuple(shape for shape in between if shape in one_by_one) == tuple(one_by_one)
    assert step <= FINE or len(between) == len(one_by_one)
    assert shapes_at(np.array([low, *sizes, high]), family="llama", vocab=512) == tuple(one_by_one)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_all_shapes_between_two_sizes_are_found(family: str) -> None:
    """Some, such as that of 422,496 parameters, are nearest to hardly more than one size."""
    sizes = np.exp(np.arange(math.log(3.1e5), math.log(7e5), 1e-5))
    every = {shape.params_non_embedding for shape in shapes_at(sizes, family=family, vocab=1024)}
    found = {shape.params_non_embedding for shape in shapes_between(3.1e5, 7e5, FINE, family=family, vocab=1024)}
    coarse = {shape.params_non_embedding for shape in shapes_at(np.exp(np.arange(math.log(3.1e5), math.log(7e5), 1e-3)), family=family, vocab=1024)}
    assert found == every and len(coarse) < len(every)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_shape_is_found_again_by_its_own_size(family: str) -> None:
    """Though another may be better for that size: 79,920 parameters for 80,944, say."""
    for low in (2e4, 4e5, 6e7, 9e8, 2e11):
        for shape in shapes_between(low, 1.2 * low, FINE, family=family, vocab=1024):
            again = shape_for(shape.params_non_embedding, family=family, vocab=1024)
            assert again.params_non_embedding == shape.params_non_embedding


def test_the_ends_may_be_a_last_digit_outside() -> None:
    for end, digit in ((SMALLEST, 0.0), (LARGEST, math.inf)):
        assert shape_for(math.nextafter(end, digit), family="qwen3", vocab=512) == shape_for(end, family="qwen3", vocab=512)
