"""The arm with specialist text mixed in from the start: one stage, no specialisation after it; where runs have measured what that is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Arm, Plan, behind
from planner.allocate.describe import written
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import Problem
from planner.fit.early import Early
from planner.fit.fitted import Forecast
from planner.fit.level import Z
from planner.laws import Points
from planner.laws.dual import Array

NAME = "mixed in from the start"
SHARES = 25
"""Tried between the least and the greatest share that runs had."""


def mixed_arm(problem: Problem, mine: Array, sizes: tuple[Size, ...]) -> Arm:
    """Find the best plan with all specialist text inside the general stage.

    Args:
        problem: the request.
        mine: ln L of the recommendation under the resamples, shape (resamples,).
        sizes: to choose among.
    """
    early = problem.law.early
    if early is None:
        return Arm(NAME, None, None, None, "not measured: no run of the table has specialist text in its general stage")
    if problem.retention is not None:
        return Arm(NAME, None, None, None, "what it does to the general loss is not measured")
    shares = np.geomspace(early.low, early.high, SHARES)
    parts = [problem.split(sizes, float(share), stage=False) for share in shares]
    plans = [(part, number) for part in parts for number in range(len(part))]
    if not plans:
        return Arm(NAME, None, None, None, f"not with shares as measured, {early.low:.0%} to {early.high:.0%}, of text that may be passed over so often")
    losses = np.concatenate([problem.law.log_loss(_counted(problem, part, early.worth)) for part in parts if len(part)])
    part, number = plans[int(losses.argmin())]
    one = part.rows([number])
    best = _describe(problem, one, early)
    note = "an early token is worth {:.2g} ({:.2g} to {:.2g}) of a specialist stage".format(early.worth, *early.interval)
    return Arm(NAME, best, *behind(_resampled(problem, one, early), mine), note)


def _counted(problem: Problem, plans: Plans, worth: float) -> list[Points]:
    """Prepare plans with their specialist tokens counted at a worth."""
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
