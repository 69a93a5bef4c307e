"""Warnings about a recommendation for one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.dominated import better_in_both
from planner.allocate.extrapolation import FAR, tell_far, tell_never, tell_tied, warnings_of_law
from planner.allocate.infeasible import TOO_SMALL, too_small
from planner.allocate.optimum import Search, coarse, guesses
from planner.allocate.problem import AT_LEAST_RATIO, Problem
from planner.allocate.refine import refine_guess, refine_search
from planner.allocate.replay_cost import NO_REPLAY, said_of
from planner.allocate.request import LEFT_OVER, TAKEN
from planner.allocate.retention import GeneralLoss
from planner.design.spec import MIN_STEPS
from planner.fit.support import NEAR
from planner.units import format_bytes, format_count, format_epochs, format_number, format_part

LARGER = 1.1
"""The memory binds if a model larger by this factor does not fit."""
LOWER = 0.05
"""By how much a loss outside the range of the runs must be lower to be mentioned [%]."""
OTHER_SIZE = 0.05
"""Share by which the realised size must differ from the size asked for to be mentioned."""
OVER_BUDGET = 1e-6
"""Share by which a plan may exceed its budget without a warning."""


def warnings_of(problem: Problem, whole: Search, plan: Plan, value: float, extrapolation: dict[str, float]) -> list[str]:
    """List the warnings about a plan and its distance from the runs.

    Args:
        problem: the request under its law.
        whole: the coarse search.
        plan: the recommendation.
        value: its ln L before rounding to whole steps, by the measure that it was chosen by.
        extrapolation: by what factor it lies outside the runs, by axis.
    """
    request = problem.request
    found = warnings_of_law(problem)
    found += [*tell_far(problem.law, request.spends(plan.flops_inference), extrapolation), *tell_never(problem.law, extrapolation)]
    if extrapolation["flops"] > FAR and request.params is None:
        found += tell_tied(problem.law)
    least = problem.law.least_loss
    if not problem.law.bounded_below and plan.loss_high == least and plan.loss < least:
        found.append(
            f"the upper end of the interval is held at {least:.4g}, the lowest loss of any run: the law has no irreducible loss and cannot know "
            f"where the loss stops falling; from its spread alone the end would be {plan.loss**2 / plan.loss_low:.4g}"
        )
    found += tell_realised(request.params, plan.params_non_embedding)
    found += [*_left_out(problem), *tell_memory(problem, plan.params_non_embedding, "a larger model")]
    if plan.tokens_spec == 0 and 0 < problem.max_tokens_spec < problem.min_tokens_stage:
        found.append(
            f"the specialist text is left unused: {problem.max_epochs:.3g} passes over it are {format_count(problem.max_tokens_spec)} tokens, but a "
            f"stage of {MIN_STEPS} steps takes {format_count(problem.min_tokens_stage)}; more passes (--max-epochs) or smaller batches would use it"
        )
    found += [*_shortest(problem, plan), *_left_over(problem, plan)]
    if plan.tokens_spec > TAKEN * problem.max_tokens_spec and plan.tokens_pt > 0:
        found.append(f"the limit of {format_epochs(problem.max_epochs)} binds: more specialist text, or more passes, might lower the loss")
    chosen = request.sized or request.params_range or request.memory_per_gpu is not None
    ends = (min(whole.plans.params), max(whole.plans.params))
    at_end = bool(np.isclose(ends, plan.params_non_embedding, rtol=1e-6).any())
    if problem.at_floor(problem.size(plan.params_non_embedding)):
        found += _bounded(problem, plan, value)
    elif (seen := plan.tokens_pt + plan.tokens_spec) < AT_LEAST_RATIO * problem.shortest * plan.params_non_embedding and not request.params:
        found.append(_short(problem, plan, seen))
    elif not chosen and len({size.params_non_embedding for size in whole.plans.sizes}) > 2 and at_end:
        found.append(
            f"the best size is at an end of the sizes searched, {format_count(ends[0])} to {format_count(ends[1])}: there is no optimum inside"
        )
    return found


def _shortest(problem: Problem, plan: Plan) -> Iterator[str]:
    """Say which stage has the minimum number of steps: the batch then sets its tokens, and their interval has no width."""
    for kind, tokens, other in (("general", plan.tokens_pt, plan.tokens_spec), ("specialist", plan.tokens_spec, plan.tokens_pt)):
        if 0 < tokens < 1.001 * problem.min_tokens_stage and other:
            yield (
                f"the {kind} stage has the minimum of {MIN_STEPS} steps, {format_count(tokens)} tokens: the law may prefer a shorter one, which "
                "smaller batches would allow"
            )


def tell_realised(asked: float | None, realised: float) -> Iterator[str]:
    """Say that the shape nearest to the size that was asked for is not close to it."""
    if asked is not None and abs(realised / asked - 1) > OTHER_SIZE:
        yield f"--params {format_count(asked)} is realised as {format_count(realised)} non-embedding parameters"


def tell_memory(problem: Problem, params_non_embedding: float, larger: str) -> Iterator[str]:
    """Say that the memory binds if a slightly larger model than the plan's largest could be trained without that limit."""
    request = problem.request
    if request.memory_per_gpu is None or request.sized:
        return
    size, most = problem.size(problem.clipped(LARGER * params_non_embedding)), (request.params_range or (0.0, np.inf))[1]
    free = replace(problem, request=replace(request, memory_per_gpu=None))
    if size.params_non_embedding <= most and not problem.fits(size) and free.trainable(size, problem.min_tokens_per_param):
        yield f"the memory binds, {format_bytes(request.memory_per_gpu)} on each of {request.gpus} GPUs: {larger} might be better"


