"""What a design for a law takes for granted: that the law's form holds outside its runs, at the target and where the new runs lie.

The deviations and regrets of a design include the uncertainty of the law's parameters only, and runs of any size count as if they followed its form.
This module reports the rest: the forecast at the target including drift, and how far outside its runs the new ones lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.allocate.extrapolation import AXIS_NAMES
from planner.allocate.replay_cost import dearer
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.support import NEAR, Support
from planner.ladder import LARGEST
from planner.next_runs.candidates import DEAREST, TOKENS_PER_PARAMETER, Candidates, Setting
from planner.next_runs.target import Target
from planner.units import format_count

TOO_SMALL = 10.0
"""Factor below the law's smallest run beyond which a design is refused. Chinchilla's runs that are 8 to 12 times smaller than the smallest fitted one lie
2 % (fitted from 0.59B) and 14 % (from 1.3B) off the law, with run noise of 0.5 %; runs of `medicine` that are 4 times smaller lie 5 to 18 % off."""
MARGIN = 1.2
"""Factor on the sufficient budget in the message, for shapes that differ from their nominal size and for rounding."""


@dataclass(frozen=True)
class Outside:
    """How much a design relies on the form of its law."""

    loss: float
    """Forecast of the recommended plan [nats/token]."""
    loss_low: float
    loss_high: float
    """90 % interval of one run there, drift included, as in `plan allocate`."""
    half_width_percent: float
    """Half-width of that interval [% of the loss]."""
    drift_percent: float
    """Standard deviation of ln L there from drift of the law's form [%]."""
    drift_after_percent: float
    """The same if the design's runs are added to the law's own, at the same rate of drift."""
    runs: int
    """Number of runs in the design."""
    runs_outside: int
    """Number of them outside the law's own runs on some axis."""
    runs_drift_percent: float
    """Largest drift at one of them [%]."""
    below: dict[str, float]
    """Greatest factor by which one of them lies below the law's runs, by axis; 1 is inside."""
    above: dict[str, float]
    """The same above."""

    @classmethod
    def of(cls, law: FittedLaw, runs: Candidates, target: Target) -> Outside:
        """Compare a design with the runs of its law.

        Args:
            law: the fit.
            runs: the cells of the design.
            target: where the recommendation is.
        """
        plan, rows = target.plans.rows([target.best]), runs.rows
        there, here = (plan.params, plan.tokens_pt, plan.tokens_spec, plan.unique_spec), (rows.params, rows.tokens_pt, rows.tokens_spec, rows.unique_spec)
        forecast = dearer(law.forecast(plan.params_by, *there[1:], mean=True), plan.added)
        loss, low, high = (float(values[0]) for values in (forecast.loss, forecast.low, forecast.high))
        before, after = (float(support.distance(*there)[0]) for support in (law.support, law.support.joined(Support.of(rows))))
        distinct = np.minimum(np.nan_to_num(rows.unique_spec), rows.tokens_spec)
        values = {"params": rows.params, "tokens_pt": rows.tokens_pt, "tokens_spec": rows.tokens_spec, "unique_spec": distinct, "epochs_spec": rows.epochs}
        values["flops"] = rows.flops
        factors = law.support.factors(*here, rows.flops)
        over = {name: value > law.support.high[name] for name, value in values.items()}
        return cls(
            loss, low, high, 50 * (high - low) / loss, 100 * law.drift * before, 100 * law.drift * after, len(runs),
            int(np.any([factors[name] > NEAR for name in values], axis=0).sum()), 100 * law.drift * float(law.support.distance(*here).max()),
            {name: float(np.where(over[name], 1.0, factors[name]).max()) for name in values},
            {name: float(np.where(over[name], factors[name], 1.0).max()) for name in values},
        )  # fmt: skip

    @property
    def forecast(self) -> str:
        """State the forecast at the target, with drift in the interval."""
        return f"{self.loss:.4g} nats/token, {self.loss_low:.4g} to {self.loss_high:.4g} (90 %, a half-width of {self.half_width_percent:.2g} %)"

    def warnings(self) -> Iterator[str]:
        """Say what the deviations of the design leave out."""
        if self.drift_percent > 0:
            less = self.drift_after_percent < 0.995 * self.drift_percent
            left = f"{self.drift_after_percent:.2g} %" if less else "no less: only runs closer to the target lower it"
            yield (
                "expected deviation and regret include the uncertainty of the law's parameters only, as if its form held up to the target; drift of the "
                f"form adds a deviation of {self.drift_percent:.2g} % there (with these runs {left}), and the forecast with it is {self.forecast}"
            )
        if self.runs_outside:
            said = [
                f"{AXIS_NAMES[name]} {factor:.3g}× {where}" if np.isfinite(factor)
                else f"{AXIS_NAMES[name]}, which those lack" if where == "above" else f"no {AXIS_NAMES[name]}, which all of those have"
                for where, factors in (("below", self.below), ("above", self.above)) for name, factor in factors.items() if factor > NEAR
            ]  # fmt: skip
            drift = f"by {self.runs_drift_percent:.2g} %" if np.isfinite(self.runs_drift_percent) else "by any amount"
            yield (
                f"{self.runs_outside} of these {self.runs} runs lie outside those of the law, by up to: {', '.join(said)}; its form may be off {drift} "
                "there, but the design treats it as exact"
            )


def refuse_too_small(law: FittedLaw, runs: Candidates, spread: bool) -> None:
    """Refuse a design whose runs are all more than TOO_SMALL times smaller than the smallest of its law.

    Args:
        law: the fit.
        runs: the cells of the design.
        spread: whether their sizes were spread below the largest that the budget pays for, so that more FLOPs make them larger.

    Raises:
        DataError: they are.
    """
    largest, least = float(runs.params_by["non_embedding"].max()), law.support.low["params"]
    if largest * TOO_SMALL >= least:
        return
    larger = f"take sizes from {format_count(least)}"
    if spread:
        larger = f"give at least {enough(runs.setting, least):g} FLOPs, which pay for runs of its sizes"
    raise DataError(
        f"the runs would have at most {format_count(largest)} parameters, {least / largest:.3g}× below the law's smallest ({format_count(least)}): they "
        f"would inform about the target only through the law's form; the limit is {TOO_SMALL:g}×",
        remedy=f"{larger}, or design without the law: plan sweep design SWEEP --prior",
    )


def enough(setting: Setting, least: float) -> float:
    """Return FLOPs that pay for a tree of runs of at least some size, given how `candidates` spreads sizes: down to half of the largest."""
    size = min(2 * least, LARGEST)
    dearest = max(TOKENS_PER_PARAMETER * size, setting.least_tokens) * setting.flops_per_token(size)
    return float(f"{MARGIN * dearest / DEAREST:.1e}")
