"""Attention goes without a mask where every layer sees all earlier tokens, compiled and not, and is that of transformers."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from planner.corpus.store import Corpus
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.train.attention import UNMASKED
from planner.train.loss import mean_loss
from planner.train.model import build_model
from planner.train.start import open_checkpoint
from tests.train.shared import checkpoint


def asked(model: Any, words: Any) -> list[tuple[bool, bool]]:
    """Tell of every attention that is compiled whether it has a mask, and whether it is causal by the kernel's own flag."""
    graphs: list[Any] = []

    def look(graph: Any, given: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    torch.compile(mean_loss, backend=look, dynamic=False)(model, words, words, True)
    nodes = [node for graph in graphs for node in graph.graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    return [(node.kwargs.get("attn_mask") is not None, bool(node.kwargs.get("is_causal"))) for node in nodes]


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_model_of_the_ladder_has_the_fused_kernels_own_causal_attention(tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    shape = shape_for(2e4, family=family, vocab=64)
    model = build_model(shape, Recipe(seq_len=16), seed=0)
    words = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    assert asked(model, words) == [(False, True)] * shape.layers
    model.save_pretrained(tmp_path)
    assert UNMASKED not in (tmp_path / "config.json").read_text()
    usual = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert usual.config._attn_implementation == "sdpa" and torch.equal(usual(words).logits, model(words).logits)
    assert asked(usual, words) == [(True, False)] * shape.layers, "transformers makes none by itself now: planner/train/attention.py can go"


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    ("kind", "settings", "unmasked"),
    [
        ("llama", {}, True),
        ("qwen2", {}, True),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 5}, False),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}, False),
    ],
)
def test_so_has_an_open_checkpoint_without_windows(tmp_path: Path, corpus: Corpus, kind: str, settings: dict[str, Any], unmasked: bool) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint(tmp_path / "base", corpus, kind, **settings)
    model = open_checkpoint(folder)
    words = torch.randint(0, model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain(words).logits, model(words).logits)
    assert {mask for mask, _ in asked(model, words)} == {not unmasked}