def _left_out(problem: Problem) -> Iterator[str]:
    """Say how many of the sizes that were asked for cannot be trained, and why."""
    sizes = [problem.size(params) for params in problem.request.params_among]
    causes = Counter(too_small(problem, size, problem.shortest)[0] for size in sizes if not problem.trainable(size, problem.shortest))
    for cause, count in causes.items():
        few = "is too large for {} and was left out" if count == 1 else "are too large for {} and were left out"
        yield f"{count} of the {len(sizes)} sizes of --params {few.format(TOO_SMALL[cause])}"


def _short(problem: Problem, plan: Plan, seen: float) -> str:
    """Say why a plan has hardly more than the fewest tokens per parameter: because the text is used up, or not."""
    if plan.tokens_pt < TAKEN * problem.texts[0]:
        ratio = seen / plan.params_non_embedding
        return f"the size is bounded by the minimum of {problem.shortest:g} tokens per parameter of any plan: this one has {ratio:.3g}"
    taken = "" if seen > 0.99 * problem.text else f", of which the plan takes {format_count(seen)}"
    return (
        f"the text bounds the size: with its passes it makes {format_count(problem.text)} tokens{taken}, and every plan has at least "
        f"{problem.shortest:g} tokens per parameter"
    )


def warnings_of_compromise(problem: Problem, plan: Plan, own: Mapping[str, tuple[float, float]]) -> list[str]:
    """List what lies outside the 90 % interval of the refits' own choices.

    Args:
        problem: the request under its law.
        plan: the recommendation.
        own: 90 % intervals of each refit's own best plan: "params", "share" and "epochs".
    """
    size = format_count(plan.params_non_embedding)
    asked: list[tuple[str, float, str, Callable[[float], str]]] = [("params", plan.params_non_embedding, f"the size of {size} lies", format_count)]
    if problem.one_corpus:
        asked.append(("epochs", plan.epochs_spec, f"{format_number(plan.epochs_spec)} epochs lie", format_number))
    elif not problem.one_stage:
        asked.append(("share", plan.share_spec, f"the share of {100 * plan.share_spec:.3g} % lies", lambda value: f"{100 * value:.3g} %"))
    return [
        f"{said} outside {written(own[name][0])} to {written(own[name][1])}, the 90 % interval of the refits' own best: {why_outside(problem.robust)}"
        for name, value, said, written in asked
        if not own[name][0] <= value <= own[name][1]
    ]


def why_outside(robust: bool) -> str:
    """Say why a recommendation lies outside the interval of the refits' own best plans."""
    return "a compromise between refits that disagree, with the lowest mean loss" if robust else "the fitted parameters' own choice"


