"""The arm with specialist text mixed in from the start: one stage, no specialisation after it; where runs have measured what that is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Arm, Plan, behind
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import Problem
from planner.fit.early import Early
from planner.fit.level import Z
from planner.flops import flops_6nd
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
    losses = np.concatenate([problem.law.log_loss(_points(problem, part, early.worth)) for part in parts if len(part)])
    part, number = plans[int(losses.argmin())]
    best = _describe(problem, part, number, early)
    note = "an early token is worth {:.2g} ({:.2g} to {:.2g}) of a specialist stage".format(early.worth, *early.interval)
    return Arm(NAME, best, *behind(_resampled(problem, part, number, early), mine), note)


def _points(problem: Problem, plans: Plans, worth: float) -> list[Points]:
    return problem.law.points(plans.params_by, plans.tokens_pt, worth * plans.tokens_spec, plans.unique_spec)


def _one(plans: Plans, number: int, spec: Array) -> Plans:
    """Repeat one plan with other counts of specialist tokens."""
    return replace(plans.rows(np.full(len(spec), number)), tokens_spec=spec)


def _resampled(problem: Problem, plans: Plans, number: int, early: Early) -> Array:
    """Return ln L of one plan, each resample with its own worth, shape (resamples of all members,)."""
    found, first = [], 0
    for member, law in enumerate(problem.law.members):
        count = len(law.resamples)
        many = _one(plans, number, early.resamples[first : first + count] * plans.tokens_spec[number])
        points = problem.law.points(many.params_by, many.tokens_pt, many.tokens_spec, many.unique_spec)[member]
        found.append(np.diagonal(law.law.log_loss(law.resamples[:count], points)))
        first += len(law.resamples)
    return np.concatenate(found)


def _describe(problem: Problem, plans: Plans, number: int, early: Early) -> Plan:
    size = plans.sizes[plans.size[number]]
    pt, spec, unique = (float(values[number]) for values in (plans.tokens_pt, plans.tokens_spec, plans.unique_spec))
    worth = np.array([early.worth * spec])
    points = problem.law.points(_one(plans, number, worth).params_by, [pt], worth, [unique])
    own = _resampled(problem, plans, number, early)
    middle = float(own.mean() if problem.robust else problem.law.log_loss(points)[0])
    distance = problem.law.support.distance([size.params_non_embedding], [pt], worth, [unique])
    spread = float(((own - middle) ** 2).mean())
    known = float(((problem.law.log_loss_resamples(points)[:, 0] - middle) ** 2).mean())
    deviation = problem.law.deviation(points, distance, np.array([middle]))[0] ** 2 - known + spread + (early.off_percent / 100) ** 2
    width = Z * min(float(np.sqrt(deviation)), 5.0)
    return Plan(
        size.params_non_embedding, size.params_total, pt, spec, unique, spec / unique, spec / (pt + spec), float(plans.flops[number]),
        flops_6nd(size.params_non_embedding, pt + spec), float(np.exp(middle)), float(np.exp(middle - width)), float(np.exp(middle + width)),
        size.shape.to_dict() if size.shape else None, size.flops_inference(problem.request.inference_tokens),
    )  # fmt: skip
