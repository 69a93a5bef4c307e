"""A decoder's shape and its parameters, group by group.

The families are those of Hugging Face transformers: "llama" (Mistral's too), "qwen3" (Llama with RMS norms on queries and keys), and for open
checkpoints "qwen2" (Llama with biases on queries, keys and values). An open checkpoint of any other family is counted module by module instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from planner.errors import InputError

FAMILIES = ("qwen3", "llama")
"""Families that a sweep can train from scratch."""
OPEN_FAMILIES = {"llama": "llama", "mistral": "llama", "qwen3": "qwen3", "qwen2": "qwen2"}
"""Families by the `model_type` of an open checkpoint's config.json."""
MOST_PARAMETERS = 10**15
"""Upper limit of parameter counts in a file."""


@dataclass(frozen=True)
class Counted:
    """Parameter counts of a model whose family has no formula here."""

    params_total: int
    """All parameters, a tied table once."""
    params_embedding: int
    """Parameters of the embeddings, positions included, and of an untied output layer."""
    matrices: int
    """Weights that a token is multiplied by, the output layer's included; of experts only those that a token is sent to."""
    layers: tuple[tuple[str, int, int], ...]
    """Linear layers by their last name, summed over the model: their weights, and their widths in plus out."""
    idle: int = 0
    """Weights of experts that a token is not sent to."""
    transposed: tuple[str, ...] = ()
    """Names of those layers that are stored transposed, as GPT-2's are, and cannot be quantised to 4 bits."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple((str(name), weights, sides) for name, weights, sides in self.layers))
        object.__setattr__(self, "transposed", tuple(self.transposed))
        numbers = [self.params_total, self.params_embedding, self.matrices, self.idle, *(number for layer in self.layers for number in layer[1:])]
        for number in numbers:
            if type(number) is not int or not 0 <= number < MOST_PARAMETERS:
                raise InputError(f"{number!r} in the counted parameters of a model shape", remedy="give a whole number from 0")
        names = [layer[0] for layer in self.layers]
        if not 0 < self.matrices or self.params_embedding + self.idle >= self.params_total or len(set(names)) < len(names):
            raise InputError(f"counted parameters of a model shape that do not add up: {asdict(self)}", remedy="plan again")


@dataclass(frozen=True)
class ModelShape:
    """Shape of one decoder-only transformer."""

    family: str
    """"qwen3", "llama" or "qwen2"; where its modules are counted, the `model_type` of its checkpoint."""
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
    counted: Counted | None = None
    """Counts of its modules, where its family has no formula here; `intermediate` is then its widest layer, for estimates of memory."""

    def __post_init__(self) -> None:
        if isinstance(self.counted, Mapping):  # read from a file
            object.__setattr__(self, "counted", Counted(**self.counted))
        if not isinstance(self.counted, Counted | None):
            raise InputError(f"counted = {self.counted!r} in a model shape", remedy="leave it out, or plan again")
        if self.counted is None and self.family not in OPEN_FAMILIES.values():
            raise InputError(f"model family {self.family!r} is not known", remedy=f"choose one of {', '.join(FAMILIES)}")
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)} in a model shape", remedy="give a positive whole number")
        if self.heads % self.kv_heads:
            raise InputError(f"{self.kv_heads} key heads do not divide {self.heads} query heads", remedy="change kv_heads")

    @property
    def parameter_groups(self) -> dict[str, int]:
        """Count the parameters of each group; the groups add up to `params_total`."""
        if self.counted is not None:
            return {"embedding": self.counted.params_embedding, "layers": self.counted.params_total - self.counted.params_embedding}
        query = self.hidden * self.heads * self.head_dim
        key = self.hidden * self.kv_heads * self.head_dim
        return {
            "embedding": self.vocab * self.hidden,
            "attention": self.layers * (2 * query + 2 * key),
            "feed_forward": self.layers * 3 * self.hidden * self.intermediate,
            "norms": self.layers * 2 * self.hidden + self.hidden,
            "query_key_norms": self.layers * 2 * self.head_dim if self.family == "qwen3" else 0,
            "query_key_value_biases": self.layers * (self.heads + 2 * self.kv_heads) * self.head_dim if self.family == "qwen2" else 0,
            "output": 0 if self.tied else self.vocab * self.hidden,
        }

    @property
    def params_embedding(self) -> int:
        """Count embedding and untied output parameters."""
        groups = self.parameter_groups
        return groups["embedding"] + groups.get("output", 0)

    @property
    def params_total(self) -> int:
        """Count all parameters, a tied table once."""
        return sum(self.parameter_groups.values())

    @property
    def params_non_embedding(self) -> int:
        """Count all but embedding and output."""
        return self.params_total - self.params_embedding

    @property
    def matrices(self) -> int:
        """Count the weights that a token is multiplied by: all but embedding, norms and biases, and the output layer, tied or not."""
        if self.counted is not None:
            return self.counted.matrices
        groups = self.parameter_groups
        return groups["attention"] + groups["feed_forward"] + self.vocab * self.hidden

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """Map the last names of the layers' matrices, as transformers has them, to their weights and the sum of their widths, over all layers."""
        if self.counted is not None:
            return {name: (weights, sides) for name, weights, sides in self.counted.layers}
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        ends = {"q_proj": query, "k_proj": key, "v_proj": key, "o_proj": query, **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.intermediate)}
        return {name: (self.layers * self.hidden * end, self.layers * (self.hidden + end)) for name, end in ends.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary; `counted` is left out where there is nothing in it."""
        body = asdict(self)
        if self.counted is None:
            del body["counted"]
        return body
