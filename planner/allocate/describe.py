"""Plans for an answer: with forecast loss, with the replay that keeps a limit, and in whole optimiser steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.plans import Plans, sized
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost, dearer
from planner.allocate.steps import best_beside
from planner.arrays import Array
from planner.fit.fitted import Forecast
from planner.flops import flops_6nd


def written(problem: Problem, one: Plans, forecast: Forecast, replay: float = 0.0) -> Plan:
    """Convert a single plan, with its forecast and a share of replay."""
    size = one.sizes[one.size[0]]
    pt, spec, unique = (float(values[0]) for values in (one.tokens_pt, one.tokens_spec, one.unique_spec))
    return Plan(
        size.params_non_embedding, size.params_total, pt, spec, unique, spec / unique, spec / (pt + spec), float(one.flops[0]),
        flops_6nd(size.params_non_embedding, pt + spec), float(forecast.loss[0]), float(forecast.low[0]), float(forecast.high[0]),
        size.shape.to_dict() if size.shape else None, size.flops_inference(problem.request.inference_tokens), replay,
    )  # fmt: skip


def describe(problem: Problem, plans: Plans, number: int) -> Plan:
    """Convert one of several plans, with its forecast and the least replay that keeps a limit on the general loss."""
    one = plans.rows([number])
    share = _replay(problem, one)
    forecast = problem.law.forecast(one.params_by, one.tokens_pt, one.tokens_spec, one.unique_spec, mean=problem.robust)
    return written(problem, one, dearer(forecast, cost(share)), share)


def realised(problem: Problem, plans: Plans, number: int) -> Plan:
    """Convert one of several plans as it will be trained, in whole optimiser steps.

    Args:
        problem: the request under its law.
        plans: of a close search; if its best plan just keeps a limit, the best in whole steps may lie beside another one.
        number: of the best.
    """
    size = plans.sizes[plans.size[number]]
    whole = problem.realise(size, float(plans.tokens_pt[number]), float(plans.tokens_spec[number]))
    if problem.retention is not None or not problem.enough(whole).all():
        whole = best_beside(problem, plans, number) or whole
    return describe(problem, whole, 0)


def priced(problem: Problem, plan: Plan) -> Plan:
    """Count replayed text at the cost of the specialist stage, which with adapters differs from that of the general stage."""
    if problem.retention is None or plan.shape is None or problem.recipe is None:
        return plan
    size = sized(plan.model_shape, problem.recipe.seq_len, problem.method)
    if size.spec_cost == 1:
        return plan
    share = plan.replay_fraction
    return replace(plan, flops=plan.flops + (size.spec_cost - 1) * share / (1 - share) * plan.tokens_spec * size.flops_per_token)


def resampled(problem: Problem, plan: Plan, most: int | None = None) -> Array:
    """Return ln L of a plan under each resample, including the cost of replay, shape (resamples,).

    Args:
        problem: the request under its law.
        plan: the plan.
        most: most resamples of each member.
    """
    points = problem.law.points(plan.params_by, plan.tokens_pt, plan.tokens_spec, plan.unique_spec)
    return problem.law.log_loss_resamples(points, most)[:, 0] + cost(plan.replay_fraction)


def _replay(problem: Problem, one: Plans) -> float:
    """Return the least share of replay with which a single plan keeps the limit on the general loss; if none does, the most of any run."""
    if problem.retention is None:
        return 0.0
    share = float(problem.retention.replay(one)[0])
    return share if np.isfinite(share) else problem.retention.replays[-1]
