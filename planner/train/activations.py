"""What a decoder layer computes for a token, and why memory is estimated in three ways. Imports no torch.

- Planning (`Method.bytes_per_gpu` in `planner.method`): the least that each of several GPUs needs, as a condition on sizes and bases. All is sharded, a
  layer's activations are recomputed, one sequence: nothing about the run is chosen yet.
- A segment of a sweep (`planner.train.micro_batch`, and `planner.train.rows` for its evaluation): one process, unsharded, nothing recomputed. An upper
  bound, by which batches are split and small models packed on a GPU. It must stay as it is: the micro-batch decides the order of sums in a run.
- A rank of the full-size run (`planner.train.size`): for the run's own sharding, precision, recomputation and compiling, as close as can be.

The second uses the layer below; the others count what they keep of it themselves.
"""

from __future__ import annotations

from planner.shapes import ModelShape


def layer_values(shape: ModelShape) -> int:
    """Count the values that a layer computes for each token, attention's scores aside.

    The residual stream at six places, what enters and leaves attention (queries and keys also before their norms and rotations), and five widths of
    the gated feed-forward.
    """
    attention = 4 * shape.heads * shape.head_dim + 6 * shape.kv_heads * shape.head_dim
    return 8 * shape.hidden + attention + 5 * shape.intermediate
