"""Held-out loss of a model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


@torch.no_grad()  # type: ignore[untyped-decorator]
def heldout_loss(
    model: torch.nn.Module, tokens: NDArray[np.unsignedinteger], seq_len: int, *, max_tokens: int, device: torch.device, batch: int = 32
) -> tuple[float, int]:
    """Average the loss over the first windows of a held-out text.

    Args:
        model: a causal language model.
        tokens: shape (tokens,).
        seq_len: window [tokens].
        max_tokens: predictions to average over, at most.
        device: where the model is.
        batch: windows a forward pass.

    Returns:
        Mean loss [nats/token], and over how many predictions.
    """
    windows = min((len(tokens) - 1) // seq_len, max(1, max_tokens // seq_len))
    assert windows > 0, len(tokens)
    model.eval()
    total = 0.0
    for first in range(0, windows, batch):
        rows = [tokens[k * seq_len : k * seq_len + seq_len + 1].astype(np.int64) for k in range(first, min(first + batch, windows))]
        block = torch.from_numpy(np.stack(rows)).to(device)
        logits = model(input_ids=block[:, :-1]).logits.float()
        total += torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), block[:, 1:].reshape(-1), reduction="sum").item()
    model.train()
    return total / (windows * seq_len), windows * seq_len
