"""Rows of held-out text per forward pass, and the tokens whose logits are held at once. Imports no torch."""

from __future__ import annotations

from planner.shapes import ModelShape
from planner.train.activations import layer_values

MOST_ROWS = 32
"""Rows of a forward pass, at most; recorded losses were summed over that many at a time."""
MOST_TOKENS = 16384
"""Tokens of a forward pass, at most."""
BYTES_PER_LOGIT = 10
"""A logit in bf16, in fp32, and its log-probability; a model in fp32 has 8."""
LOGITS_BYTES = 1e9
"""Limit on the logits of a forward pass [bytes]; a single row of held-out text may exceed it."""
PLAIN_HEADS = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose logits are what the output layer returns; others may scale or cap them afterwards, and get those of all tokens at once."""


def rows_at_once(seq_len: int, vocab: int, most: int | None = None) -> int:
    """Return the rows of a forward pass over held-out text, 1 at least.

    Args:
        seq_len: tokens of a row.
        vocab: rows of the output layer.
        most: upper bound, such as the micro-batch that memory was found for; None for no such bound.
    """
    fitting = min(MOST_ROWS, MOST_TOKENS // seq_len, int(LOGITS_BYTES // (BYTES_PER_LOGIT * seq_len * vocab)))
    return max(1, fitting if most is None else min(fitting, most))


def logits_at_once(kind: str, vocab: int) -> int | None:
    """Return how many tokens' logits a training pass holds at once; None for all of them, as in families that change them afterwards.

    Args:
        kind: the model's type.
        vocab: rows of the output layer.
    """
    return max(1, int(LOGITS_BYTES // (4 * vocab))) if kind in PLAIN_HEADS else None


def evaluation_bytes(shape: ModelShape, seq_len: int, rows: int, *, width: int = 4) -> float:
    """Estimate what a forward pass over held-out text takes beside the weights [bytes]: the logits and a single layer, since none is kept.

    Args:
        shape: the model.
        seq_len: tokens of a row.
        rows: as `rows_at_once` has them.
        width: bytes of an activation.
    """
    return float(rows * seq_len) * (BYTES_PER_LOGIT * shape.vocab + width * layer_values(shape))
