"""Resources that a segment needs: processors, memory, and a share of a GPU, so that several small models are packed on one.

The memory is that of training it, in as many passes per step as it takes to fit (`planner.train.micro_batch`), or, if that is more, of
the forward passes over held-out text at the end.
It is an upper bound at the sizes of a sweep: a segment that gets less than it needs dies, one that gets more only waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.errors import InputError
from planner.train.job import Job
from planner.train.micro_batch import FROZEN_BYTES, PROCESS_BYTES, micro_batch_size, state_bytes, training_bytes
from planner.train.rows import evaluation_bytes, rows_at_once
from planner.train.size import saved_bytes

SHARE_STEP = 0.01
"""Shares of a GPU are rounded up to this, since Ray counts in ten-thousandths and sums of rounded shares must fit."""
HOST_BYTES_BESIDE_A_GPU = 8.0e9
"""Host memory of a process that trains on a GPU, at least [bytes]."""
HOST_MARGIN = 1.3
"""Factor on what weights and states take on the host, to allow for the process."""
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


def demand_of(job: Job, gpu_memory: float | None = None) -> Demand:
    """Return what a job needs.

    Args:
        job: the job.
        gpu_memory: memory of one GPU [bytes]; where it is not stated every segment gets a GPU of its own.

    Raises:
        InputError: the model does not fit the GPU, with one sequence a pass.
    """
    shape, recipe, method = job.segment.shape, job.recipe, job.segment.method
    rows = micro_batch_size(shape, recipe, method=method, device=job.device, memory=gpu_memory)
    need = training_bytes(shape, recipe, method=method, device=job.device, rows=rows)
    if job.segment.cell is not None:  # only endpoints are evaluated; gradients are freed by then, but the allocator may still hold their memory
        heldout = evaluation_bytes(shape, recipe.seq_len, rows_at_once(recipe.seq_len, shape.vocab))
        need = max(need, PROCESS_BYTES + state_bytes(shape, recipe.method(method), job.device) + heldout)
    if job.device == "cpu":
        need = max(need, PROCESS_BYTES + FROZEN_BYTES * shape.params_total)  # as it is loaded, before matrices are quantised
        return Demand(job.threads, 0.0, need)
    if gpu_memory is None:
        return Demand(job.threads, 1.0, need)
    if need > gpu_memory:
        raise InputError(
            f"{job.segment.segment_id} needs about {need / 1e9:.3g} GB, but a GPU has {gpu_memory / 1e9:.3g} GB",
            remedy="give a larger --gpu-memory if the GPU has it, or leave that size out of the sweep",
        )
    share = max(need / gpu_memory, 1 / MOST_ON_ONE_GPU)
    return Demand(job.threads, min(1.0, math.ceil(share / SHARE_STEP - 1e-9) * SHARE_STEP), need)


def host_bytes(job: Job) -> float:
    """Estimate the host memory that a job on a GPU needs [bytes]: a model is made or loaded there in fp32, and a state goes through it to the disk."""
    shape, method = job.segment.shape, job.recipe.method(job.segment.method)
    return max(HOST_BYTES_BESIDE_A_GPU, HOST_MARGIN * max(FROZEN_BYTES * shape.params_total, saved_bytes(shape, method)))