def _left_over(problem: Problem, plan: Plan) -> list[str]:
    """Say how much of the budget is not spent, if that is more than rounding to whole steps leaves, and why."""
    request, spent = problem.request, plan.flops + plan.flops_inference
    if spent >= LEFT_OVER * request.flops:
        return []
    left = f"{format_part(1 - spent / request.flops)} of the budget is left over"
    tokens = (plan.tokens_pt + plan.tokens_spec) * (request.flops - spent) / plan.flops
    general_text, stage = request.general_tokens or np.inf, f"a general stage of {MIN_STEPS} steps"
    reasons = (  # the first that holds
        ((request.training_flops or np.inf) < 1.02 * plan.flops, "the time limit on training binds, not the budget"),
        (problem.one_corpus and plan.tokens_spec > TAKEN * problem.max_tokens_spec, f"no more than {problem.max_epochs:.3g} passes are allowed"),
        (problem.one_corpus, "further passes are forecast to raise the loss"),
        (plan.tokens_pt > TAKEN * general_text, "the general text binds, and the law knows no second pass over it"),
        (plan.tokens_pt == 0 and general_text < problem.min_tokens_stage,
         f"the general text is too short for {stage}, and more specialist text is forecast to raise the loss"),
        (problem.retention is not None, "more general tokens leave more to lose, and the limit on the general loss binds"),
        (plan.tokens_pt == 0 and tokens < 1.01 * problem.min_tokens_stage, f"it is too little for {stage}, and no other use would lower the loss"),
        (True, "the law forecasts that more general tokens would raise the loss; confirm that with runs first"),
    )  # fmt: skip
    return [f"{left}: {next(why for holds, why in reasons if holds)}"]


def _bounded(problem: Problem, plan: Plan, value: float) -> list[str]:
    """Say that the fewest tokens per parameter of the runs bound the size, and what the law forecasts below them; empty if it prefers no larger size."""
    params, beyond = _best_beyond(replace(problem, beyond=True))
    if params <= plan.params_non_embedding:
        return []
    lower = -100 * np.expm1(beyond - value)
    # With all digits: a quarter of rounded sizes would select another shape.
    asked = f"; with fewer the law prefers {format_count(params)} parameters, with a loss {lower:.2g} % lower: ask for them with --params {params:.0f}"
    further = asked if lower >= LOWER else ""
    return [
        f"the size, its interval and the regret are bounded by the lowest tokens per parameter of any run, {problem.min_tokens_per_param:.2g}{further}"
    ]


def _best_beyond(problem: Problem) -> tuple[float, float]:
    """Return the size of the best plan of a request, searched as closely as a recommendation, and its ln L."""
    if problem.robust:
        close = refine_search(problem, coarse(problem, each=False), 1)
        return float(close.plans.params[close.best]), float(close.expected[close.best])
    plans, number = refine_guess(problem, coarse(problem))
    return float(plans.params[number]), float(guesses(problem, plans.rows([number]))[0])


def warnings_of_replay(problem: Problem, plan: Plan, kept: GeneralLoss | None, mine: float) -> list[str]:
    """List the warnings about the general loss of a plan, if it is limited.

    Args:
        problem: the request under its laws.
        plan: the recommendation.
        kept: its general loss.
        mine: its ln L of the specialist loss, mean over the resamples.
    """
    if problem.retention is None or kept is None:
        return []
    both = better_in_both(problem, plan, kept, mine)
    # Do not advise a tighter limit if a looser one would improve both losses.
    surer = "" if both else problem.retention.surer(kept)
    law = problem.retention.law
    found = [
        f"the general loss is forecast by {law.names}, around which its runs scatter by {100 * law.noise:.2g} %: the limit is kept with a "
        f"probability of {kept.probability:.0%}" + (f"; {surer}" if surer else "")
    ]
    found += [both] if both else []
    if len(problem.retention.replays) == 1:
        found.append(NO_REPLAY)
    elif kept.replay_fraction:
        found.append(said_of([kept.replay_fraction]))
    over = (plan.flops + plan.flops_inference) / problem.request.spends(plan.flops_inference) - 1
    if over < -0.02 and problem.method.name != "full" and kept.tokens_replayed:
        found.append(
            f"replayed text is trained with {problem.method.name}, which is cheaper than the general stage whose cost the search assumed: "
            f"{-100 * over:.2g} % of the budget is left over"
        )
    if over > OVER_BUDGET:
        found.append(
            f"{100 * over:.2g} % over the budget: replayed text is trained with {problem.method.name}, which for so small a model costs more than "
            "full training"
        )
    if kept.extrapolation > NEAR:
        found.append(f"extrapolation: the plan lies a factor of {kept.extrapolation:.3g} outside the runs of the general law")
    return found
