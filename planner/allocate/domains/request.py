"""What the user has and wants for many specialist domains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from planner.allocate.request import TOLERANCE, Request
from planner.allocate.sigmoid import Sigmoid
from planner.errors import InputError
from planner.fit.fitted import FittedLaw


@dataclass(frozen=True)
class Domain:
    """One specialist domain."""

    name: str
    law: FittedLaw
    """Law of its loss; domains that share a law hold the same object."""
    unique_spec: float
    """Distinct specialist tokens available."""
    weight: float = 1.0
    """Weight of its forecast loss in the objective, before the weights are normalised to a sum of 1."""
    max_loss: float | None = None
    """Loss that its forecast, the mean over the resamples, must reach [nats/token]; None for no requirement."""
    law_path: Path | None = None
    """Where the law was read from."""
    general_law: FittedLaw | None = None
    """Law of the general loss after its stage, if there is one."""
    general_law_path: Path | None = None
    accuracy: Sigmoid | None = None
    """Curve from its loss to accuracy, from a table of models; None if none was given."""
    accuracy_path: Path | None = None
    chance: float | None = None
    """Accuracy of guessing in that table if it was given; None if it is fitted."""

    def __post_init__(self) -> None:
        who = f"domain {self.name!r}"
        for name, value in (("unique_tokens", self.unique_spec), ("max_loss", self.max_loss)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{who}: {name} of {value:g} is not a positive number", remedy="give a positive number")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"{who}: a weight of {self.weight:g} is negative or not finite", remedy="give a positive number, or 0")


@dataclass(frozen=True)
class DomainsRequest:
    """A budget for all domains, and limits."""

    flops: float
    """Budget of all training together [FLOPs]."""
    domains: tuple[Domain, ...]
    params: float | None = None
    """Fixed size of every model [non-embedding parameters]."""
    max_epochs: float | None = None
    """Most passes over any domain's text; None for the most that the runs of its law made."""
    general_tokens: float | None = None
    """Distinct general tokens available; a model sees each at most once."""
    params_range: tuple[float, float] | None = None
    params_among: tuple[float, ...] = ()
    memory_per_gpu: float | None = None
    """Memory of one GPU [bytes], which limits the size of every model; None for no limit."""
    gpus: int = 1
    """GPUs that share a model's states."""
    inference_tokens: float = 0.0
    """Tokens that all models together read and write in their lifetime, paid from the budget too; models of different sizes divide them by weight."""
    max_general_loss: float | None = None
    """Most general loss of every model after its specialist stage [nats/token]."""
    max_general_rise: float | None = None
    """Most rise of it over the general loss of the trunk, or of the same model before its specialist stage, as a share."""
    tolerance: float = TOLERANCE
    """Share of the best weighted loss within which plans count as equally good."""
    flops_per_gpu_second: float | None = None
    """Training speed of one GPU [FLOP/s], for the cost of a plan; None if it was not given."""
    usd_per_gpu_hour: float | None = None
    """Price of one GPU for an hour."""

    def __post_init__(self) -> None:
        names = [domain.name for domain in self.domains]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"there are {names.count(name)} domains named {name!r}", remedy="give each domain a name of its own")
        if not any(domain.weight > 0 for domain in self.domains):
            raise InputError("every domain has weight 0, so there is nothing to minimise", remedy="give at least one domain a positive weight")
        self.of(self.domains[0])  # checks the limits that one domain has too

    @property
    def sized(self) -> bool:
        """Whether a size is asked for, or several to choose among."""
        return self.params is not None or bool(self.params_among)

    @property
    def limited(self) -> bool:
        """Whether the general loss is limited."""
        return self.max_general_loss is not None or self.max_general_rise is not None

    def of(self, domain: Domain) -> Request:
        """Return the request for one domain alone, with its own share of the inference."""
        part = domain.weight / sum(each.weight for each in self.domains)
        return Request(
            self.flops, domain.unique_spec, self.params, self.max_epochs, self.general_tokens, self.params_range, self.params_among,
            inference_tokens=part * self.inference_tokens, max_general_loss=self.max_general_loss, max_general_rise=self.max_general_rise,
            tolerance=self.tolerance, memory_per_gpu=self.memory_per_gpu, gpus=self.gpus,
            flops_per_gpu_second=self.flops_per_gpu_second, usd_per_gpu_hour=self.usd_per_gpu_hour,
        )  # fmt: skip
