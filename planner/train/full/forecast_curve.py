"""Compare a run with its forecast before it has ended. Numbers only.

The law forecasts endpoints: runs whose learning rate was cooled down to zero. Before its cooldown a run is at a constant rate, and its loss is above that
of the endpoint that it would reach by cooling down at once. So only three things can be said early:

- *Left below*: the held-out loss is already below the interval of the endpoint at the tokens so far. Cooling down lowers the loss further, so the
  endpoint would be below it too: the law was too pessimistic.
- *Far above*: at a constant rate the loss is above that interval by more than cooling down takes off. A loss that is less far above says nothing yet.
- *Heading above or below*, in the cooldown: the excess over the annealed loss shrinks a little faster than the rate, as rate^`POWER`, so a straight line
  through the losses against rate^POWER, extrapolated to rate zero, gives the final loss. The line begins at the mean of the last two losses before the
  cooldown, which reduces noise where it has most leverage. The run is reported if that final loss, with its own 90 % interval (Student's t), is outside
  the interval of the endpoint. (The power law is empirical; benchmarks/results/course.txt has its errors, for other kinds of runs too.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from planner.artifacts import read_artifact, whole, write_artifact
from planner.fit.level import ENDS

KIND = "course"
VERSION = 1
FILE = "forecast.json"
LEAST_POINTS = 3
"""Least number of losses measured in a cooldown."""
COOLED = 0.25
"""Cooling down takes off less than this share of a loss: 2 to 9 % in the runs of benchmarks/results/course.txt and of the demo."""
POWER = 1.15
"""Power of the rate to which the excess is about proportional: 1 suits some runs better, 1.25 others, by 0.3 to 0.8 % of the loss."""
SCATTER, SCATTER_WEIGHT = 0.004, 2
"""Prior standard deviation of a loss about the line, as a share of the loss, and its weight in losses: a few losses alone estimate it poorly."""
BEND = 0.008
"""Error of the final loss due to the uncertain power, as a share of the loss."""


@dataclass(frozen=True)
class Expected:
    """The law's forecast of the endpoint if the run cooled down after a step."""

    step: int
    """Steps of the run done."""
    tokens: float
    """Tokens so far, both stages."""
    loss: float
    """Specialist loss of the endpoint [nats/token]."""
    low: float
    high: float
    """90 % interval."""


@dataclass(frozen=True)
class ForecastCurve:
    """The forecast along a run; without a law, only of its end."""

    points: tuple[Expected, ...]
    """In order; the last is the run's own endpoint."""
    source: str = ""
    """Where the forecasts are from."""

    def save(self, folder: Path) -> None:
        """Write forecast.json."""
        write_artifact(folder / FILE, KIND, VERSION, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ForecastCurve | None:
        """Read forecast.json, if there is one."""
        if not (folder / FILE).exists():
            return None
        body = read_artifact(folder / FILE, KIND, VERSION)
        with whole(folder / FILE):
            return cls(tuple(Expected(**point) for point in body["points"]), body["source"])

    def at(self, step: int) -> Expected | None:
        """Return the forecast for a cooldown after this step, if there is one."""
        return next((point for point in self.points if point.step == step), None)


@dataclass(frozen=True)
class Verdict:
    """What is known after an evaluation."""

    text: str
    """In words."""
    outside: bool
    """Whether the run has left its interval, or is about to."""


def judge(course: ForecastCurve, measured: Sequence[tuple[int, float, float]], stage_from: int = 0) -> Verdict | None:
    """Judge the outcome by the losses so far.

    Args:
        course: the forecast.
        measured: step, held-out specialist loss, and rate as a share of the peak, of every evaluation so far, in order.
        stage_from: step at which the last stage begins; losses before it are of another text.

    Returns:
        A verdict at the last of them, or None if it is too early for one.
    """
    step, loss, share = measured[-1]
    here, end = course.at(step), course.points[-1]
    if share >= 1:
        return None if here is None else _at_peak(loss, here)
    cooling = [(rate, value) for _, value, rate in measured if rate < 1]
    before = [value for at, value, rate in measured if rate >= 1 and at > stage_from][-2:]
    points = [(1.0, sum(before) / len(before)), *cooling] if before else cooling
    if len(points) < 2:
        return None
    middle, error = extrapolate(points)
    said = f"heading for {middle:.4f} ± {error:.4f}; forecast {end.loss:.4f}, {end.low:.4f} to {end.high:.4f}"
    if middle - error > end.high:
        return Verdict(f"{said}: above the interval", True)
    if middle + error < end.low or loss < end.low:
        return Verdict(f"{said}: below the interval", True)
    return Verdict(f"{said}: inside, as far as can be told", False)


def _at_peak(loss: float, here: Expected) -> Verdict | None:
    """Judge by a loss at a constant rate; None if it says nothing yet."""
    interval = f"the interval {here.low:.4f} to {here.high:.4f} of the endpoint at these tokens"
    if loss < here.low:
        return Verdict(f"already {loss:.4f} at a constant rate, under {interval}: left below", True)
    if loss > (1 + COOLED) * here.high:
        off = f"{100 * (loss / here.high - 1):.0f} % above {interval}"
        return Verdict(f"{loss:.4f} at a constant rate, {off}, of which cooling down takes off a tenth or so: far above", True)
    return None


def extrapolate(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line through two losses or more against rate^POWER; return its value at rate zero and half the width of its 90 % interval.

    Args:
        points: rate as a share of the peak, and loss.
    """
    rate, loss = np.array(points).T
    design = np.stack([np.ones_like(rate), rate**POWER], axis=1)
    from scipy.special import stdtrit

    found, *_ = np.linalg.lstsq(design, loss, rcond=None)
    left = loss - design @ found
    free = len(loss) - 2 + SCATTER_WEIGHT
    variance = (float(left @ left) + SCATTER_WEIGHT * (SCATTER * float(loss[-1])) ** 2) / free
    covariance = np.linalg.inv(design.T @ design) * variance
    scatter = float(stdtrit(free, ENDS[1])) * math.sqrt(float(covariance[0, 0]))
    return float(found[0]), math.hypot(scatter, BEND * float(loss[-1]))


def evaluation_steps(steps: int, cooldown_from: int, count: int) -> tuple[int, ...]:
    """Spread evaluations over a run: a third of them, at least three, inside the cooldown, the others evenly before it.

    Args:
        steps: of the whole run.
        cooldown_from: step at which its cooldown begins.
        count: evaluations on the way; the end is evaluated besides.
    """
    if count < 1:
        return ()
    inside = max(LEAST_POINTS, count // 3)
    before = max(1, count - inside)
    found = {round(cooldown_from * (k + 1) / before) for k in range(before)}
    found |= {round(cooldown_from + (steps - cooldown_from) * (k + 1) / (inside + 1)) for k in range(inside)}
    return tuple(sorted(step for step in found if 0 < step < steps))
