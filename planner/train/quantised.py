"""Frozen matrices in 4-bit NormalFloat, through bitsandbytes, which packs and multiplies them on CPUs too (arXiv 2305.14314)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from planner.errors import importing


def quantise(model: torch.nn.Module, targets: Sequence[str]) -> None:
    """Replace the linear layers of a model's blocks by quantised ones; embedding, output, norms and layers without adapters stay.

    Args:
        model: a causal language model.
        targets: last names of the layers to pack.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
    """
    library = _bitsandbytes()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] in targets:
            quantised = library.nn.Linear4bit(
                layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
            )
            quantised.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
            if layer.bias is not None:
                quantised.bias = layer.bias
            # Otherwise evaluation repacks matrices as bfloat16 on some CPUs, which fails for small ones and cannot be trained on from.
            quantised.support_avx512bf16_for_cpu = False
            model.set_submodule(name, quantised.to("cpu"))


def quantised_weights(model: torch.nn.Module) -> set[torch.nn.Parameter]:
    """Return the quantised matrices of a model."""
    return {item for item in model.parameters() if getattr(item, "quant_state", None) is not None}


def constants(weight: torch.nn.Parameter) -> dict[str, Any]:
    """Return the dequantisation constants of a quantised matrix, as tensors that can be sent."""
    state: Any = weight
    found: dict[str, Any] = state.quant_state.as_dict(packed=True)
    return found


def requantised(values: torch.Tensor, stated: dict[str, Any]) -> torch.nn.Parameter:
    """Rebuild a quantised matrix from its `constants` and its 4-bit values, on the device that these are on."""
    weight: torch.nn.Parameter = _bitsandbytes().nn.Params4bit.from_prequantized(values, stated, device=values.device)
    return weight


def multiply_in(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Set the precision in which quantised layers multiply their dequantised matrices."""
    for layer in model.modules():
        if getattr(getattr(layer, "weight", None), "quant_state", None) is not None:
            layer.compute_dtype = dtype  # type: ignore[assignment]


def dequantise(model: torch.nn.Module) -> None:
    """Replace quantised layers, if any, by plain ones with the same values."""
    for name, layer in list(model.named_modules()):
        quantised: Any = layer
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is None or hasattr(layer, "base_layer"):  # an adapter shows the weight under it as its own
            continue
        plain = torch.nn.Linear(quantised.in_features, quantised.out_features, bias=quantised.bias is not None)
        with torch.no_grad():
            plain.weight.copy_(_bitsandbytes().functional.dequantize_4bit(quantised.weight.data, state))
            if quantised.bias is not None:
                plain.bias.copy_(quantised.bias)
        model.set_submodule(name, plain)


def _bitsandbytes() -> Any:
    with importing("bitsandbytes", "qlora"):
        import bitsandbytes
    return bitsandbytes
