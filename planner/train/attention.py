"""Torch's fused attention, as transformers calls it, without the mask that it prepares.

Here every window is full, so what needs no mask is causal attention by the kernel's own flag. Transformers finds that out by looking at the positions of
the tokens, for which each pass waits for a GPU; under torch.compile it cannot look, and makes a mask, with which a GPU has no flash attention.
It makes none for an attention that it knows no mask of.
"""

from __future__ import annotations

from typing import Any

UNMASKED = "unmasked"
"""The name of that attention."""
SEE_ALL = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers see all earlier tokens, but for those that a window is configured for."""


def unmasked() -> str:
    """Make the attention known to transformers in this process; return its name."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(UNMASKED, sdpa_attention_forward)
    return UNMASKED


def attention_of(config: Any) -> str | None:
    """Return what a model of a configuration is loaded with: the unmasked attention where each layer sees all earlier tokens, else its own."""
    return unmasked() if config.model_type in SEE_ALL and getattr(config, "sliding_window", None) is None else None
