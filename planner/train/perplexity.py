"""Held-out losses of a checkpoint on disk."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from planner.corpus import Corpus
from planner.train.evaluate import domain_loss
from planner.train.matmul import placed
from planner.train.start import open_checkpoint


def heldout_losses(checkpoint: Path, corpus: Corpus, domain: str, seq_len: int, *, max_tokens: int, device: str = "cpu") -> dict[str, float]:
    """Measure a checkpoint on the held-out text of the specialist and the general domain.

    Returns:
        loss_spec, loss_general [nats/token], bpb_spec, bpb_general [bits/byte].
    """
    model, place = placed(open_checkpoint(checkpoint), device), torch.device(device)
    found = {}
    for key, name in (("spec", domain), ("general", corpus.general)):
        loss, _ = domain_loss(model, corpus, name, seq_len, max_tokens=max_tokens, device=place)
        found[f"loss_{key}"] = loss
        found[f"bpb_{key}"] = loss / math.log(2) / corpus.bytes_per_token(name)
    return found
