"""The model that is trained: Hugging Face's own implementation of the shape, with an initialisation that scales.

Training transformers' class itself means that every checkpoint loads with `AutoModelForCausalLM` by construction. A leaner
copy was measured on two-core machines and gained 3–8 %, too little to own a second implementation (LOG.md).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.train.attention import unmasked

RESIDUAL_WRITERS = ("o_proj.weight", "down_proj.weight")


def build_config(shape: ModelShape, seq_len: int, *, token_ids: dict[str, int] | None = None) -> Any:
    """Return transformers' configuration of a shape.

    Args:
        shape: the shape.
        seq_len: longest position the model is trained on [tokens].
        token_ids: such as {"eos_token_id": 0}; transformers' defaults would point outside a small vocabulary.
    """
    from transformers import LlamaConfig, Qwen3Config

    config_class = Qwen3Config if shape.family == "qwen3" else LlamaConfig
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **(token_ids or {})}
    return config_class(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=seq_len,
        use_cache=False,
        attn_implementation=unmasked(),
        **ids,
    )


class _Undrawn(TorchFunctionMode):
    """Skips the random initialisation of torch's and transformers' classes; matrices keep whatever is in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in (torch.Tensor.normal_, torch.Tensor.uniform_) else func(*args, **(kwargs or {}))


def build_model(shape: ModelShape, recipe: Recipe, seed: int, *, token_ids: dict[str, int] | None = None, drawn: bool = True) -> torch.nn.Module:
    """Build and initialise a model; the same seed gives the same weights on every machine.

    Args:
        shape: the shape.
        recipe: for the sequences and the initialisation.
        seed: of the initialisation.
        token_ids: see `build_config`.
        drawn: whether to initialise its weights; if not, they must be read in afterwards.

    Returns:
        A causal language model of transformers in fp32 on the CPU.
    """
    from transformers import LlamaForCausalLM, Qwen3ForCausalLM

    config = build_config(shape, recipe.seq_len, token_ids=token_ids)
    model_class = Qwen3ForCausalLM if shape.family == "qwen3" else LlamaForCausalLM
    with warnings.catch_warnings(), _Undrawn():
        warnings.simplefilter("ignore")  # transformers warns of its own deprecations while it builds
        model: torch.nn.Module = model_class(config)
    if drawn:
        initialise(model, shape, recipe.init_scale, seed)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == shape.params_total, (counted, shape)
    return model


def initialise(model: torch.nn.Module, shape: ModelShape, scale: float, seed: int) -> None:
    """Draw matrices at deviation scale/sqrt(fan_in), residual writers smaller by sqrt(2·layers), norms at one.

    The embedding is drawn at half of 1/sqrt(hidden): tied to the output, it starts the logits near zero.
    Ref: arXiv 2203.03466 for the scaling with width, arXiv 2005.14165 (GPT-2's) for that with depth.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            deviation = scale / math.sqrt(parameter.shape[1])
            if name.endswith("embed_tokens.weight") or name.endswith("lm_head.weight"):
                deviation *= 0.5
            elif name.endswith(RESIDUAL_WRITERS):
                deviation /= math.sqrt(2 * shape.layers)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def build_optimiser(model: torch.nn.Module, recipe: Recipe, learning_rate: float) -> torch.optim.AdamW:
    """Return AdamW over the trained parameters, decaying matrices only; embeddings, the output layer, norms, biases and adapters are not decayed."""
    whole: Any = model
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    bare = {id(module.weight) for module in (*tables, whole.get_output_embeddings()) if module is not None}
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim == 1 or name.endswith("bias") or id(parameter) in bare or "lora_" in name else decayed).append(parameter)
    both = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in both if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon, fused=True)
