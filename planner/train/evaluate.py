"""Held-out loss of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from planner.corpus import Corpus
from planner.train.order import IGNORED
from planner.train.rows import MOST_ROWS, rows_at_once


def domain_loss(
    model: torch.nn.Module, corpus: Corpus, domain: str, seq_len: int, *, max_tokens: int, device: torch.device, most_rows: int | None = None
) -> tuple[float, int]:
    """Average the loss over a domain's held-out text; for pairs over the responses, each given its own prompt.

    Args:
        model: a causal language model.
        corpus: where the text is.
        domain: of the corpus.
        seq_len: window [tokens].
        max_tokens: predictions to average over, at most.
        device: where the model is.
        most_rows: rows of a forward pass, at most; None for what `rows_at_once` says. The predictions averaged over do not depend on it.

    Returns:
        Mean loss [nats/token], and the number of predictions.
    """
    tokens, mask = corpus.tokens(domain, "heldout"), corpus.mask(domain, "heldout")
    if mask is None:
        return heldout_loss(model, tokens, seq_len, max_tokens=max_tokens, device=device, most_rows=most_rows)
    return pairs_loss(model, tokens, mask, corpus.offsets(domain, "heldout"), seq_len, max_tokens=max_tokens, device=device, most_rows=most_rows)


@torch.no_grad()  # type: ignore[untyped-decorator]
def heldout_loss(
    model: torch.nn.Module, tokens: NDArray[np.unsignedinteger], seq_len: int, *, max_tokens: int, device: torch.device, most_rows: int | None = None
) -> tuple[float, int]:
    """Average the loss over the first windows of a held-out text.

    Args:
        model: a causal language model.
        tokens: shape (tokens,).
        seq_len: window [tokens].
        max_tokens: predictions to average over, at most.
        device: where the model is.
        most_rows: windows of a forward pass, at most; None for what `rows_at_once` says.

    Returns:
        Mean loss [nats/token], and the number of predictions.
    """
    windows = min((len(tokens) - 1) // seq_len, max(1, max_tokens // seq_len))
    assert windows > 0, len(tokens)
    model.eval()
    total, size = 0.0, rows_at_once(seq_len, _vocab(model), most_rows)
    for first in range(0, windows, size):
        rows = [tokens[k * seq_len : k * seq_len + seq_len + 1].astype(np.int64) for k in range(first, min(first + size, windows))]
        block = torch.from_numpy(np.stack(rows)).to(device)
        logits = model(input_ids=block[:, :-1]).logits.float()
        total += torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), block[:, 1:].reshape(-1), reduction="sum").item()
    model.train()
    return total / (windows * seq_len), windows * seq_len


@torch.no_grad()  # type: ignore[untyped-decorator]
def pairs_loss(
    model: torch.nn.Module, tokens: NDArray[np.unsignedinteger], mask: NDArray[np.uint8], offsets: NDArray[np.int64], seq_len: int, *, max_tokens: int,
    device: torch.device, most_rows: int | None = None, group: int = MOST_ROWS,
) -> tuple[float, int]:  # fmt: skip
    """Average the loss over the responses of the first pairs, one pair per row, truncated to `seq_len`.

    Args:
        model: a causal language model.
        tokens: shape (tokens,).
        mask: 1 for tokens that count in the loss, shape (tokens,).
        offsets: borders of the pairs, shape (pairs + 1,).
        seq_len: of the longest row [tokens].
        max_tokens: predictions to average over; the group of pairs that reaches it is the last.
        device: where the model is.
        most_rows: rows of a forward pass, at most; None for what `rows_at_once` says.
        group: pairs that are included together or not at all, however many fit in a forward pass.

    Returns:
        Mean loss [nats/token], and the number of predictions.
    """
    model.eval()
    total, count, size = 0.0, 0, rows_at_once(seq_len, _vocab(model), most_rows)
    for begin in range(0, len(offsets) - 1, group):
        for first in range(begin, min(begin + group, len(offsets) - 1), size):
            borders = offsets[first : min(first + size, begin + group) + 1]
            ends = np.minimum(borders[1:], borders[:-1] + seq_len + 1)
            width = int((ends - borders[:-1]).max())
            if width < 2:  # pairs of one token have nothing to predict
                continue
            block = np.zeros((len(ends), width), dtype=np.int64)
            targets = np.full((len(ends), width), IGNORED, dtype=np.int64)
            for row, (start, stop) in enumerate(zip(borders[:-1], ends, strict=True)):
                block[row, : stop - start] = tokens[start:stop]
                targets[row, : stop - start] = np.where(mask[start:stop] > 0, block[row, : stop - start], IGNORED)
            logits = model(input_ids=torch.from_numpy(block[:, :-1]).to(device)).logits.float()
            wanted = torch.from_numpy(targets[:, 1:]).to(device).reshape(-1)
            total += torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted, ignore_index=IGNORED, reduction="sum").item()
            count += int((targets[:, 1:] != IGNORED).sum())
        if count >= max_tokens:
            break
    model.train()
    assert count > 0, len(offsets)
    return total / count, count


def _vocab(model: torch.nn.Module) -> int:
    known: Any = model
    return int(known.config.vocab_size)
