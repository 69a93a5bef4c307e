"""What a layer keeps for the backward pass is what the estimate on paper says, as transformers' layers stand and through torch.compile."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from planner.ladder import shape_for
from planner.method import Method
from planner.recipe import Recipe
from planner.train.full.shard import decoder_layers
from planner.train.model import build_model
from planner.train.size import memory

SEQ, ROWS = 256, 2


def kept(model: Any) -> float:
    """Count the bytes that the backward pass keeps of a model's layers, but for its parameters."""
    own, found = {item.untyped_storage().data_ptr() for item in model.parameters()}, dict[int, int]()

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    words = torch.randint(0, 512, (ROWS, SEQ), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.model(input_ids=words).last_hidden_state
    assert hidden.requires_grad  # and what is kept is still there
    return float(sum(found.values()))


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:`torch.jit.script_method`")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_kept_activations_are_as_estimated(family: str, precision: str, compiled: bool) -> None:
    torch.set_num_threads(1)
    shape = shape_for(3e6, family=family, vocab=512)
    model = build_model(shape, Recipe(seq_len=SEQ), seed=0).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    torch._dynamo.reset()
    if compiled:  # cut as inductor cuts, without its compiler
        for layer in decoder_layers(model, shape.layers):
            layer.compile(backend="aot_eager_decomp_partition")
    told = memory(shape, SEQ, ROWS, shards=1, precision=precision, checkpoint_activations=False, method=Method(), compiled=compiled)
    # Before and behind the layers lie the embedding, the last norm and the rotary tables.
    assert 0.85 < kept(model) / told.activations < 1.05
