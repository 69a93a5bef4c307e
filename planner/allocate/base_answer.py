"""What `plan allocate --base` answers, and its file."""

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
    """One base, specialised as far as is best for it."""

    base: str
    plan: Plan
    """Its FLOPs are those of the specialist stage, beside those of inference; `tokens_pt` are sunk."""
    loss_before: float
    """Forecast specialist loss of the base as it is [nats/token]."""
    before_low: float
    before_high: float
    gain_percent: float
    """By how much specialising lowers the loss, mean over the resamples [% of it]."""
    gain_low: float
    gain_high: float
    """90 % interval over the resamples."""
    probability: float
    """Share of the resamples in which it ends lowest of all bases."""
    trained: int
    """Parameters that the method trains."""
    bytes_per_gpu: float
    """Least memory of one GPU."""
    extrapolation: dict[str, float]
    """By what factor it lies outside the runs of the law on each axis; 1 is inside, None (infinity) where it has some of what no run has, or none of
    what every run has."""
    general: dict[str, Any] | None = None
    """The general loss, where it is limited: the fields of `retention.GeneralLoss`; what is replayed is in the plan's `tokens_pt` beside what is sunk."""
    higher_percent: float = 0.0
    """By how much its loss is higher than the recommended base's, in the mean of ln L over the resamples [% of it]."""
    as_good: bool = True
    """Whether that is within the tolerance."""
    tokens_within: tuple[float, float] | None = None
    """Range of specialist tokens among all plans of this base whose loss, in the mean over the resamples, is within the tolerance of its best."""
    epochs_within: tuple[float, float] | None = None
    cheapest: Plan | None = None
    """Of those, the plan of the fewest FLOPs."""
    regret_expected_percent: float | None = None
    """By how much its loss is higher than that of each resample's own best base after its best amount, mean over the resamples [% of it]; None in
    answers of older versions."""
    regret_90_percent: float | None = None
    """What that is at most in nine resamples of ten."""
    tokens_interval: tuple[float, float] | None = None
    """90 % interval over the resamples of the specialist tokens that are best for this base by each resample; None in answers of older versions."""
    epochs_interval: tuple[float, float] | None = None
    """The same of the passes."""


@dataclass(frozen=True)
class Guess:
    """What the fitted parameters alone prefer."""

    base: str
    plan: Plan


@dataclass(frozen=True)
class Way:
    """The best base specialised by one method with the same budget."""

    method: str
    chosen: bool
    """Whether it is the method asked for."""
    measured: bool
    """Whether runs of a law were trained by it; else its tokens are those of the law that is asked, and what they teach is not known."""
    tokens_spec: float
    epochs_spec: float
    flops: float
    trained: int
    """Parameters that it trains."""
    bytes_per_gpu: float
    """Least memory of one GPU."""
    fits: bool
    """Whether that is there."""
    higher_percent: float | None
    """By how much the loss is higher than by the method asked for, in the means of ln L over each law's resamples [% of it]; None unless runs were trained
    by both."""
    loss: float | None = None
    """Forecast by the law of its own runs [nats/token]; None where there is none, and in answers of older versions."""
    loss_low: float | None = None
    loss_high: float | None = None
    """90 % interval of one run."""
    other_law: bool = False
    """Whether that is another law than the one asked, which lay beside it."""


@dataclass(frozen=True)
class ReservedShare:
    """What it costs to keep a share of the budget back for a later stage, such as instruction tuning."""

    share: float
    """Of the FLOPs."""
    tokens_spec: float
    """Specialist tokens that the rest pays, as far as is best."""
    higher_percent: float
    """By how much the specialist loss before that stage is higher than with the whole budget, mean over the resamples [% of it]."""
    low: float
    high: float
    """90 % interval over the resamples."""
    note: str = ""
    """What else than the budget keeps the amount down, such as the most replay that runs had."""


@dataclass(frozen=True)
class BaseAllocation:
    """What `plan allocate --base` answers."""

    request: dict[str, Any]
    """What was asked, with the method and all bases that were given."""
    choices: tuple[Choice, ...]
    """The best first: in the mean of ln L over the resamples, or by the best guess where that was asked for."""
    longer: str
    """Of the bases with the most and the fewest tokens per parameter: which gains less, in what share of the resamples, and whether an interaction of
    general and specialist tokens is known to be why, in words; empty for one base."""
    scratch: Arm
    """A model of one's own with the same budget, its own inference paid from it; a base may leave some of that over."""
    worths: tuple[Worth, ...]
    """What more of something would buy, for the best base."""
    ways: tuple[Way, ...]
    """What the same budget pays by each method, for the best base."""
    kept: tuple[ReservedShare, ...]
    """What shares kept back would cost, for the best base."""
    warnings: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Bases that cannot be chosen, by name, and why."""
    best_guess: Guess | None = None
    """What the fitted parameters alone prefer, among the same bases."""
    accuracy: dict[str, Any] | None = None
    """Forecast accuracy of the recommended plan, as `accuracy.forecast` describes it; None where no table was given."""
    exchange: str = ""
    """What the specialist text is worth in compute for the recommended base, in words, and why one more epoch has no price where it has none."""
    cost: dict[str, Any] | None = None
    """What the recommended base's plan takes: the fields of `budget.Cost`; None where no speed of a GPU was stated, or of older versions."""

    @property
    def measured(self) -> bool:
        """Whether the runs of the law were trained by the method asked for."""
        return any(way.chosen and way.measured and not way.other_law for way in self.ways)

    @property
    def settled(self) -> bool:
        """Whether the runs are enough for the choice of base and amount: both are among them, and hardly a world of the law has them behind."""
        best = self.choices[0]
        inside = all(factor <= NEAR for factor in best.extrapolation.values())
        within = best.general is None or best.general["extrapolation"] <= NEAR
        regret = best.regret_90_percent
        return inside and within and self.measured and regret is not None and regret <= 100 * float(self.request["tolerance"])

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write the answer."""
        write_artifact(path, KIND, VERSION, {**asdict(self), "felt": loss_units(self.choices[0].plan, self.source)}, inputs)
