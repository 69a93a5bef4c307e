"""Memory to train a shape, and the passes into which a batch is split so that it fits. Imports no torch.

The memory is an estimate from the shape: weights, gradients and both Adam moments of trained parameters in fp32, frozen weights, what the
backward pass keeps of every layer, the logits and their gradients, and what a process holds before it has a model.
It is an upper bound at the sizes of a sweep; `planner.train.activations` says what other estimates there are.
"""

from __future__ import annotations

import math

from planner.method import HALF_BYTES, NF4_BYTES, Method
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.train.activations import layer_values

BYTES_PER_PARAMETER = 16
"""Weights, gradients and two moments in fp32."""
FROZEN_BYTES = 4
"""Frozen weights under adapters in fp32, unless quantised."""
BYTES_PER_LOGIT = 20
"""Logits, their fp32 copy, the log-probabilities and two gradients."""
PROCESS_BYTES = 1.0e9
"""A process with torch and transformers loaded: 0.7 GB resident on a CPU, a CUDA context of 0.5 GB and its workspaces on a GPU."""
CPU_BYTES = 4.0e9
"""What the backward pass may keep on a CPU [bytes]. A constant, whatever the machine has, so that all machines sum in the same order."""
GPU_SHARE = 0.9
"""Share of a GPU's memory that is filled if no limit was stated: the allocator leaves gaps."""


def state_bytes(shape: ModelShape, method: Method, device: str = "cpu") -> float:
    """Estimate what weights, gradients and moments take [bytes]."""
    trained, frozen, quantised = method.counts(shape)
    copies = HALF_BYTES * shape.params_total if device == "cuda" else 0.0  # autocast's, which the backward pass keeps
    return BYTES_PER_PARAMETER * trained + FROZEN_BYTES * frozen + NF4_BYTES * quantised + copies


def kept_bytes(shape: ModelShape, seq_len: int, rows: int, device: str = "cpu") -> float:
    """Estimate what the backward pass of some sequences keeps of all layers, and what their logits take [bytes]."""
    kept = shape.layers * layer_values(shape) + 4 * shape.hidden
    # Scores are kept only where there is no fused attention: on a GPU our own families have it, for others it is unknown.
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
    """Return the sequences per pass: the whole batch if it fits, else as many as give the fewest passes, of about equal size; at least 1.

    Args:
        shape: the model.
        recipe: for the batch and the adapters.
        method: a name of `method.METHODS`.
        device: "cpu" or "cuda".
        memory: GPU memory that the task may use [bytes]; None if unknown, and the batch is then taken whole.
    """
    batch, room = recipe.batch_sequences, CPU_BYTES
    if device == "cuda":
        if memory is None:
            return batch
        room = memory - PROCESS_BYTES - state_bytes(shape, recipe.method(method), device)
    fitting = max(1, int(room // kept_bytes(shape, recipe.seq_len, 1, device)))
    return math.ceil(batch / math.ceil(batch / fitting))
