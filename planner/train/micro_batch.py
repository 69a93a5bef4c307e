"""What training a shape takes in memory, and in how many passes a batch goes through it so that it fits. Imports no torch.

The memory is an estimate from the shape: weights, gradients and both Adam moments in fp32 of what is trained, the weights of what is
not, what the backward pass keeps of every layer, the logits and their gradients, and what a process holds before it has a model.
It is an upper one at the sizes of a sweep.
"""

from __future__ import annotations

import math

from planner.method import HALF_BYTES, NF4_BYTES, Method
from planner.recipe import Recipe
from planner.shapes import ModelShape

BYTES_PER_PARAMETER = 16
"""Weights, gradients and two moments in fp32."""
FROZEN_BYTES = 4
"""Weights in fp32, of what lies under adapters and is not quantised."""
BYTES_PER_LOGIT = 20
"""Logits, their fp32 copy, the log-probabilities and two gradients."""
PROCESS_BYTES = 1.0e9
"""A process with torch and transformers loaded: 0.7 GB resident on a CPU, a CUDA context of 0.5 GB and its workspaces on a GPU."""
CPU_BYTES = 4.0e9
"""What the backward pass may keep on a CPU [bytes]. A constant, whatever the machine has, so that all machines sum in the same order."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that is filled where nobody stated how much: the allocator leaves gaps."""


def state_bytes(shape: ModelShape, method: Method, device: str = "cpu") -> float:
    """Estimate what weights, gradients and moments take [bytes]."""
    trained, frozen, quantised = method.counts(shape)
    copies = HALF_BYTES * shape.params_total if device == "cuda" else 0.0  # autocast's, which the backward pass keeps
    return BYTES_PER_PARAMETER * trained + FROZEN_BYTES * frozen + NF4_BYTES * quantised + copies


def kept_bytes(shape: ModelShape, seq_len: int, rows: int, device: str = "cpu") -> float:
    """Estimate what the backward pass of some sequences keeps, and their logits take [bytes].

    Of each layer it keeps, in values a token: the residual stream at six places, what enters and leaves attention (queries and keys also
    before their norms and rotations), and five widths of the gated feed-forward.
    """
    attention = 4 * shape.heads * shape.head_dim + 6 * shape.kv_heads * shape.head_dim
    kept = shape.layers * (8 * shape.hidden + attention + 5 * shape.intermediate) + 4 * shape.hidden
    # Scores are kept only where there is no fused attention: on a GPU our own families have it, of others nobody knows.
    fused = device == "cuda" and shape.counted is None
    scores = 0 if fused else shape.layers * shape.heads * seq_len
    return float(rows * seq_len) * ((kept + scores) * 4 + shape.vocab * BYTES_PER_LOGIT)


def training_bytes(shape: ModelShape, recipe: Recipe, *, method: str = "full", device: str = "cpu", rows: int | None = None) -> float:
    """Estimate the memory that training a shape takes [bytes], its process included.

    Args:
        shape: the model.
        recipe: for the batch and the adapters.
        method: a name of `method.METHODS`.
        device: "cpu" or "cuda".
        rows: sequences of a pass; the whole batch by default.
    """
    kept = kept_bytes(shape, recipe.seq_len, rows or recipe.batch_sequences, device)
    return PROCESS_BYTES + state_bytes(shape, recipe.method(method), device) + kept


def micro_batch_size(shape: ModelShape, recipe: Recipe, *, method: str = "full", device: str = "cpu", memory: float | None = None) -> int:
    """Return the sequences of a pass: the whole batch where it fits, else those of the fewest passes that do, about as large as each other; 1 at least.

    Args:
        shape: the model.
        recipe: for the batch and the adapters.
        method: a name of `method.METHODS`.
        device: "cpu" or "cuda".
        memory: of the GPU that the task may use [bytes]; None where it is not known, and the batch is then taken whole.
    """
    batch, room = recipe.batch_sequences, CPU_BYTES
    if device == "cuda":
        if memory is None:
            return batch
        room = memory - PROCESS_BYTES - state_bytes(shape, recipe.method(method), device)
    fitting = max(1, int(room // kept_bytes(shape, recipe.seq_len, 1, device)))
    return math.ceil(batch / math.ceil(batch / fitting))
