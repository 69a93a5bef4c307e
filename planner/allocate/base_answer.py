"""The answer of `plan allocate --base`, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planner.allocate.allocation import Arm, Plan, Worth
from planner.allocate.loss_units import loss_units
from planner.artifacts import write_artifact
from planner.fit.support import NEAR

KIND = "bases"
VERSION = 1


@dataclass(frozen=True)
class Choice:
    """One base after its best specialist stage."""

    base: str
    plan: Plan
    """Its FLOPs are those of the specialist stage, with inference apart; `tokens_pt` are sunk cost."""
    loss_before: float
    """Forecast specialist loss of the base before specialising [nats/token]."""
    before_low: float
    before_high: float
    gain_percent: float
    """By how much specialising lowers the loss, mean over the resamples [% of it]."""
    gain_low: float
    gain_high: float
    """90 % interval over the resamples."""
    probability: float
    """Share of the resamples in which its final loss is the lowest of all bases."""
    trained: int
    """Parameters that the method trains."""
    bytes_per_gpu: float
    """Least memory of one GPU [bytes]."""
    extrapolation: dict[str, float]
    """By what factor it lies outside the runs of the law on each axis; 1 is inside, None (infinity) if it has something that no run has, or lacks what
    every run has."""
    general: dict[str, Any] | None = None
    """The general loss, if it is limited: the fields of `retention.GeneralLoss`; the plan's `tokens_pt` are the sunk and the replayed tokens."""
    higher_percent: float = 0.0
    """By how much its loss is higher than the recommended base's, by the mean of ln L over the resamples [% of it]."""
    as_good: bool = True
    """Whether that is within the tolerance."""
    tokens_within: tuple[float, float] | None = None
    """Range of specialist tokens among all plans of this base whose mean loss over the resamples is within the tolerance of its best."""
    epochs_within: tuple[float, float] | None = None
    cheapest: Plan | None = None
    """Of those plans, the one with the fewest FLOPs."""
    regret_expected_percent: float | None = None
    """Excess loss over each resample's own best base and amount, mean over the resamples [%]; None in answers of older versions."""
    regret_90_percent: float | None = None
    """90 % quantile of that excess over the resamples [%]."""
    tokens_interval: tuple[float, float] | None = None
    """90 % interval, over the resamples, of the specialist tokens that are best for this base by each resample; None in answers of older versions."""
    epochs_interval: tuple[float, float] | None = None
    """The same for the passes."""


@dataclass(frozen=True)
class Guess:
    """Choice of the fitted parameters alone."""

    base: str
    plan: Plan


@dataclass(frozen=True)
class Way:
    """The best base specialised by one method with the same budget."""

    method: str
    chosen: bool
    """Whether it is the method asked for."""
    measured: bool
    """Whether runs of a law were trained by it; else its amount of tokens comes from the given law, and its loss is unknown."""
    tokens_spec: float
    epochs_spec: float
    flops: float
    trained: int
    """Parameters that it trains."""
    bytes_per_gpu: float
    """Least memory of one GPU [bytes]."""
    fits: bool
    """Whether a GPU has that memory."""
    higher_percent: float | None
    """By how much the loss is higher than by the method asked for, from the means of ln L over each law's resamples [% of it]; None unless both methods
    were measured."""
    loss: float | None = None
    """Forecast by the law of its own runs [nats/token]; None if there is none, and in answers of older versions."""
    loss_low: float | None = None
    loss_high: float | None = None
    """90 % interval of one run."""
    other_law: bool = False
    """Whether that law is not the given one, but another found beside it."""


@dataclass(frozen=True)
class ReservedShare:
    """Cost of keeping back a share of the budget for a later stage, such as instruction tuning."""

    share: float
    """Share of the FLOPs."""
    tokens_spec: float
    """Best amount of specialist tokens that the rest pays for."""
    higher_percent: float
    """By how much the specialist loss before that stage is higher than with the whole budget, mean over the resamples [% of it]."""
    low: float
    high: float
    """90 % interval over the resamples."""
    note: str = ""
    """What limits the amount other than the budget, such as the most replay of any run."""


@dataclass(frozen=True)
class BaseAllocation:
    """The answer of `plan allocate --base`."""

    request: dict[str, Any]
    """The request, with the method and all bases that were given."""
    choices: tuple[Choice, ...]
    """Best first: by the mean of ln L over the resamples, or by the best guess if that was asked for."""
    longer: str
    """Of the bases with the most and the fewest tokens per parameter: which gains less, in what share of the resamples, and whether the runs show an
    interaction of general and specialist tokens as the cause, in words; empty for one base."""
    scratch: Arm
    """A model trained from scratch with the same budget, which also pays for its inference; a base may leave some of the budget over."""
    worths: tuple[Worth, ...]
    """Gains from more of each resource, for the best base."""
    ways: tuple[Way, ...]
    """What the same budget pays for by each method, for the best base."""
    kept: tuple[ReservedShare, ...]
    """Cost of keeping back shares of the budget, for the best base."""
    warnings: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Bases that cannot be chosen, by name, with the reason."""
    best_guess: Guess | None = None
    """Choice of the fitted parameters alone, among the same bases."""
    accuracy: dict[str, Any] | None = None
    """Forecast accuracy of the recommended plan, as `accuracy.forecast` describes it; None if no table was given."""
    exchange: str = ""
    """What the specialist text is worth in compute for the recommended base, in words, and why no gain is given for one more epoch, if so."""
    cost: dict[str, Any] | None = None
    """Cost of the recommended base's plan: the fields of `budget.Cost`; None if no speed of a GPU was given, and in answers of older versions."""

    @property
    def measured(self) -> bool:
        """Whether the runs of the law were trained by the method asked for."""
        return any(way.chosen and way.measured and not way.other_law for way in self.ways)

    @property
    def settled(self) -> bool:
        """Whether more runs are unnecessary: the plan lies inside the runs, the method is measured, and the 90 % regret is within the tolerance."""
        best = self.choices[0]
        inside = all(factor <= NEAR for factor in best.extrapolation.values())
        within = best.general is None or best.general["extrapolation"] <= NEAR
        regret = best.regret_90_percent
        return inside and within and self.measured and regret is not None and regret <= 100 * float(self.request["tolerance"])

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write the answer."""
        write_artifact(path, KIND, VERSION, {**asdict(self), "felt": loss_units(self.choices[0].plan, self.source)}, inputs)
