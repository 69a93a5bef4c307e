"""What the user has and wants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from planner.artifacts import check_numbers
from planner.errors import InputError
from planner.units import format_count

TOLERANCE = 0.005
"""Default share of the best loss within which plans count as equally good."""
LEFT_OVER = 0.98
"""Share of the budget: a plan that spends less leaves some of it over."""
TAKEN = 0.98
"""Share of a limit, such as the text with its passes or a required loss, above which it counts as binding."""
MOST_TOLERANCE = 0.2
"""Above it nearly every plan would count as good; 0.5 is surely meant as per cent."""


@dataclass(frozen=True)
class Request:
    """A budget, the available text, and limits."""

    flops: float
    """Budget [FLOPs]: training, plus inference if counted."""
    unique_spec: float
    """Distinct specialist tokens available."""
    params: float | None = None
    """Fixed size [non-embedding parameters]; None to choose it."""
    max_epochs: float | None = None
    """Most passes over the specialist text; None for the most that any run made."""
    general_tokens: float | None = None
    """Distinct general tokens available, each seen at most once; None for more than any plan needs."""
    params_range: tuple[float, float] | None = None
    """Least and largest size to search."""
    params_among: tuple[float, ...] = ()
    """Sizes to choose among; empty for all."""
    inference_tokens: float = 0.0
    """Tokens that the model will read and write in its lifetime; the budget pays their forward passes too."""
    training_flops: float | None = None
    """Most FLOPs for training, such as what the GPUs do within the time limit; None for all that inference leaves of the budget."""
    max_general_loss: float | None = None
    """Most general loss after specialising [nats/token]."""
    max_general_rise: float | None = None
    """Most rise of the general loss over that before the specialist stage, as a share."""
    tolerance: float = TOLERANCE
    """Share of the best loss within which plans count as equally good."""
    memory_per_gpu: float | None = None
    """Memory of one GPU [bytes], which limits the size; None for no limit."""
    gpus: int = 1
    """GPUs that share a model's states."""
    flops_per_gpu_second: float | None = None
    """Training speed of one GPU [FLOP/s], for the cost of a plan; None if it was not given."""
    usd_per_gpu_hour: float | None = None
    """Price of one GPU for an hour."""

    @classmethod
    def from_mapping(cls, body: Mapping[str, Any]) -> Request:
        """Read a request from an answer.

        For use inside `artifacts.whole`.

        Raises:
            InputError: a value that no request has.
            TypeError: an unknown key.
            ValueError: something that is not a number.
        """
        known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
        for key, value in known.items():
            several = key in ("params_range", "params_among") and value is not None
            for number in tuple(value) if several else (value,):
                check_numbers({key: number}, [key], optional=not several, what="the request")
        if known.get("params_range") is not None and len(known["params_range"]) != 2:
            raise ValueError(f"params_range = {known['params_range']!r} of the request")
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they are written in an answer."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def sized(self) -> bool:
        """Whether one size is requested, or several to choose among."""
        return self.params is not None or bool(self.params_among)

    @property
    def limited(self) -> bool:
        """Whether the general loss is limited."""
        return self.max_general_loss is not None or self.max_general_rise is not None

    def __post_init__(self) -> None:
        positive = {
            "a budget": self.flops, "spec-tokens": self.unique_spec, "params": self.params, "max-epochs": self.max_epochs,
            "general-tokens": self.general_tokens, "gpus": self.gpus,
            "gpu-memory [GB]": None if self.memory_per_gpu is None else self.memory_per_gpu / 1e9,
            "max-general-loss": self.max_general_loss, "training-flops": self.training_flops,
            "gpu-flops": self.flops_per_gpu_second, "usd-per-gpu-hour": self.usd_per_gpu_hour,
        }  # fmt: skip
        for name, value in positive.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} of {value:g} is not a positive number", remedy="give a positive number")
        if self.max_general_rise is not None and not (math.isfinite(self.max_general_rise) and self.max_general_rise >= 0):
            raise InputError(f"max-general-rise of {self.max_general_rise:g} is negative or not finite", remedy="give a share such as 0.03, or 3%")
        if not 0 < self.tolerance <= MOST_TOLERANCE:
            what = f"a tolerance of {self.tolerance:g} is not a share above 0 and up to {MOST_TOLERANCE:g}"
            raise InputError(f"{what}: it is {100 * self.tolerance:g} % of the best loss", remedy="give a share such as 0.005, or 0.5%")
        for size in (*self.params_among, *(self.params_range or ())):
            if not (math.isfinite(size) and size > 0):
                raise InputError(f"a size of {size:g} parameters is not a positive number", remedy="give a positive number")
        if not (math.isfinite(self.inference_tokens) and self.inference_tokens >= 0):
            raise InputError(f"inference-tokens of {self.inference_tokens:g} is negative or not finite", remedy="give a count, or leave it out")
        if self.params_range and self.params_range[0] >= self.params_range[1]:
            low, high = (format_count(size) for size in self.params_range)
            raise InputError(f"the range of sizes {low}..{high} is empty", remedy="write the smaller size first")
        if sum((self.params is not None, self.params_range is not None, bool(self.params_among))) > 1:
            raise InputError("a fixed size, a range and a list of sizes exclude each other", remedy="give one of them")

    def paid(self, inference: float = 0.0) -> float:
        """Return what training may take [FLOPs], given those of inference; negative if those exceed the budget."""
        return min(self.flops - inference, self.training_flops or math.inf)

    @property
    def timed(self) -> bool:
        """Whether the budget is just what the GPUs do within the time limit."""
        return self.training_flops == self.flops and not self.inference_tokens

    def spends(self, inference: float = 0.0) -> float:
        """Return the most FLOPs of training and inference together, given those of inference."""
        return min(self.flops, (self.training_flops or math.inf) + inference)

    def grows(self, inference: float = 0.0) -> float:
        """Return what a factor in compute multiplies, given the FLOPs of inference: the limit on training if that binds, else the budget."""
        return self.training_flops if self.training_flops and self.training_flops <= self.flops - inference else self.flops

    def more(self, factor: float, inference: float = 0.0) -> str:
        """Name what a factor in compute means more of: time if only that binds, both if the budget binds soon after."""
        if self.training_flops is None or self.training_flops >= factor * self.flops - inference:
            return "compute"
        alone = self.timed or factor * self.training_flops <= self.flops - inference
        return "time for training" if alone else "compute, and time for it"

    def times(self, factor: float) -> Request:
        """Return the same request with the compute multiplied by a factor, in total and for training."""
        return replace(self, flops=factor * self.flops, training_flops=factor * self.training_flops if self.training_flops else None)
