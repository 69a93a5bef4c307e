"""Comparisons beside the choice of a base: training from scratch, gains from more resources, other methods, and shares of the budget kept back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from planner.allocate.allocate import best_plan
from planner.allocate.allocation import Arm, Worth, behind
from planner.allocate.base import Base
from planner.allocate.base_answer import ReservedShare, Way
from planner.allocate.base_choice import plan_of, reach
from planner.allocate.base_stage import Stage, capped, stage_of
from planner.allocate.describe import resampled
from planner.allocate.epoch import one_more_of_base
from planner.allocate.exchange import MORE_COMPUTE, NOTHING
from planner.allocate.extrapolation import TOO_FAR, extrapolation_of, refuse_far, refuse_far_general, tell_never
from planner.allocate.prices import MORE_TEXT, eased, price_of, under
from planner.allocate.problem import Problem
from planner.allocate.request import TAKEN, Request
from planner.arrays import Array
from planner.errors import InputError, PlannerError
from planner.fit.fitted import FittedLaw
from planner.fit.level import interval_of
from planner.method import Method
from planner.units import format_count

LEAST_LOWER = 0.01
"""By how much the loss by another method must be lower to be mentioned [%]."""


def scratch(problem: Problem, mine: Array, allow_extrapolation: bool) -> Arm:
    """Spend the same FLOPs, inference included, on a model trained from scratch.

    Args:
        problem: the request.
        mine: ln L of the recommended base after its stage, shape (resamples,).
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.
    """
    name = "from scratch"
    try:
        other = best_plan(problem)
        if not allow_extrapolation:
            refuse_far(problem.law, other.flops, extrapolation_of(problem.law, other))
            refuse_far_general(problem.retention, other, other.flops)
    except PlannerError as error:
        return Arm.unavailable(name, error.message)
    return Arm(name, other, *behind(resampled(problem, other), mine), "; ".join(tell_never(problem.law, extrapolation_of(problem.law, other))))


def base_worths(problem: Problem, base: Base, method: Method, stage: Stage) -> tuple[list[Worth], str]:
    """Compute what more compute, text or passes, or a looser limit on the general loss, would gain for a base.

    Returns:
        The gains, and why one more pass has none if so.
    """
    request, limits = problem.request, (problem.request.max_general_rise, problem.request.max_general_loss)
    inference = base.flops_inference(request.inference_tokens)
    changes = {
        f"{100 * (MORE_COMPUTE - 1):.0f} % more {request.more(MORE_COMPUTE, inference)}": request.times(MORE_COMPUTE),
        f"twice the specialist text ({format_count(request.unique_spec)} more distinct tokens)":
            replace(request, unique_spec=MORE_TEXT * request.unique_spec),
        **{name: replace(request, max_general_rise=rise, max_general_loss=loss) for name, rise, loss in eased(*limits)},
    }  # fmt: skip

    def gain(changed: Request) -> Array:
        return stage.end - stage_of(under(problem, changed), base, method).end

    rows = [price_of(name, gain(changed)) for name, changed in changes.items()]
    if stage.amount(stage.best)[0] > TAKEN * problem.max_tokens_spec:  # perhaps only part of a pass: all that is paid, or all that helps
        more = gain(replace(request, max_epochs=problem.max_epochs + 1))
        if more.mean() > NOTHING:
            beyond = "" if problem.max_epochs + 1 <= problem.law.support.high["epochs_spec"] else ", beyond what the runs cover"
            rows.insert(2, price_of(f"one more epoch over the specialist text{beyond}", more))
            return rows, ""
    timed = request.grows(inference) == request.training_flops
    epoch = one_more_of_base(problem, base, stage, "the compute within the time limit" if timed else "the budget")
    if epoch.resamples is None:
        return rows, f"no gain can be given for {epoch.name}: {epoch.why}"
    rows.insert(2, price_of(epoch.name, stage.end - epoch.resamples))
    return rows, ""


def other_laws(problem: Problem, laws: Iterable[FittedLaw]) -> dict[str, Problem]:
    """Make the problem under the laws of other methods, by method; none under a limit on the general loss, which would need a law for each."""
    if problem.request.limited:
        return {}
    found = []
    for law in laws:
        with suppress(PlannerError):  # optional: without it that method counts as not measured
            found.append(Problem.of(law, problem.request, robust=problem.robust))
    of_two = [other for other in found if not (other.method.both or other.one_stage or other.one_corpus)]
    return {other.method.name: other for other in of_two if other.method.name != problem.method.name}


def ways(problem: Problem, base: Base, method: Method, stage: Stage, others: Mapping[str, Problem]) -> list[Way]:
    """Compare the methods for a base, with the adapters asked for, or those of the recipe of the law that measures them.

    Args:
        problem: the request.
        base: the base.
        method: how it is specialised.
        stage: its stage by that method.
        others: the problem under the laws of other methods, by method.
    """
    adapters = method if method.name != "full" else problem.recipe.method("lora") if problem.recipe and problem.method.name != "full" else Method("lora")
    every: tuple[Method, ...] = (Method(), replace(adapters, name="lora"), replace(adapters, name="qlora"))
    # The method asked for is always forecast by the law that was given, whatever laws lie beside it.
    own = {way.name: others[way.name] for way in every if way.name in others and way.name != method.name}
    every = tuple(own[way.name].method if way.name in own else way for way in every)
    return [_way(own.get(way.name, problem), base, way, method, stage, problem) for way in every if way.fits(base.shape)]


def _way(problem: Problem, base: Base, way: Method, chosen: Method, stage: Stage, asked: Problem) -> Way:
    """Return what the budget pays of a specialist stage by a method, with its forecast if that was measured and the plan is near enough to the runs."""
    other = stage_of(problem, base, way)
    spec, share = other.amount(other.best)
    memory, need = problem.request.memory_per_gpu, way.bytes_per_gpu(base.shape, problem.request.gpus, base.context)
    plan, measured, higher = plan_of(problem, base, way, spec, share), way.name == problem.method.name, None
    if problem is not asked:
        measured = all(factor <= TOO_FAR for factor in reach(problem, base, plan).values() if np.isfinite(factor))
    if measured and chosen.name == asked.method.name:
        higher = 100 * float(np.expm1(other.end.mean() - stage.end.mean()))
    return Way(
        way.name, way.name == chosen.name, measured, spec, spec / problem.request.unique_spec, plan.flops, way.trained(base.shape), need,
        memory is None or need <= memory, higher,
        plan.loss if measured else None, plan.loss_low if measured else None, plan.loss_high if measured else None, problem is not asked,
    )  # fmt: skip


def warnings_of_ways(ways: Sequence[Way], base: Base, others: Mapping[str, Problem]) -> Iterator[str]:
    """Say which method is forecast better than the one asked for, if any, by a law of its own runs and if it fits in memory."""
    mine = next(way for way in ways if way.chosen)
    if not mine.measured and mine.method in others:
        yield f"a law of runs with {mine.method} was found beside this one: give it as --law to forecast {mine.method}"
    better = [way for way in ways if way.higher_percent is not None and way.higher_percent < -LEAST_LOWER and way.fits]
    if better:
        best = min(better, key=lambda way: way.higher_percent or 0.0)
        losses = " against ".join(f"{way.loss:.4g} ({way.loss_low:.4g} to {way.loss_high:.4g})" for way in (best, mine))
        yield (
            f"{best.method} is forecast {-(best.higher_percent or 0.0):.3g} % lower than {mine.method} for {base.name} with the same budget, {losses}, "
            f"each by the law of its own runs: give the law of runs with {best.method} as --law to plan with it"
        )


def kept_of(problem: Problem, base: Base, method: Method, stage: Stage, share: float) -> ReservedShare:
    """Compute the cost of keeping back a share of the budget for a later stage of a base.

    Raises:
        InputError: the rest does not pay for its inference.
    """
    flops, inference = (1 - share) * problem.request.flops, base.flops_inference(problem.request.inference_tokens)
    if flops < inference:
        raise InputError(
            f"--kept-back {share:g} leaves {flops:.3g} FLOPs, but the inference of {base.name} alone takes {inference:.3g}",
            remedy=f"keep back less than {1 - inference / problem.request.flops:.2g}, or give fewer --inference-tokens",
        )
    other = stage_of(replace(problem, request=replace(problem.request, flops=flops)), base, method)
    higher = 100 * np.expm1(other.end - stage.end)
    return ReservedShare(share, other.amount(other.best)[0], float(higher.mean()), *interval_of(higher), capped(problem, other))
