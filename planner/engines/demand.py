"""What a segment asks of a machine: processors, memory, and a share of a GPU, so that several small models are packed on one.

The memory is an estimate from the shape: weights, gradients and both Adam moments in fp32 (16 bytes a parameter), what the
backward pass keeps of every layer, the logits and their gradients, and what a process holds before it has a model; or, where that is
more, what the forward passes over held-out text take at the end.
It is an upper one at the sizes of a sweep: a segment that gets less than it needs dies, one that gets more only waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.errors import InputError
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.train.job import Job
from planner.train.rows import evaluation_bytes, rows_at_once

BYTES_PER_PARAMETER = 16
"""Weights, gradients and two moments in fp32."""
BYTES_PER_LOGIT = 20
"""Logits, their fp32 copy, the log-probabilities and two gradients."""
PROCESS_BYTES = 1.0e9
"""A process with torch and transformers loaded: 0.7 GB resident on a CPU, a CUDA context of 0.5 GB and its workspaces on a GPU."""
SHARE_STEP = 0.01
"""Shares of a GPU are rounded up to this, since Ray counts in ten-thousandths and sums of rounded shares must fit."""
MOST_ON_ONE_GPU = 16
"""Processes on one GPU, at most: they share its time, and each is a context to switch to."""


@dataclass(frozen=True)
class Demand:
    """What one segment needs while it trains."""

    cpus: int
    """Processors, one a thread."""
    gpus: float
    """GPUs: 0 on a CPU, 1 where the memory of a GPU was not stated, else a share of one."""
    memory: float
    """Memory, of the GPU if it trains on one and of the host otherwise [bytes]."""


def training_bytes(shape: ModelShape, recipe: Recipe) -> float:
    """Estimate the memory that training a shape takes [bytes], its process included.

    Of each layer the backward pass keeps, in values a token: the residual stream at six places, what enters and leaves attention
    (queries and keys also before their norms and rotations), and five widths of the gated feed-forward.
    """
    tokens = recipe.tokens_per_step
    attention = 4 * shape.heads * shape.head_dim + 6 * shape.kv_heads * shape.head_dim
    kept = shape.layers * (8 * shape.hidden + attention + 5 * shape.intermediate) + 4 * shape.hidden
    scores = shape.layers * shape.heads * recipe.seq_len  # kept only where there is no fused attention
    values = tokens * (kept + scores) * 4
    return PROCESS_BYTES + BYTES_PER_PARAMETER * shape.params_total + values + tokens * shape.vocab * BYTES_PER_LOGIT


def demand_of(job: Job, gpu_memory: float | None = None) -> Demand:
    """State what a job asks for.

    Args:
        job: the job.
        gpu_memory: memory of one GPU [bytes]; where it is not stated every segment gets a GPU of its own.

    Raises:
        InputError: the model does not fit the GPU.
    """
    shape, recipe = job.segment.shape, job.recipe
    need = training_bytes(shape, recipe)
    if job.segment.cell is not None:  # endpoints alone are evaluated; the gradients are gone by then, and what the allocator keeps of them may not be
        rows = rows_at_once(recipe.seq_len, shape.vocab)
        need = max(need, PROCESS_BYTES + BYTES_PER_PARAMETER * shape.params_total + evaluation_bytes(shape, recipe.seq_len, rows))
    if job.device == "cpu":
        return Demand(job.threads, 0.0, need)
    if gpu_memory is None:
        return Demand(job.threads, 1.0, need)
    if need > gpu_memory:
        raise InputError(
            f"{job.segment.segment_id} needs about {need / 1e9:.3g} GB, and a GPU has {gpu_memory / 1e9:.3g} GB",
            remedy="give a larger --gpu-memory if the GPU has it, or leave that size out of the sweep",
        )
    share = max(need / gpu_memory, 1 / MOST_ON_ONE_GPU)
    return Demand(job.threads, min(1.0, math.ceil(share / SHARE_STEP - 1e-9) * SHARE_STEP), need)
