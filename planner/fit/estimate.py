"""One law fitted to one set of rows: many starts, how many of them agree, and a status that says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.diagnosis import Diagnosis, diagnose
from planner.fit.solver import DELTAS, EARLY_TOLERANCE, TOLERANCE, Solution, objective, solve
from planner.fit.starts import DRAWS_A_START, draw_starts
from planner.laws import Law, Points

STARTS = 24
"""Default number of starts."""
AGREEMENT = 1e-3
"""Relative excess over the best objective up to which a start agrees with it."""
SAME = 0.3
"""Two starts whose forecasts differ everywhere by less than this share of the best one's median residual have met, and are merged."""
EARLY_ROUNDS = (8, 8, 8)
ROUNDS = (8, 8, 16, 32, 64, 128)
"""Solver steps of each round, with each early δ and with the last; after a round, starts that have met are merged."""
POLISH = 12
"""Steps with the law's exact second derivatives for the solution that is kept."""
PATIENCE = 3.0
"""A start that, at its latest pace, would take more rounds than this to reach the best is dropped."""
CREEP, CREEPING = (100,) * 20, 0.002
"""Further groups of such steps, while each group gains at least this share: along a curved valley to a law that passes through all runs."""
ROUNDING = 1e-12
"""Root mean square residual of ln L below which a law passes through all runs, and no step gains more than rounding."""
FEW_STARTS = 16
"""Up to this many starts, the first round also tries the solver's steps for starts far from a valley; with more starts, enough succeed without, in two
thirds of the time."""
WARM = 4
"""Solutions kept as starts for other fits of the same law."""


@dataclass(frozen=True)
class Estimate:
    """A law's best parameters on a set of rows."""

    law: Law
    theta: Array
    """Parameters, shape (parameters,)."""
    objective: float
    """Σ Huber of ln L."""
    starts: int
    """Starts that were solved."""
    starts_agree: int
    """Starts that ended within 0.1 % of the best objective; starts dropped on the way do not agree."""
    solutions: Array
    """The best few distinct solutions, shape (up to WARM, parameters), the best first."""
    diagnosis: Diagnosis
    """Status, conditioning and bounds."""

    def log_loss(self, points: Points) -> Array:
        """Forecast ln L, shape (points,)."""
        return self.law.log_loss(self.theta[None], points)[0]

    @property
    def status(self) -> str:
        """Return the key of `diagnosis.STATUS_ADVICE`."""
        return self.diagnosis.status


def estimate(
    law: Law, points: Points, log_loss: Array, random: np.random.Generator, *, starts: int = STARTS, warm: Array | None = None,
    deltas: tuple[float, ...] = DELTAS, draws: int = DRAWS_A_START,
) -> Estimate:  # fmt: skip
    """Fit a law.

    Args:
        law: the law.
        points: where the runs are, n of them.
        log_loss: ln L, shape (n,).
        random: for the starts.
        starts: number of starts to draw.
        warm: further starts, shape (any, parameters).
        deltas: Huber's δ, largest first; the last is the objective's.
        draws: draws for each start, of which the best is used.
    """
    theta = np.empty((0, len(law.parameters))) if warm is None else warm
    if starts:
        theta = np.vstack([theta, draw_starts(law, points, log_loss, random, starts, draws)])
    solved = len(theta)
    weights = np.ones((1, points.count))
    value = objective(law, theta, points, log_loss, weights, deltas[0])
    chosen, members = _met(law, points, log_loss, Solution(theta, value, np.zeros(solved, dtype=bool)), np.ones(solved, dtype=int))
    theta = theta[chosen]
    for delta in deltas:
        before = np.full(len(theta), np.inf)
        rounds, tolerance = (ROUNDS, TOLERANCE) if delta == DELTAS[-1] else (EARLY_ROUNDS, EARLY_TOLERANCE)
        for number, steps in enumerate(rounds):
            exact, afar = delta == DELTAS[-1] and len(theta) == 1, delta == DELTAS[0] and not number and solved <= FEW_STARTS
            found = solve(law, points, log_loss, theta, weights, deltas=(delta,), iterations=steps, tolerance=tolerance, exact=exact, afar=afar)
            chosen, stands = _met(law, points, log_loss, found, members)
            value = found.objective[chosen]
            with np.errstate(invalid="ignore"):  # a start from which a user's law gives no number is not hopeful
                hopeful = value - value[0] <= PATIENCE * (before[chosen] - value)
            hopeful[0] = True
            chosen, members, before = chosen[hopeful], stands[hopeful], value[hopeful]
            theta, finished = found.theta[chosen], found.finished[chosen]
            if finished.all():
                break
    value, ended = found.objective[chosen], bool(finished[0])
    if deltas[-1] == DELTAS[-1]:
        for steps in (POLISH, *CREEP):
            before = value[0]
            last = solve(law, points, log_loss, theta[:1], weights, deltas=deltas[-1:], iterations=steps, exact=True)
            theta[0], value[0], ended = last.theta[0], last.objective[0], ended or bool(last.finished[0])
            if ended or value[0] > (1 - CREEPING) * before:
                break
    agree = int(members[value <= value[0] * (1 + AGREEMENT) + 1e-300].sum())
    diagnosis = diagnose(law, points, theta[0], ended or bool(value[0] < 0.5 * points.count * ROUNDING**2))
    return Estimate(law, theta[0], float(value[0]), solved, agree, theta[:WARM], diagnosis)


def _met(law: Law, points: Points, log_loss: Array, found: Solution, members: Any) -> tuple[Any, Any]:
    """Merge starts that have met into the best of each group; return the indices of those, best first, and how many starts each stands for."""
    if len(members) == 1:
        return np.zeros(1, dtype=int), members
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        forecast = np.nan_to_num(law.on(points).log_loss(found.theta), nan=1e3, posinf=1e3, neginf=-1e3)
    chosen: list[int] = []
    stands: list[int] = []
    order = np.argsort(found.objective)
    same = SAME * float(np.median(np.abs(log_loss - forecast[order[0]])))
    for number in order:
        far = np.abs(forecast[chosen] - forecast[number]).max(1) if chosen else np.array([np.inf])
        if far.min() < same:
            stands[int(far.argmin())] += members[number]
        else:
            chosen.append(int(number))
            stands.append(members[number])
    return np.array(chosen), np.array(stands)
