"""Bases of families that have no formula here: their modules are counted, against torch's own counter and the models' own parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.errors import InputError
from planner.flops import forward_flops_per_token
from planner.method import Method
from planner.pretrained import Pretrained
from planner.recipe import Recipe
from planner.shapes import ModelShape
from tests.train.shared import checkpoint

torch = pytest.importorskip("torch")

FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt_neox", "phi", "phi3", "falcon", "stablelm", "olmo", "olmo2", "starcoder2", "cohere", "granite", "nemotron", "biogpt"), {}),
    "gpt2": {"n_inner": 80},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gemma": {"head_dim": 24},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 2},
    "mpt": {"n_layers": 2, "n_heads": 2},
    "llama": {"attention_bias": True, "mlp_bias": True},
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 24, "head_dim": 16},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
}


def counted_flops(folder: Path, tokens: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()  # the counter does not know the fused kernel of the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(tokens)[None], use_cache=False)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_is_counted_as_its_model_is(tmp_path: Path, corpus: Corpus, kind: str) -> None:
    from planner.train.start import open_checkpoint

    base = Pretrained.open(checkpoint(tmp_path / kind, corpus, kind, **FAMILIES[kind]))
    shape = base.shape
    assert shape.counted is not None and ModelShape(**json.loads(json.dumps(shape.to_dict()))) == shape
    model = open_checkpoint(base.folder, shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.params_total == sum(shape.parameter_groups.values())
    tables = {id(item.weight): item.weight.numel() for item in model.modules() if isinstance(item, torch.nn.Embedding)}
    assert shape.params_embedding == sum(tables.values()) + (0 if shape.tied else shape.vocab * shape.hidden)
    for tokens in (16, 48):
        assert counted_flops(base.folder, tokens) == pytest.approx(tokens * forward_flops_per_token(shape, tokens), rel=0.01)  # and rotary angles
    ids = torch.arange(12)[None]
    assert torch.equal(model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits), "dropout would draw from no seed"


@pytest.mark.parametrize("kind", EXPERTS)
def test_of_experts_those_count_that_a_token_is_sent_to(tmp_path: Path, corpus: Corpus, kind: str) -> None:
    base = Pretrained.open(checkpoint(tmp_path / "all", corpus, kind, **EXPERTS[kind]))
    every = {"num_experts_per_tok": 4}
    dense = Pretrained.open(checkpoint(tmp_path / "dense", corpus, kind, **{**EXPERTS[kind], **every}))
    assert base.shape.params_total == dense.shape.params_total
    chosen, width = EXPERTS[kind]["num_experts_per_tok"], EXPERTS[kind].get("moe_intermediate_size", 48)
    assert base.shape.counted is not None and dense.shape.counted is not None and dense.shape.counted.idle == 0
    assert dense.shape.matrices - base.shape.matrices == base.shape.counted.idle == 2 * (4 - chosen) * 3 * 32 * width


def test_adapters_sit_on_the_familys_own_matrices(tmp_path: Path, corpus: Corpus) -> None:
    from planner.train.adapters import adapted
    from planner.train.start import open_checkpoint

    recipe = Recipe(seq_len=32, lora_rank=4)
    base = Pretrained.open(checkpoint(tmp_path / "base", corpus, "gpt2"))
    assert set(Method("lora").targets_in(base.shape)) == {"c_attn", "c_proj", "c_fc"}
    wrapped = adapted(open_checkpoint(base.folder), base.shape, recipe, "lora", 0)
    trained = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert trained == recipe.method("lora").trained(base.shape)
    with pytest.raises(InputError, match="type gpt2 has no matrix q_proj for adapters.*choose lora_targets among c_attn, c_proj, c_fc"):
        Method("lora", 4, ("q_proj",)).trained(base.shape)


@pytest.mark.parametrize(("kind", "why"), [("mamba", "no attention heads"), ("jamba", "is a JambaMambaMixer|is a Conv1d")])
def test_recurrences_are_refused(tmp_path: Path, corpus: Corpus, kind: str, why: str) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64}))
    (folder / "model.safetensors").touch()
    with pytest.raises(InputError, match=f"of type '{kind}' cannot be counted: .*({why})"):
        Pretrained.open(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing known"}))
    with pytest.raises(InputError, match="cannot be read"):
        Pretrained.open(folder)
