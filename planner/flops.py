"""Training FLOPs of a shape, exactly, beside the usual 6·N·D.

A multiply-add counts as two. A forward pass costs, per token, 2 FLOPs for every weight of a matrix (projections, gated
feed-forward, output layer) and 2·2·T·heads·head_dim a layer for attention's scores and its weighted sum of values, over the
full T × T square: kernels that skip the masked half do less. The backward pass costs twice the forward, so training costs
three times. Left out: norms, softmax, rotary embedding, the embedding look-up, the loss and the optimiser.
"""

from __future__ import annotations

from typing import Any

from planner.shapes import ModelShape

TRAINING_OVER_FORWARD = 3.0
"""FLOPs of a training token over those of a token that is only read or written."""
FORWARD_SHARE = 1 / TRAINING_OVER_FORWARD
"""The reverse, such as of a token that is evaluated over one that is trained on."""


def forward_flops_per_token(shape: ModelShape, seq_len: int) -> float:
    """Count the forward FLOPs of one token in a sequence of `seq_len` tokens."""
    attention = 2 * seq_len * shape.heads * shape.head_dim * shape.layers
    return 2.0 * (shape.matrices + attention)


def flops_per_token(shape: ModelShape, seq_len: int) -> float:
    """Count the training FLOPs (forward and backward) of one token in a sequence of `seq_len` tokens."""
    return TRAINING_OVER_FORWARD * forward_flops_per_token(shape, seq_len)


def flops_6nd(params: Any, tokens: Any) -> Any:
    """Return the usual estimate 6·N·D (arXiv 2001.08361)."""
    return 6.0 * params * tokens
