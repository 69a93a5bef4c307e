"""How the best plan moves with the budget, and its file `scaling.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planner.allocate.allocation import Plan
from planner.artifacts import write_artifact
from planner.fit.support import NEAR

KIND = "scaling"
VERSION = 1


@dataclass(frozen=True)
class Optimum:
    """The best plan of one budget; intervals are 90 % over the resamples, each with its own best plan."""

    plan: Plan
    """Least expected regret over the resamples, rounded to what will be trained; its loss has the 90 % interval of one run."""
    params_interval: tuple[float, float]
    """Non-embedding."""
    tokens_pt_interval: tuple[float, float]
    tokens_spec_interval: tuple[float, float]
    """Repeats included."""
    epochs_interval: tuple[float, float]
    extrapolation: dict[str, float]
    """By what factor the plan lies outside the runs of the law on each axis; 1 is inside, None (infinity) where it has some of what no run has, or none of
    what every run has."""
    limits: tuple[str, ...]
    """Ends of the search that the plan stands at, such as "most epochs" or "budget left over"; empty for an optimum inside."""

    @property
    def inside(self) -> bool:
        """Whether the runs cover the plan on every axis."""
        return max(self.extrapolation.values()) <= NEAR


@dataclass(frozen=True)
class Exponent:
    """d ln quantity / d ln C, fitted over the budgets at which the quantity is not at a limit."""

    quantity: str
    """"params_non_embedding", "tokens_pt" or "tokens_spec"."""
    value: float | None
    """Of the plans with the least expected regret, in a search finer than `plan allocate`'s; None where fewer than three budgets remain."""
    low: float | None
    high: float | None
    """90 % interval over the resamples' own slopes; None where fewer than half of them have one."""
    off_percent: float | None
    """Root mean square of what these plans are off this power law [%]: large where the optimum bends, as where the kind of plan changes."""
    budgets: int
    """Budgets that the value is fitted over."""
    resamples_share: float
    """Share of the resamples that have three budgets or more, and so a slope."""


@dataclass(frozen=True)
class Curve:
    """The best plans of all budgets with one amount of distinct specialist text."""

    unique_spec: float
    """Distinct specialist tokens there are."""
    optima: tuple[Optimum, ...]
    """One a budget, ascending."""
    exponents: tuple[Exponent, ...]


@dataclass(frozen=True)
class BreakEven:
    """How many times the compute a smaller amount of text needs to reach what a larger one reaches with a budget."""

    unique_less: float
    unique_more: float
    """Distinct specialist tokens."""
    flops: float
    """The budget with the larger amount [FLOPs]."""
    factor: float | None
    """Compute of the smaller amount over `flops`, under the mean of ln L over the resamples; None: never in this range."""
    low: float | None
    high: float | None
    """90 % interval over the resamples; None: never in this range."""
    never: float
    """Share of the resamples under which the smaller amount never reaches it in this range."""
    most: float
    """The greatest factor that the range of budgets can show: the last budget over `flops`."""


@dataclass(frozen=True)
class Scaling:
    """What `plan scaling` answers."""

    request: dict[str, Any]
    """Limits that hold at every budget, and the budgets [FLOPs]."""
    curves: tuple[Curve, ...]
    """One an amount of distinct specialist text, ascending."""
    break_evens: tuple[BreakEven, ...]
    """For each pair of amounts and each budget but the last."""
    warnings: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    """From the law: recipe, vocabulary, corpus, domain."""

    def takes(self, tokens: str) -> bool:
        """Tell whether a plan, or the best of a resample, has any of "tokens_pt" or "tokens_spec": a law of one stage knows no others."""
        return any(getattr(item, f"{tokens}_interval")[1] > 0 or getattr(item.plan, tokens) > 0 for curve in self.curves for item in curve.optima)

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write scaling.json."""
        write_artifact(path, KIND, VERSION, asdict(self), inputs)
