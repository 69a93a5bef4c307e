"""The loss of a pass whose logits would take too much, computed over a part of the tokens after the other."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from planner.train import rows as rows_of
from planner.train.full import loop
from planner.train.order import IGNORED
from tests.train.shared import COMMON

VOCAB, ROWS, TOKENS = 160, 3, 32


def model_of(kind: str, tied: bool = True, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    known = {"vocab_size": VOCAB, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": tied, "use_cache": False}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**COMMON, **known, "pad_token_id": None, **settings}))


def measured(model: Any) -> tuple[float, dict[str, torch.Tensor], int]:
    """Return loss, gradients, and the most rows of logits that were there at once."""
    model.zero_grad()
    draw, rows = torch.Generator().manual_seed(1), [0]
    inputs = torch.randint(0, VOCAB, (ROWS, TOKENS), generator=draw)
    targets = torch.randint(0, VOCAB, (ROWS, TOKENS), generator=draw)
    targets[0], targets[1, :20] = IGNORED, IGNORED  # prompts; whole parts of them have no target
    linear = torch.nn.functional.linear

    def counted(hidden: torch.Tensor, weight: torch.Tensor, *bias: Any) -> torch.Tensor:
        if len(weight) == VOCAB:
            rows[0] = max(rows[0], hidden.numel() // hidden.shape[-1])
        return linear(hidden, weight, *bias)

    torch.nn.functional.linear = counted
    try:
        loss = loop.batch_loss(model, inputs, targets)
        loss.backward()
    finally:
        torch.nn.functional.linear = linear
    return float(loss.detach()), {name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None}, rows[0]


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("llama", False), ("mistral", False), ("qwen2", True), ("qwen3", False)])
def test_in_parts_it_is_what_it_is_at_once(kind: str, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind, tied)
    loss, gradients, rows = measured(model)
    assert rows == ROWS * TOKENS
    monkeypatch.setattr(rows_of, "LOGITS_BYTES", 4 * VOCAB * 7)
    again, others, rows = measured(model)
    assert rows == 7
    assert again == pytest.approx(loss, rel=1e-6) and set(others) == set(gradients)
    assert max(float((others[name] - item).abs().max() / item.abs().max()) for name, item in gradients.items()) < 1e-6
    monkeypatch.undo()
    assert measured(model)[0] == loss, "the output layer is as it was"


def test_under_adapters_with_the_output_layer_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries' own deprecations
        model = peft.get_peft_model(model_of("llama"), config)
    loss, gradients, _ = measured(model)
    monkeypatch.setattr(rows_of, "LOGITS_BYTES", 4 * VOCAB * 7)
    again, others, rows = measured(model)
    assert rows == 7 and again == pytest.approx(loss, rel=1e-6) and gradients
    assert max(float((others[name] - item).abs().max() / item.abs().max()) for name, item in gradients.items()) < 1e-6


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_families_that_change_their_logits_stay_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"gemma2": {"final_logit_softcapping": 0.01}, "granite": {"logits_scaling": 8.0}, "cohere": {"logit_scale": 0.1}}[kind]
    model = model_of(kind, **changes)
    loss, _, _ = measured(model)
    monkeypatch.setattr(rows_of, "LOGITS_BYTES", 1)
    again, _, rows = measured(model)
    assert rows == ROWS * TOKENS and again == loss
