"""Estimate whether a run fits the memory of its GPUs. Imports no torch."""

from __future__ import annotations

from planner.train.full.plan import FullRun
from planner.train.micro_batch import GPU_SHARE, PROCESS_BYTES
from planner.train.size import Memory, memory


def memory_needed(run: FullRun, world: int, micro_batch: int) -> Memory:
    """Estimate the memory of a rank at the stage that takes the most.

    Args:
        run: the run.
        world: ranks that train it.
        micro_batch: sequences of a forward pass.
    """
    told, shape = run.settings, run.last.segment.shape
    each = (
        memory(
            shape, run.recipe.seq_len, micro_batch, shards=told.shard_ranks or world, precision=told.precision,
            checkpoint_activations=told.checkpoint_activations, method=run.recipe.method(job.segment.method),
            compiled=told.compile_backend is not None, bounded=told.micro_batch is not None,
        )
        for job in run.stages
    )  # fmt: skip
    return max(each, key=lambda need: need.total)


def micro_batch_that_fits(run: FullRun, world: int, have: float) -> int:
    """Return the run's micro-batch, halved until it fits; 1 at least.

    Args:
        run: the run, whose settings state a micro-batch.
        world: ranks that train it.
        have: memory of a rank's GPU [bytes].
    """
    count = run.settings.micro_batch
    assert count is not None
    while count > 1 and memory_needed(run, world, count).total > GPU_SHARE * have - PROCESS_BYTES:
        count = (count + 1) // 2
    return count
