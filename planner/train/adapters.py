"""Low-rank adapters on a frozen model, through peft; for QLoRA the frozen matrices are quantised to 4 bits by bitsandbytes.

Ref: LoRA arXiv 2106.09685, QLoRA arXiv 2305.14314.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from planner.errors import InputError, importing
from planner.recipe import Recipe
from planner.shapes import ModelShape


def adapted(model: torch.nn.Module, shape: ModelShape, recipe: Recipe, method: str, seed: int) -> torch.nn.Module:
    """Freeze a model and put the recipe's adapters on it; the same seed gives the same adapters on every machine.

    Args:
        model: a causal language model of transformers.
        shape: of the model.
        recipe: for rank, alpha and targets.
        method: a name of `method.METHODS` that is not "full".
        seed: of the adapters' first matrices; the second ones are zero, so that the model is unchanged at first.

    Raises:
        MissingDependencyError: peft, or for quantised matrices bitsandbytes, is not installed.
        InputError: targets that the model lacks, or that cannot be quantised.
    """
    peft = _peft()
    way = recipe.method(method)
    targets = way.targets_in(shape)
    if way.quantised:
        from planner.train.quantised import quantise

        quantise(model, targets)
    # In other families by full names, since a last name may be a number.
    named = list(targets) if shape.counted is None else _places(model, targets)
    config = peft.LoraConfig(r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, target_modules=named, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside libraries
        wrapped: torch.nn.Module = peft.get_peft_model(model, config)
    trained, planned = sum(item.numel() for item in wrapped.parameters() if item.requires_grad), way.trained(shape)
    if trained != planned:
        what = f"{way.adapters} have {trained} parameters on a model of type {shape.family}, but {planned} were planned"
        raise InputError(what, remedy="choose other lora_targets, or train with full")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_A" in name:  # as peft draws them, but from our own generator
                bound = 1 / math.sqrt(parameter.shape[1])
                parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return wrapped


def _places(model: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """List the full names of a model's layers that have these last names, except its output layer."""
    whole: Any = model
    output, kinds = whole.get_output_embeddings(), (torch.nn.Linear, Conv1D)
    found = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds) and layer is not output)
    return [name for name, _ in found if name.rpartition(".")[2] in targets]


def merged(wrapped: torch.nn.Module) -> torch.nn.Module:
    """Add the adapters into the matrices under them and return the plain model.

    Quantised matrices are dequantised first: the adapters are added to the values that they were trained on.
    """
    from planner.train.quantised import dequantise

    model: Any = wrapped
    dequantise(model)
    plain: torch.nn.Module = model.merge_and_unload()
    return plain


def save_adapters(wrapped: torch.nn.Module, folder: Path, base: Path) -> None:
    """Write adapters as peft does, in safetensors.

    Args:
        wrapped: what `adapted` returned.
        folder: where to.
        base: absolute path of the model under them; peft would look up a bare name or a relative path on a hub.
    """
    model: Any = wrapped
    model.peft_config["default"].base_model_name_or_path = str(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, safe_serialization=True)


def _peft() -> Any:
    with importing("peft", "methods"):
        import peft
    return peft
