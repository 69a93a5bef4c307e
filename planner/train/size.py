"""Memory of a rank and bytes of the states of a full-size run, estimated before anything is started.

`planner.train.activations` says what other estimates of memory there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.method import NF4_BYTES, Method
from planner.shapes import ModelShape
from planner.train.rows import evaluation_bytes, logits_at_once, rows_at_once

WEIGHT, GRADIENT, MOMENTS = 4, 4, 8
"""Bytes of a trained parameter kept on the ranks: fp32 weight, fp32 gradient and AdamW's two fp32 moments. A frozen one has the run's precision."""
LOGIT_COPIES = 3
"""Logits in fp32, their softmax and their gradient."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank."""

    states: float
    """Shards of weights, gradients and moments, and quantised matrices whole."""
    gathered: float
    """Layers gathered whole: the current one, the next one on its way, and the embedding."""
    activations: float
    """Kept for the backward pass of a micro-batch."""
    logits: float
    """Logits, their softmax and their gradient."""
    heldout: float
    """A forward pass over held-out text, when nothing is kept for a backward pass."""

    @property
    def total(self) -> float:
        """Sum of what is held at once, without the allocator's and the libraries' own memory."""
        return self.states + self.gathered + max(self.activations + self.logits, self.heldout)


def memory(
    shape: ModelShape, seq_len: int, micro_batch: int, *, shards: int, precision: str, checkpoint_activations: bool, method: Method,
    compiled: bool = False, bounded: bool = True,
) -> Memory:  # fmt: skip
    """Estimate the memory of a rank.

    A layer keeps, for each token, its two normed inputs, queries, keys, values, attention's result, and three of the feed-forward width, about
    (4·hidden + 2·heads·head_dim + 2·kv_heads·head_dim + 4·intermediate) numbers with attention that does not store its scores
    (arXiv 2205.05198, section 4, less the scores; 2205.14135). That holds if compiled; uncompiled, each norm of transformers' layers also keeps what it
    computes in fp32, 4·hidden bytes more, and so do norms of queries and keys. With activations recomputed, only layers' inputs are kept, and one layer.

    Args:
        shape: the model.
        seq_len: tokens of a sequence.
        micro_batch: sequences of a forward pass.
        shards: ranks over which one copy of the model is sharded.
        precision: "bf16" or "fp32".
        checkpoint_activations: whether layers are recomputed in the backward pass.
        method: in full, or with adapters on weights that are kept as they are.
        compiled: whether layers go through torch.compile.
        bounded: whether held-out losses are measured in micro-batches too, as they are where the run states one.
    """
    width = 2 if precision == "bf16" else 4
    tokens = float(seq_len * micro_batch)
    layer = shape.params_non_embedding / shape.layers
    heads = (shape.heads + shape.kv_heads) * shape.head_dim
    per_layer = tokens * width * (4 * shape.hidden + 2 * heads + 4 * shape.intermediate)
    if not compiled:
        # Of the families with a formula only qwen3 norms queries and keys; for others it is unknown, and assumed.
        normed = heads if shape.family == "qwen3" or shape.counted is not None else 0
        per_layer += tokens * (8 * shape.hidden + (4 + width) * normed)
    kept = tokens * width * shape.hidden * shape.layers + per_layer if checkpoint_activations else per_layer * shape.layers
    gathered = 0.0 if shards == 1 and precision == "fp32" else width * (2 * layer + shape.params_embedding)
    trained, frozen, quantised = method.counts(shape)
    states = (width * frozen + (WEIGHT + GRADIENT + MOMENTS) * trained) / shards + NF4_BYTES * quantised
    heldout = evaluation_bytes(shape, seq_len, rows_at_once(seq_len, shape.vocab, micro_batch if bounded else None), width=width)
    at_once = min(tokens, logits_at_once(shape.family, shape.vocab) or tokens)
    return Memory(states, gathered, kept, LOGIT_COPIES * 4 * at_once * shape.vocab, heldout)


def saved_bytes(shape: ModelShape, method: Method) -> float:
    """Return the bytes of one saved state, over all ranks: what is trained, and its moments."""
    return float((WEIGHT + MOMENTS) * method.trained(shape))
