"""How the best plan changes with the budget, and its file `scaling.json`."""

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
    """The best plan of one budget; intervals are 90 % over the resamples' own best plans."""

    plan: Plan
    """The plan with the least expected regret over the resamples, rounded to whole optimiser steps; its loss has the 90 % interval of one run."""
    params_interval: tuple[float, float]
    """Non-embedding parameters."""
    tokens_pt_interval: tuple[float, float]
    tokens_spec_interval: tuple[float, float]
    """Repeats included."""
    epochs_interval: tuple[float, float]
    extrapolation: dict[str, float]
    """By what factor the plan lies outside the runs of the law on each axis; 1 is inside, None (infinity) if it has something that no run has, or lacks
    what every run has."""
    limits: tuple[str, ...]
    """Limits that the plan reaches, such as "most epochs" or "budget left over"; empty for an optimum inside."""

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
    """Exponent of the plans with the least expected regret, in a search finer than `plan allocate`'s; None if fewer than three budgets remain."""
    low: float | None
    high: float | None
    """90 % interval of the resamples' own slopes; None if fewer than half of them have one."""
    off_percent: float | None
    """Root mean square deviation of these plans from the power law [%]: large if the optimum bends, such as where the kind of plan changes."""
    budgets: int
    """Number of budgets that the value is fitted to."""
    resamples_share: float
    """Share of the resamples with at least three budgets, and so a slope."""


@dataclass(frozen=True)
class Curve:
    """The best plans of all budgets with one amount of distinct specialist text."""

    unique_spec: float
    """Distinct specialist tokens available."""
    optima: tuple[Optimum, ...]
    """One per budget, ascending."""
    exponents: tuple[Exponent, ...]


@dataclass(frozen=True)
class BreakEven:
    """Factor in compute that a smaller amount of text needs to reach the loss of a larger amount with a given budget."""

    unique_less: float
    unique_more: float
    """Distinct specialist tokens."""
    flops: float
    """The budget with the larger amount [FLOPs]."""
    factor: float | None
    """Compute for the smaller amount divided by `flops`, from the mean of ln L over the resamples; None: never in this range."""
    low: float | None
    high: float | None
    """90 % interval over the resamples; None: never in this range."""
    never: float
    """Share of the resamples in which the smaller amount never reaches it in this range."""
    most: float
    """Largest factor that the range of budgets can show: the last budget divided by `flops`."""


@dataclass(frozen=True)
class Scaling:
    """The answer of `plan scaling`."""

    request: dict[str, Any]
    """Limits that hold at every budget, and the budgets [FLOPs]."""
    curves: tuple[Curve, ...]
    """One per amount of distinct specialist text, ascending."""
    break_evens: tuple[BreakEven, ...]
    """For each pair of amounts and each budget but the last."""
    warnings: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    """Origin of the law: recipe, vocabulary, corpus, domain."""

    def takes(self, tokens: str) -> bool:
        """Tell whether any plan, or any resample's best, has some "tokens_pt" or "tokens_spec": a single-stage law has only one kind."""
        return any(getattr(item, f"{tokens}_interval")[1] > 0 or getattr(item.plan, tokens) > 0 for curve in self.curves for item in curve.optima)

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write scaling.json."""
        write_artifact(path, KIND, VERSION, asdict(self), inputs)
