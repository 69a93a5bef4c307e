"""An existing open checkpoint: its size, and the general tokens that someone else has paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.allocate.allocation import check_shape
from planner.arrays import Array
from planner.artifacts import check_numbers
from planner.errors import InputError
from planner.flops import forward_flops_per_token
from planner.ladder import shape_for
from planner.pretrained import context_in, shape_in
from planner.shapes import ModelShape
from planner.units import parse_count

KEYS = ("name", "tokens", "params", "vocab", "config", "context")
CONTEXT = 4096
"""Default tokens per sequence, if the checkpoint has as many positions."""
VOCAB = 32000
"""Default vocabulary of the ladder's shape, that of LLaMA and similar models."""


@dataclass(frozen=True)
class Base:
    """A checkpoint to specialise."""

    name: str
    tokens: float
    """General tokens that it was trained on."""
    shape: ModelShape
    """Its own, or the ladder's for its size."""
    exact: bool
    """Whether the shape is its own."""
    context: int = CONTEXT
    """Tokens per sequence."""
    config: Path | None = None
    """File from which its shape was read."""
    vocab_assumed: bool = False
    """Whether its vocabulary was not given."""

    def params_total(self, vocab: int | None) -> int:
        """Return its parameters with a tied embedding of the law's vocabulary, the only one that a law counting embeddings has seen."""
        return self.shape.params_non_embedding + (vocab or self.shape.vocab) * self.shape.hidden

    def params_by(self, vocab: int | None, count: int = 1) -> dict[str, Array]:
        """Return its parameters under each convention, repeated `count` times."""
        values = {"non_embedding": self.shape.params_non_embedding, "total": self.params_total(vocab)}
        return {kind: np.full(count, float(value)) for kind, value in values.items()}

    def flops_inference(self, tokens: float) -> float:
        """Return the FLOPs of reading and writing some tokens: all weights are needed, whatever part of them was trained."""
        return tokens * forward_flops_per_token(self.shape, self.context)

    def to_dict(self) -> dict[str, Any]:
        """Return its fields for an answer's file, without the path of its shape."""
        return {
            "name": self.name, "tokens": self.tokens, "shape": self.shape.to_dict(), "exact": self.exact, "context": self.context,
            "vocab_assumed": self.vocab_assumed,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Base:
        """Read what `to_dict` returned; for use inside `artifacts.whole`.

        Raises:
            KeyError: something is missing.
            TypeError: an invalid shape.
            ValueError: an impossible number.
        """
        check_numbers(body, ("tokens", "context"), low=5e-324, what=f"the base {body['name']}")
        check_shape(body["shape"], f"the base {body['name']}")
        return cls(**{**body, "shape": ModelShape(**body["shape"])})

    @classmethod
    def parse(cls, text: str) -> Base:
        """Read "name=llama-2-7b,tokens=2e12,params=6.5e9", or config=FOLDER instead of params.

        Args:
            text: pairs of key and value; `params` are non-embedding parameters and `vocab` the vocabulary beside them, `config` is a folder with the
                checkpoint's config.json instead, `context` the tokens of a training sequence.

        Raises:
            InputError: a missing, unknown or duplicate key, a value that is not a number, or a model so small that its vocabulary dominates its cost
                and must be given.
        """
        pairs: dict[str, str] = {}
        for item in text.split(","):
            key, equals, value = item.partition("=")
            key = key.strip()
            if not equals or key not in KEYS or key in pairs or not value.strip():
                raise InputError(f"--base {text!r}: {item!r} is not one of {', '.join(f'{key}=' for key in KEYS)}", remedy=_EXAMPLE)
            pairs[key] = value.strip()
        missing = [key for key in ("name", "tokens") if key not in pairs]
        if missing or ("params" in pairs) == ("config" in pairs):
            raise InputError(f"--base {text!r} lacks {missing[0] if missing else 'one of params and config'}", remedy=_EXAMPLE)
        tokens, context = parse_count(pairs["tokens"]), parse_count(pairs.get("context", CONTEXT))
        if tokens == 0 or context < 1 or context != int(context):
            raise InputError(f"--base {text!r}: tokens and context must be positive, context whole", remedy=_EXAMPLE)
        vocab = parse_count(pairs.get("vocab", VOCAB))
        if vocab < 1 or vocab != int(vocab) or ("vocab" in pairs and "config" in pairs):
            raise InputError(f"--base {text!r}: vocab must be a whole number, and goes with params=, not with config=", remedy=_EXAMPLE)
        if "config" in pairs:
            path = Path(pairs["config"])
            path = path / "config.json" if path.is_dir() else path
            shape = shape_in(path)
            longest = context_in(path, shape)
            if "context" in pairs and context > longest:
                raise InputError(f"--base {text!r}: context = {context:g} is longer than its {longest} positions", remedy="leave it out, or lower it")
            return cls(pairs["name"], tokens, shape, True, min(int(context), longest), path)
        shape = shape_for(parse_count(pairs["params"]), family="llama", vocab=int(vocab))
        if "vocab" not in pairs and shape.params_total > 2 * shape.params_non_embedding:
            raise InputError(
                f"--base {text!r}: with the default vocabulary of {VOCAB:,} most of its {shape.params_total:,} parameters would be embeddings",
                remedy="give its own, such as vocab=1024",
            )
        return cls(pairs["name"], tokens, shape, False, int(context), vocab_assumed="vocab" not in pairs)


_EXAMPLE = "write it as name=llama-2-7b,tokens=2T,params=6.5B; defaults are vocab=32000 and context=4096"
