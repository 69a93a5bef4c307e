"""Ladder and FLOPs against the real models and torch's own counter."""

import pytest

from planner.flops import forward_flops_per_token
from planner.ladder import shape_for
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
