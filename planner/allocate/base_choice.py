"""One base after its best specialist stage: its plan, what it gains, and which of its plans are as good."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from planner.allocate.allocation import Plan, behind
from planner.allocate.base import Base
from planner.allocate.base_answer import Choice
from planner.allocate.base_stage import Stage, within
from planner.allocate.extrapolation import extrapolation_of
from planner.allocate.optimum import reaching
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost_on_top, dearer
from planner.arrays import Array
from planner.fit.fitted import Forecast
from planner.fit.level import LEVEL, interval_of
from planner.flops import flops_6nd, flops_per_token
from planner.method import Method


def plan_of(problem: Problem, base: Base, method: Method, spec: float, share: float) -> Plan:
    """Describe a base after a specialist stage with some specialist tokens and a share of replay, with its forecast."""
    shape, unique, replayed = base.shape, problem.request.unique_spec, share / (1 - share) * spec
    forecast = _forecast(problem, base, spec, share)
    return Plan(
        shape.params_non_embedding, shape.params_total, base.tokens + replayed, spec, unique, spec / unique, spec / (base.tokens + replayed + spec),
        (spec + replayed) * method.flops_per_token(shape, base.context), flops_6nd(shape.params_non_embedding, spec + replayed),
        float(forecast.loss[0]), float(forecast.low[0]), float(forecast.high[0]), shape.to_dict() if base.exact else None,
        base.flops_inference(problem.request.inference_tokens), share,
    )  # fmt: skip


def choice_of(problem: Problem, base: Base, method: Method, stage: Stage, probability: float, mine: Array, own: Array) -> Choice:
    """Describe a base.

    Args:
        problem: the request.
        base: the base.
        method: how it is specialised.
        stage: its specialist stage.
        probability: share of the resamples in which its final loss is the lowest of all bases.
        mine: ln L of the recommended base after its stage, shape (all resamples,).
        own: ln L of each resample's own best base after its best amount, shape (resamples of a search,).
    """
    shape, request = base.shape, problem.request
    spec, share = stage.amount(stage.best)
    plan, before = plan_of(problem, base, method, spec, share), _forecast(problem, base, 0.0, 0.0)
    gain = -100 * np.expm1(stage.end - stage.before)
    counted = replace(plan, params_total=base.params_total(problem.vocab))
    higher, _ = behind(stage.end, mine)
    regret = 100 * np.expm1(np.maximum(stage.resamples[:, stage.best] - own, 0.0))
    own_amounts = reaching(interval_of(np.floor(stage.tokens[stage.resamples.argmin(1)])), spec)
    good = within(problem, base, stage)
    ends = good.amount(0)[0], good.amount(-1)[0]
    return Choice(
        base.name,
        plan,
        float(before.loss[0]),
        float(before.low[0]),
        float(before.high[0]),
        float(gain.mean()),
        *interval_of(gain),
        probability,
        method.trained(shape),
        method.bytes_per_gpu(shape, request.gpus, base.context),
        reach(problem, base, plan),
        asdict(problem.retention.tell(counted, share, base.tokens)) if problem.retention else None,
        higher,
        higher <= 100 * request.tolerance,
        ends,
        (ends[0] / request.unique_spec, ends[1] / request.unique_spec),
        plan_of(problem, base, method, *good.amount(int(np.argmin(good.tokens / (1 - good.replay))))),
        float(regret.mean()),
        float(np.quantile(regret, LEVEL)),
        own_amounts,
        (own_amounts[0] / request.unique_spec, own_amounts[1] / request.unique_spec),
    )


def reach(problem: Problem, base: Base, plan: Plan) -> dict[str, float]:
    """Return by what factor a base's plan lies outside the runs on each axis, the FLOPs of its pretraining included; 1 is inside."""
    spent = base.tokens * flops_per_token(base.shape, base.context) + plan.flops
    return extrapolation_of(problem.law, replace(plan, tokens_pt=base.tokens), spent)


def _forecast(problem: Problem, base: Base, spec: float, share: float) -> Forecast:
    """Forecast the specialist loss after a stage with a share of replay."""
    size, unique = base.params_by(problem.vocab), [problem.request.unique_spec]
    with_it, bare = (
        problem.law.forecast(size, [base.tokens + replayed], [spec], unique, mean=problem.robust) for replayed in (share / (1 - share) * spec, 0.0)
    )
    return dearer(with_it, cost_on_top(np.array([share]), np.log(with_it.loss), np.log(bare.loss)))
