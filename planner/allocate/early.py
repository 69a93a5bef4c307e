"""The arm with specialist text mixed in from the start, in one stage without later specialisation; available if runs have measured what that is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Arm, Plan
from planner.allocate.describe import written
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import Problem
from planner.arrays import Array
from planner.fit.early import Early
from planner.fit.fitted import FittedLaw, Forecast
from planner.fit.level import Z
from planner.laws import Points
from planner.units import format_count

Held = Callable[[Array], tuple[float, float]]
"""From ln L of a plan under each resample to how far it is behind the recommendation, as `allocation.behind`."""
NAME = "mixed in from the start"
SHARES = 25
"""Shares tried between the least and the greatest of any run."""


def mixed_arm(problem: Problem, held: Held, sizes: tuple[Size, ...]) -> Arm:
    """Find the best plan with all specialist text inside the general stage.

    Args:
        problem: the request.
        held: compares ln L of a plan under the resamples, shape (resamples,), with the recommendation.
        sizes: to choose among.
    """
    early = problem.law.early
    if early is None:
        return Arm.unavailable(NAME, "not measured: needs fitted runs with specialist text in their general stage and none after it")
    if problem.retention is not None:
        return Arm.unavailable(NAME, "its effect on the general loss is not measured")
    shares = np.geomspace(early.low, early.high, SHARES)
    parts = [problem.split(sizes, float(share), stage=False) for share in shares]
    plans = [(part, number) for part in parts for number in range(len(part))]
    if not plans:
        return Arm.unavailable(NAME, f"the allowed passes hold too little text for the measured shares, {early.low:.0%} to {early.high:.0%}")
    losses = np.concatenate([problem.law.log_loss(_counted(problem, part, early.worth)) for part in parts if len(part)])
    part, number = plans[int(losses.argmin())]
    one = part.rows([number])
    best = _describe(problem, one, early)
    note = "an early token is worth {:.2g} ({:.2g} to {:.2g}) tokens of a specialist stage".format(early.worth, *early.interval)
    return Arm(NAME, best, *held(_resampled(problem, one, early)), note)


def warnings_of_mixed(law: FittedLaw, arm: Arm) -> list[str]:
    """Say why the arm is not recommended although it is forecast better, and how to decide."""
    better = -round(arm.worse_percent or 0.0, 2)
    if arm.name != NAME or arm.plan is None or arm.probability is None or law.early is None or better <= 0:
        return []
    plan, early = arm.plan, law.early
    return [
        f"{NAME} is forecast {better:.2f} % lower than the recommendation, in {1 - arm.probability:.0%} of the refits, but is not recommended: its "
        f"forecast rests on one number, fitted to {early.rows} runs that scatter by {early.off_percent:.2g} % around the law. To decide, train both with "
        f"plan launch, this one with --arm '{NAME}', or at smaller scale as cells of a sweep, this one with "
        f"tokens_pt = \"{format_count(plan.tokens_pt)}\", tokens_spec = 0 and "
        f"early_fraction = {plan.share_spec:.3g}"
    ]


def _counted(problem: Problem, plans: Plans, worth: float) -> list[Points]:
    """Prepare plans with their specialist tokens multiplied by a worth."""
    return problem.points(replace(plans, tokens_spec=worth * plans.tokens_spec))


def _resampled(problem: Problem, one: Plans, early: Early) -> Array:
    """Return ln L of the one plan, each resample with its own worth, shape (resamples of all members,)."""
    found, first = [], 0
    for number, member in enumerate(problem.law.members):
        worth = early.resamples[first : first + len(member.resamples)]
        many = replace(one.rows(np.zeros(len(worth), dtype=int)), tokens_spec=worth * one.tokens_spec[0])
        found.append(np.diagonal(member.law.log_loss(member.resamples, problem.points(many)[number])))
        first += len(worth)
    return np.concatenate(found)


def _describe(problem: Problem, one: Plans, early: Early) -> Plan:
    counted = replace(one, tokens_spec=early.worth * one.tokens_spec)
    points, own = problem.points(counted), _resampled(problem, one, early)
    middle = float(own.mean() if problem.robust else problem.law.log_loss(points)[0])
    distance = problem.law.support.distance(one.params, one.tokens_pt, counted.tokens_spec, one.unique_spec)
    spread = float(((own - middle) ** 2).mean())
    known = float(((problem.law.log_loss_resamples(points)[:, 0] - middle) ** 2).mean())
    deviation = problem.law.deviation(points, distance, np.array([middle]))[0] ** 2 - known + spread + (early.off_percent / 100) ** 2
    width = Z * min(float(np.sqrt(deviation)), 5.0)
    return written(problem, one, Forecast(*(np.exp([middle + end]) for end in (0.0, -width, width))))
