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
    with pytest.raises(InputError, match="c_attn of a model of type gpt2 is stored transposed"):
        Method("qlora").trained(base.shape)
    with pytest.raises(InputError, match="type gpt2 has no matrix q_proj for adapters.*choose lora_targets among c_attn, c_proj, c_fc"):
        Method("lora", 4, ("q_proj",)).trained(base.shape)


def test_what_the_library_fills_in_is_counted_and_not_guessed(tmp_path: Path, corpus: Corpus) -> None:
    from planner.train.start import open_checkpoint

    folder = checkpoint(tmp_path / "base", corpus, "qwen3")
    config = json.loads((folder / "config.json").read_text())
    assert Pretrained.open(folder).shape.counted is None
    del config["head_dim"]  # the library takes 128 then
    (folder / "config.json").write_text(json.dumps(config))
    assert Pretrained.open(folder).shape.head_dim == 128
    with pytest.raises(InputError, match="cannot be loaded"):
        open_checkpoint(folder)


def test_a_model_that_sees_later_tokens_is_refused_when_it_is_loaded(tmp_path: Path, corpus: Corpus) -> None:
    from planner.train.start import refuse_foresight

    class Foreseeing(torch.nn.Module):
        config = type("Config", (), {"vocab_size": 64})()

        def forward(self, input_ids: Any, use_cache: bool) -> Any:
            return type("Output", (), {"logits": torch.nn.functional.one_hot(input_ids.flip(1), 64).float()})()

    with pytest.raises(InputError, match="sees later tokens"):
        refuse_foresight(Foreseeing(), tmp_path)


@pytest.mark.parametrize("kind", ["deepseek_v3", "glm4_moe"])
def test_adapters_of_experts_are_those_that_were_counted(tmp_path: Path, corpus: Corpus, kind: str) -> None:
    """Named gate_proj, peft would put others on these families, and leave packed matrices without any."""
    pytest.importorskip("bitsandbytes")
    from planner.train.adapters import adapted, merged
    from planner.train.start import open_checkpoint

    latent = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16}
    shape = latent if kind == "deepseek_v3" else {"head_dim": 32}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 2}
    base = Pretrained.open(checkpoint(tmp_path / "base", corpus, kind, **sizes, **shape, **experts))
    recipe = Recipe(seq_len=32, lora_rank=4)
    assert not {"gate_proj", "up_proj", "down_proj"} & set(recipe.method("lora").targets_in(base.shape))
    wrapped = adapted(open_checkpoint(base.folder, base.shape), base.shape, recipe, "qlora", 0)
    assert sum(item.numel() for item in wrapped.parameters() if item.requires_grad) == recipe.method("qlora").trained(base.shape)
    plain = merged(wrapped)
    assert not any(item.dtype == torch.uint8 for item in plain.parameters()) and set(plain.state_dict()) == set(open_checkpoint(base.folder).state_dict())


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mamba", "layers of type linear_attention"),
        ("jamba", "layers of type linear_attention"),
        ("rwkv", "is a RwkvSelfAttention"),
        ("xlstm", "a recurrence"),
        ("bert", "no decoder"),
        ("bart", "attends to an encoder"),
        ("trocr", "encoder_attn"),
        ("fuyu", "more than text"),
        ("minimax", "layers of type linear_attention"),
        ("deepseek_v32", "layers of type indexed_attention"),
        ("longcat_flash", "experts .* multiply nothing"),
        ("diffllama", "two sets of scores"),
        ("dory", "more than once"),
        ("hrm_text", "more than once"),
    ],
)
def test_what_costs_otherwise_or_is_no_decoder_is_refused(tmp_path: Path, kind: str, why: str) -> None:
    if kind not in pytest.importorskip("transformers").CONFIG_MAPPING:
        pytest.skip(f"this version of transformers has no {kind}")
    folder = tmp_path / "base"
    folder.mkdir()
    sizes = {"hidden_size": 48, "d_model": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "num_key_value_heads": 4}
    decoder = {"is_decoder": True} if kind == "trocr" else {}
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **sizes, **decoder}))
    (folder / "model.safetensors").touch()
    with pytest.raises(InputError, match=f"of type '{kind}' cannot be counted: .*({why})"):
        Pretrained.open(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing known"}))
    with pytest.raises(InputError, match="cannot be read"):
        Pretrained.open(folder)


COUNTS = {"params_total": 1000, "params_embedding": 10, "matrices": 900, "layers": [["a", 1, 1]], "idle": 0}


@pytest.mark.parametrize(
    "counted",
    [
        *("x", [1], False, {}, {"params_total": 10}),
        *({**COUNTS, **change} for change in ({"params_embedding": 10**6}, {"idle": 10**6}, {"matrices": 10**400}, {"matrices": 0})),
        {**COUNTS, "layers": [["a", 1, 1], ["a", 1, 1]]},
    ],
)
def test_counts_that_are_none_are_refused(counted: Any) -> None:
    shape = {"family": "gpt2", "layers": 2, "hidden": 8, "heads": 2, "kv_heads": 2, "head_dim": 4, "intermediate": 8, "vocab": 16, "tied": True}
    assert ModelShape(**shape, counted=COUNTS).params_non_embedding == 990
    with pytest.raises((InputError, TypeError)):
        ModelShape(**shape, counted=counted)
