"""The loss whose gradients are found on the way forward is the mean cross entropy, in as many parts as there are rows for."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.adapters import adapted
from planner.train.chunked_cross_entropy import PARTS, ROWS, cross_entropy, has_plain_head, head_loss
from planner.train.loss import mean_loss
from planner.train.model import build_model


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, PARTS * ROWS, PARTS * ROWS + 3])
def test_loss_and_slopes_are_those_of_the_cross_entropy(rows: int) -> None:
    random = torch.Generator().manual_seed(rows)
    # Logits of up to some 30: without the shift by the largest, exponentials would be off.
    hidden, weight = (torch.randn(*shape, generator=random, dtype=torch.float64).mul_(3).requires_grad_() for shape in ((rows, 7), (50, 7)))
    targets = torch.randint(0, 50, (rows,), generator=random)
    values = [cross_entropy(hidden, weight, targets), torch.nn.functional.cross_entropy(hidden @ weight.T, targets)]
    slopes = [torch.autograd.grad(2 * value, (hidden, weight)) for value in values]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
    assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-15) for pair in zip(*slopes, strict=True))


def test_large_logits_overflow_nothing() -> None:
    hidden, weight = torch.full((3, 2), 100.0, requires_grad=True), torch.tensor([[100.0, 0.0], [0.0, 99.0]])
    assert cross_entropy(hidden, weight, torch.tensor([0, 0, 1])).item() == pytest.approx(100 / 3)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_it_is_that_of_a_model_of_the_ladder(family: str) -> None:
    recipe = Recipe(seq_len=48)
    model = build_model(shape_for(2e4, family=family, vocab=64), recipe, seed=0)
    words = torch.randint(0, 64, (9, 49), generator=torch.Generator().manual_seed(0))
    inputs, targets = words[:, :-1], words[:, 1:]
    values = [mean_loss(model, inputs, targets, True), head_loss(model, inputs, targets)]
    slopes = [torch.autograd.grad(value, list(model.parameters())) for value in values]
    assert has_plain_head(model) and values[1].item() == pytest.approx(values[0].item(), rel=1e-6)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*slopes, strict=True))


def test_other_models_keep_their_own_way() -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    recipe, shape = Recipe(seq_len=16, lora_rank=2), shape_for(1e4, family="qwen3", vocab=64)
    assert not has_plain_head(build_model(shape, recipe, seed=0).to(torch.bfloat16))
    assert not has_plain_head(adapted(build_model(shape, recipe, seed=0), shape, recipe, "lora", 0))
