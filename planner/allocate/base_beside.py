"""What stands beside the choice of a base: a model of one's own, what more would buy, other methods, and shares of the budget kept back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.allocate.allocate import best_plan
from planner.allocate.allocation import Arm, Worth, behind
from planner.allocate.base import Base
from planner.allocate.base_answer import Kept, Way
from planner.allocate.base_stage import Stage, capped, stage_of
from planner.allocate.beyond import beyond, refuse_far, refuse_far_general
from planner.allocate.describe import resampled
from planner.allocate.exchange import MORE_COMPUTE
from planner.allocate.problem import Problem
from planner.allocate.worth import MORE_TEXT, eased, under, worth_of
from planner.errors import InputError, PlannerError
from planner.fit.level import interval_of
from planner.laws.dual import Array
from planner.method import Method
from planner.units import format_count


def scratch(problem: Problem, mine: Array, allow_extrapolation: bool) -> Arm:
    """Spend the same FLOPs, inference among them, on a model of one's own.

    Args:
        problem: the request.
        mine: ln L that the recommended base ends at, shape (resamples,).
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.
    """
    name = "from scratch"
    try:
        other = best_plan(problem)
        if not allow_extrapolation:
            refuse_far(problem.law, other.flops, beyond(problem.law, other))
            refuse_far_general(problem.retention, other, other.flops)
    except PlannerError as error:
        return Arm(name, None, None, None, error.message)
    return Arm(name, other, *behind(resampled(problem, other), mine))


def base_worths(problem: Problem, base: Base, method: Method, stage: Stage) -> list[Worth]:
    """Price what more compute, text or passes, or a looser limit on the general loss, would buy a base."""
    request, limits = problem.request, (problem.request.max_general_rise, problem.request.max_general_loss)
    more = f"twice the specialist text ({format_count(request.unique_spec)} more distinct tokens)"
    changes = {
        f"{100 * (MORE_COMPUTE - 1):.0f} % more compute": request.times(MORE_COMPUTE),
        more: replace(request, unique_spec=MORE_TEXT * request.unique_spec),
        "one more epoch over the specialist text": replace(request, max_epochs=problem.max_epochs + 1),
        **{name: replace(request, max_general_rise=rise, max_general_loss=loss) for name, rise, loss in eased(*limits)},
    }
    stages = {name: stage_of(under(problem, changed), base, method) for name, changed in changes.items()}
    return [worth_of(name, stage.end - other.end) for name, other in stages.items()]


def ways(problem: Problem, base: Base, method: Method, stage: Stage) -> list[Way]:
    """Set the methods side by side for a base, the adapters being those asked for, or those of the law's recipe."""
    adapters = method if method.name != "full" else problem.recipe.method("lora") if problem.recipe and problem.method.name != "full" else Method("lora")
    every = (Method(), replace(adapters, name="lora"), replace(adapters, name="qlora"))
    return [_way(problem, base, way, method, stage) for way in every if way.fits(base.shape)]


def _way(problem: Problem, base: Base, way: Method, chosen: Method, stage: Stage) -> Way:
    """Say what the budget pays of a method's specialist stage, and what that would come to if its tokens taught as those of the law's runs did."""
    other = stage_of(problem, base, way)
    spec, share = other.amount(other.best)
    memory, need = problem.request.memory_per_gpu, way.bytes_per_gpu(base.shape, problem.request.gpus, base.context)
    higher, _ = behind(other.end, stage.end)
    return Way(
        way.name, way.name == chosen.name, way.name == problem.method.name, spec, spec / problem.request.unique_spec,
        spec / (1 - share) * way.flops_per_token(base.shape, base.context), way.trained(base.shape), need, memory is None or need <= memory, higher,
    )  # fmt: skip


def kept_of(problem: Problem, base: Base, method: Method, stage: Stage, share: float) -> Kept:
    """Price a share of the budget kept back for a later stage of a base.

    Raises:
        InputError: the rest does not pay its inference.
    """
    flops, inference = (1 - share) * problem.request.flops, base.flops_inference(problem.request.inference_tokens)
    if flops < inference:
        raise InputError(
            f"--kept-back {share:g} leaves {flops:.3g} FLOPs, and the inference of {base.name} alone takes {inference:.3g}",
            remedy=f"keep back less than {1 - inference / problem.request.flops:.2g}, or give fewer --inference-tokens",
        )
    other = stage_of(replace(problem, request=replace(problem.request, flops=flops)), base, method)
    higher = 100 * np.expm1(other.end - stage.end)
    return Kept(share, other.amount(other.best)[0], float(higher.mean()), *interval_of(higher), capped(problem, other))
