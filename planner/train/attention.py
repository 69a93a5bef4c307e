"""Torch's fused attention, called through transformers but without the mask that transformers would build.

Every window here is full, so the kernel's own causal flag is enough. Transformers finds that out by inspecting token positions, for which each pass
waits for the GPU; under torch.compile it cannot inspect them and builds a mask, which rules out flash attention on a GPU.
For an attention registered under a name that it has no mask function for, it builds none.
"""

from __future__ import annotations

from typing import Any

UNMASKED = "unmasked"
"""Name under which that attention is registered."""
SEE_ALL = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers see all earlier tokens, unless a sliding window is configured."""


def unmasked() -> str:
    """Register the attention with transformers in this process; return its name."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(UNMASKED, sdpa_attention_forward)
    return UNMASKED


def attention_of(config: Any) -> str | None:
    """Return the attention to load a model with: the unmasked one where each layer sees all earlier tokens, else None for its own."""
    return unmasked() if config.model_type in SEE_ALL and getattr(config, "sliding_window", None) is None else None
