"""How many rows of held-out text go through a model at once, and what that takes beside its weights. Imports no torch."""

from __future__ import annotations

from planner.shapes import ModelShape

MOST_ROWS = 32
"""Rows of a forward pass, at most; recorded losses are sums of that many."""
MOST_TOKENS = 16384
"""Tokens of a forward pass, at most."""
BYTES_PER_LOGIT = 10
"""A logit in bf16, in fp32, and its log-probability; a model in fp32 has 8."""
LOGITS_BYTES = 1e9
"""What the logits of a forward pass may take [bytes]; of a single row they take what they do."""


def rows_at_once(seq_len: int, vocab: int, most: int | None = None) -> int:
    """Return the rows of a forward pass over held-out text, 1 at least.

    Args:
        seq_len: tokens of a row.
        vocab: rows of the output layer.
        most: no more than these, such as the micro-batch that memory was found for; None for no such bound.
    """
    fitting = min(MOST_ROWS, MOST_TOKENS // seq_len, int(LOGITS_BYTES // (BYTES_PER_LOGIT * seq_len * vocab)))
    return max(1, fitting if most is None else min(fitting, most))


def evaluation_bytes(shape: ModelShape, seq_len: int, rows: int, *, width: int = 4) -> float:
    """Estimate what a forward pass over held-out text takes beside the weights [bytes]: the logits, and one layer, since none is kept.

    Args:
        shape: the model.
        seq_len: tokens of a row.
        rows: as `rows_at_once` has them.
        width: bytes of an activation.
    """
    layer = 8 * shape.hidden + 4 * shape.heads * shape.head_dim + 6 * shape.kv_heads * shape.head_dim + 5 * shape.intermediate
    return float(rows * seq_len) * (BYTES_PER_LOGIT * shape.vocab + width * layer)
