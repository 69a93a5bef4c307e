"""Output layer and mean cross entropy together, a chunk of rows at a time, with gradients computed in the forward pass (arXiv 2410.10989).

Compiled for a CPU, this makes a step take 5 % less time at 20k parameters, 3 % at 80k and 0.5 % at 400k: a chunk's logits stay in the cache and are
exponentiated once. `torch.nn.functional.linear_cross_entropy` works much alike from torch 2.13 on, but is not compiled.
"""

from __future__ import annotations

from typing import Any

import torch

from planner.train.matmul import matmul

ROWS, PARTS = 512, 4
"""Least rows of a chunk, and most chunks: each is compiled separately."""


def has_plain_head(model: torch.nn.Module) -> bool:
    """Tell whether a model's logits are its last hidden state times a trained matrix, in fp32 on a CPU, as in the ladder's models without adapters."""
    from transformers import LlamaForCausalLM, Qwen3ForCausalLM

    if type(model) not in (LlamaForCausalLM, Qwen3ForCausalLM):
        return False
    weight = model.lm_head.weight
    return bool(weight.requires_grad and weight.device.type == "cpu" and weight.dtype == torch.float32)


def head_loss(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Average the loss of a model with a plain head over all targets.

    Args:
        model: see `has_plain_head`.
        inputs: token ids, shape (sequences, tokens).
        targets: token ids, of the same shape.
    """
    hidden = model.model(input_ids=inputs).last_hidden_state
    return cross_entropy(hidden.reshape(-1, hidden.shape[-1]), model.lm_head.weight, targets.reshape(-1))


def cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Average −log p over rows, each with one target.

    Args:
        hidden: what enters the output layer, shape (rows, width).
        weight: of the layer, shape (words, width).
        targets: ids of words, shape (rows,), all of which count.
    """
    value, slope_hidden, slope_weight = _with_slopes(hidden.detach(), weight.detach(), targets)
    # Has the value above and these gradients. An autograd.Function would do so too, but torch traces it anew at every start.
    linear = (hidden * slope_hidden).sum() + (weight * slope_weight).sum()
    return value + (linear - linear.detach())


def _with_slopes(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count = len(hidden)
    rows, words = max(ROWS, -(-count // PARTS)), torch.arange(len(weight), device=weight.device)
    total, slopes, slope = hidden.new_zeros(()), [], torch.zeros_like(weight)
    for some, wanted in zip(hidden.split(rows), targets[:, None].split(rows), strict=True):
        logits = matmul(some, weight.T)
        most = logits.amax(1, keepdim=True)
        parts = (logits - most).exp()
        whole = parts.sum(1, keepdim=True)
        total = total + (whole.log() + most - logits.gather(1, wanted)).sum()
        off = (parts / whole - (words == wanted).to(parts.dtype)) / count
        slopes.append(matmul(off, weight))
        slope = slope + matmul(off.T, some)
    return total / count, torch.cat(slopes), slope
