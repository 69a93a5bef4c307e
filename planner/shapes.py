"""A decoder's shape and its parameters, group by group.

The families are those of Hugging Face transformers: "llama" (Mistral's too), "qwen3" (Llama with RMS norms on queries and keys), and for open
checkpoints "qwen2" (Llama with biases on queries, keys and values).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from planner.errors import InputError

FAMILIES = ("qwen3", "llama")
"""Families that a sweep can train from scratch."""
OPEN_FAMILIES = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3", "qwen2": "qwen2"}
"""Families by the `model_type` of an open checkpoint's config.json."""


@dataclass(frozen=True)
class ModelShape:
    """Shape of one decoder-only transformer."""

    family: str
    """"qwen3", "llama" or "qwen2"."""
    layers: int
    """Number of decoder blocks."""
    hidden: int
    """Width of the residual stream."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    head_dim: int
    """Width of one head."""
    intermediate: int
    """Width of the gated feed-forward layer."""
    vocab: int
    """Rows of the embedding table."""
    tied: bool = True
    """Whether the output layer shares the embedding table."""

    def __post_init__(self) -> None:
        if self.family not in OPEN_FAMILIES.values():
            raise InputError(f"model family {self.family!r} is not known", remedy=f"choose one of {', '.join(FAMILIES)}")
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} in a model shape", remedy="give a positive whole number")
        if self.heads % self.kv_heads:
            raise InputError(f"{self.kv_heads} key heads do not divide {self.heads} query heads", remedy="change kv_heads")

    @property
    def parameter_groups(self) -> dict[str, int]:
        """Count the parameters of each group; the groups add up to `params_total`."""
        query = self.hidden * self.heads * self.head_dim
        key = self.hidden * self.kv_heads * self.head_dim
        groups = {
            "embedding": self.vocab * self.hidden,
            "attention": self.layers * (2 * query + 2 * key),
            "feed_forward": self.layers * 3 * self.hidden * self.intermediate,
            "norms": self.layers * 2 * self.hidden + self.hidden,
            "query_key_norms": self.layers * 2 * self.head_dim if self.family == "qwen3" else 0,
            "query_key_value_biases": self.layers * (self.heads + 2 * self.kv_heads) * self.head_dim if self.family == "qwen2" else 0,
            "output": 0 if self.tied else self.vocab * self.hidden,
        }
        return groups

    @property
    def params_embedding(self) -> int:
        """Count embedding and untied output parameters."""
        groups = self.parameter_groups
        return groups["embedding"] + groups["output"]

    @property
    def params_total(self) -> int:
        """Count all parameters, a tied table once."""
        return sum(self.parameter_groups.values())

    @property
    def params_non_embedding(self) -> int:
        """Count all but embedding and output."""
        return self.params_total - self.params_embedding

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary."""
        return asdict(self)
