"""The recipe: everything that is the same in every run of a sweep and in the launched run.

The learning rate follows one rule in the model's size. It must not depend on the token count: a trunk serves every
`tokens_pt` of the grid, so its rate is fixed before it is known where branches will leave it (the D-exponent of the
rule of arXiv 2503.04715 is therefore 0 here, and the stable phase of warm-up–stable–decay, arXiv 2404.06395, is what makes
that affordable).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from planner.artifacts import known_keys, sha256_json
from planner.errors import InputError
from planner.method import TARGETS, Method
from planner.shapes import FAMILIES

_ADDED = ("special_lr_multiplier", "rewarm_steps", "lora_rank", "lora_alpha", "lora_targets", "lora_lr_multiplier")
"""Settings that the recipes of recorded sweeps did not have; at their defaults, runs train as those did."""


@dataclass(frozen=True)
class Recipe:
    """Architecture family, optimiser, schedule, batch and learning-rate rule of a sweep."""

    family: str = "qwen3"
    """Model family, "qwen3" or "llama"; QK-norm widens the learning-rate basin."""
    seq_len: int = 128
    """Tokens per sequence."""
    batch_sequences: int = 8
    """Sequences per optimiser step."""
    warmup_steps: int = 100
    """Linear warm-up from zero, in steps, at the start of a trunk or of a run from scratch."""
    cooldown_fraction: float = 0.3
    """Share of the last stage's tokens spent in the 1−sqrt cooldown to zero (arXiv 2405.18392)."""
    lr_coefficient: float = 4e-3
    """Learning rate at `lr_reference_params` non-embedding parameters."""
    lr_exponent: float = 0.0
    """The rate falls as params_non_embedding to the minus this power."""
    lr_reference_params: float = 1e5
    """Size at which the rate equals the coefficient [non-embedding parameters]."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices (AdamW); norms, biases, embeddings, the output layer and adapters are not decayed."""
    beta1: float = 0.9
    """AdamW's first-moment decay."""
    beta2: float = 0.95
    """AdamW's second-moment decay."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    init_scale: float = 1.0
    """Matrices start normal with deviation init_scale/sqrt(fan_in), embeddings and output with half of it; those that write the residual stream are
    divided by sqrt(2·layers)."""
    spike_factor: float = 1.6
    """A run whose smoothed training loss passes this multiple of its best is stopped as diverged; a launched one is rolled back first."""
    special_lr_multiplier: float = 1.0
    """Peak rate of the specialist stage over that of the general stage."""
    rewarm_steps: int = 20
    """Linear warm-up, in steps, where the optimiser is new and the weights are not: from an open checkpoint, and at the start of adapters."""
    lora_rank: int = 16
    """Rank of the adapters of methods "lora" and "qlora"."""
    lora_alpha: float = 32.0
    """Adapters are scaled by alpha/rank (arXiv 2106.09685)."""
    lora_targets: tuple[str, ...] = TARGETS
    """Matrices of each layer that adapters sit on, out of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj."""
    lora_lr_multiplier: float = 1.0
    """Peak rate of adapters over that of training all parameters in the same stage."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InputError(f"recipe: family = {self.family!r} is not known", remedy=f"choose one of {', '.join(FAMILIES)}")
        written = asdict(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("family", "lora_targets"):
                continue
            whole = field.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
                kind = "a whole number" if whole else "a number"
                raise InputError(f"recipe: {field.name} = {value!r} is not {kind}", remedy=f"give {kind}")
            object.__setattr__(self, field.name, value if whole else float(value))  # 1 and 1.0 are one recipe, and have one fingerprint
        if not isinstance(self.lora_targets, (list, tuple)) or not all(isinstance(target, str) for target in self.lora_targets):
            raise InputError(f"recipe: lora_targets = {self.lora_targets!r} is not a list of names", remedy=f"choose among {', '.join(TARGETS)}")
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        object.__setattr__(self, "_written", {**written, "lora_targets": self.lora_targets})
        self.method("lora")  # refuses impossible ranks and targets
        positive = ("seq_len", "batch_sequences", "lr_coefficient", "lr_reference_params", "clip_norm", "epsilon", "init_scale")
        for name in (*positive, "special_lr_multiplier", "lora_alpha", "lora_lr_multiplier"):
            if getattr(self, name) <= 0:
                raise InputError(f"recipe: {name} = {getattr(self, name)!r} is not positive", remedy="give a positive number")
        for name, low, high in (
            ("cooldown_fraction", 0.0, 1.0),
            ("beta1", 0.0, 0.9999),
            ("beta2", 0.0, 0.99999),
            ("weight_decay", 0.0, 10.0),
            ("warmup_steps", 0, 10**7),
            ("rewarm_steps", 0, 10**7),
            ("lr_exponent", -1.0, 2.0),
            ("spike_factor", 1.01, 100.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"recipe: {name} = {getattr(self, name)!r} is outside {low} to {high}", remedy="choose a value inside")

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any]) -> Recipe:
        """Build a recipe from a TOML or JSON table; a missing key takes its default.

        Raises:
            InputError: a key is unknown, or a value is impossible.
        """
        known_keys(table, (field.name for field in fields(cls)), "recipe")
        return cls(**table)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a plain dictionary, as they read back from a file: tuples as lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def fingerprint(self) -> str:
        """Hash all settings; runs with different fingerprints are never mixed in one fit.

        Settings added later count only where they differ from their defaults, so that recorded sweeps keep the fingerprint they were made with.
        """
        return self._hash(asdict(self))

    @property
    def earlier_fingerprint(self) -> str:
        """Hash the settings as written, with 1 distinct from 1.0, as earlier versions did, so that what they began can resume."""
        return self._hash(self._written)  # type: ignore[attr-defined]

    def _hash(self, settings: dict[str, Any]) -> str:
        added = {field.name: field.default for field in fields(self) if field.name in _ADDED}
        return sha256_json({key: value for key, value in settings.items() if key not in added or value != added[key]})[:16]

    @property
    def tokens_per_step(self) -> int:
        """Tokens in one optimiser step."""
        return self.seq_len * self.batch_sequences

    def learning_rate(self, params_non_embedding: float) -> float:
        """Return the peak learning rate of a general stage in full for a size [non-embedding parameters]."""
        return self.lr_coefficient * (params_non_embedding / self.lr_reference_params) ** -self.lr_exponent

    def general_multiplier(self, method: str) -> float:
        """Return the peak rate of a general stage, trained by a method, over the rate of its size."""
        return self.lora_lr_multiplier if self.method(method).both else 1.0

    def special_multiplier(self, method: str) -> float:
        """Return the peak rate of a specialist stage, trained by a method, over the rate of its size."""
        return self.special_lr_multiplier * (1.0 if method == "full" else self.lora_lr_multiplier)

    def method(self, name: str) -> Method:
        """Return a way of training, with this recipe's adapters."""
        return Method(name, self.lora_rank, self.lora_targets)

    def steps(self, tokens: float) -> int:
        """Round tokens to whole optimiser steps, at least one for any positive count."""
        return 0 if tokens <= 0 else max(1, round(tokens / self.tokens_per_step))
