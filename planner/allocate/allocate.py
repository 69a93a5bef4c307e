"""From a fitted law and a request to a recommendation, the arms beside it, and what must be said about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from planner.allocate.allocation import KNOWS_NO_TEXT, PASSES, Allocation, Arm, Plan, behind
from planner.allocate.beyond import beyond, refuse_far, tell_far, warnings_of_law
from planner.allocate.closer import around_plan, closest, spread
from planner.allocate.dominated import better_in_both
from planner.allocate.early import mixed_arm
from planner.allocate.optimum import MOST_RESAMPLES, Search, coarse, guesses, interval, profile, search, within
from planner.allocate.plans import Plans, Size, sized
from planner.allocate.problem import ROUNDING, Problem
from planner.allocate.request import Request
from planner.allocate.retention import Kept
from planner.allocate.worth import worths
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.level import LEVEL
from planner.flops import flops_6nd
from planner.units import format_count

ARMS = (("no specialisation", 0.0), ("specialist only", 1.0), ("50/50", 0.5), ("90/10", 0.1))
"""Names and shares of specialist tokens."""
LARGER = 1.1
"""Factor in size by which the memory is asked whether it binds."""
OVER = 1e-6
"""Share by which a plan may pass its budget before that is said."""
SIMPLER = 0.9
"""Share of the recommendation's size, or text, under which another plan counts as simpler."""


def allocate(
    law: FittedLaw, request: Request, *, general: FittedLaw | None = None, robust: bool = True, allow_extrapolation: bool = False
) -> Allocation:
    """Recommend how to spend a budget.

    Args:
        law: the fitted law.
        request: budget, text there is, and limits.
        general: law of the general loss, where that is limited.
        robust: whether to recommend the plan of least expected regret, rather than the best guess of the fitted parameters.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        DataError: the budget allows no plan, or the best one lies too far beyond the runs.
    """
    problem = Problem.of(law, request, general, robust=robust)
    whole = coarse(problem)
    close = closest(problem, whole)
    everything = spread(problem, whole, close)
    guessed = around_plan(problem, everything.plans, everything.best_guess)
    guess = realised(replace(problem, robust=False), guessed, int(np.argmin(guesses(problem, guessed))))
    plan = realised(problem, close.plans, close.best) if robust else guess
    mine, every = _resampled(problem, plan, MOST_RESAMPLES), _resampled(problem, plan)
    regret = 100 * np.expm1(np.maximum(mine - everything.resamples.min(1), 0.0))
    extrapolation = beyond(law, plan)
    if not allow_extrapolation:
        refuse_far(law, plan.flops, extrapolation)
    kept = _kept(problem, plan)
    searched, plan = plan, _priced(problem, plan)
    prices, exchange = worths(problem, everything, mine)
    shares, losses = profile(problem, everything.plans.sizes)
    splits, sizes = everything.plans.share, everything.plans.params
    if problem.one_corpus:
        arms = [_passes(problem, name, most, every) for name, most in PASSES.items()]
    else:
        arms = [_arm(problem, name, share, every, everything.plans.sizes) for name, share in ARMS]
        arms.append(mixed_arm(problem, every, everything.plans.sizes))
    epochs = everything.plans.tokens_spec / everything.plans.unique_spec
    return Allocation(
        request={**{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(request).items()}, "max_epochs": problem.max_epochs},
        plan=plan,
        best_guess=_priced(problem, guess),
        share_interval=interval(everything, splits, LEVEL),
        params_interval=interval(everything, sizes, LEVEL),
        share_within=within(everything, splits, request.tolerance),
        params_within=within(everything, sizes, request.tolerance),
        regret_expected_percent=float(regret.mean()),
        regret_90_percent=float(np.quantile(regret, LEVEL)),
        arms=tuple(arms),
        alternatives=tuple(_alternatives(problem, everything, plan, every)),
        worths=tuple(prices),
        exchange=exchange,
        extrapolation=extrapolation,
        warnings=(*_warnings(problem, whole, searched, extrapolation), *_warnings_of_replay(problem, plan, kept, float(every.mean()))),
        curve={"share": shares.tolist(), "loss": losses.tolist()},
        source={key: value for key, value in law.source.items() if key != "runs"},
        general=asdict(kept) if kept else None,
        tokens_pt_interval=interval(everything, everything.plans.tokens_pt, LEVEL),
        epochs_interval=interval(everything, epochs, LEVEL),
        epochs_within=within(everything, epochs, request.tolerance),
    )


def describe(problem: Problem, plans: Plans, number: int) -> Plan:
    """Write one plan out, with its forecast."""
    size = plans.sizes[plans.size[number]]
    pt, spec, unique = (float(values[number]) for values in (plans.tokens_pt, plans.tokens_spec, plans.unique_spec))
    params = {"non_embedding": [size.params_non_embedding], "total": [size.params_total]}
    forecast = problem.law.forecast(params, [pt], [spec], [unique], mean=problem.robust)
    return Plan(
        size.params_non_embedding, size.params_total, pt, spec, unique, spec / unique, spec / (pt + spec), float(plans.flops[number]),
        flops_6nd(size.params_non_embedding, pt + spec), float(forecast.loss[0]), float(forecast.low[0]), float(forecast.high[0]),
        size.shape.to_dict() if size.shape else None, problem.request.inference_tokens * size.flops_per_token / size.training_over_forward,
    )  # fmt: skip


def realised(problem: Problem, plans: Plans, number: int) -> Plan:
    """Write one of several plans out as it will be trained, in whole optimiser steps."""
    size = plans.sizes[plans.size[number]]
    exact = problem.realise(size, float(plans.tokens_pt[number]), float(plans.tokens_spec[number]))
    return describe(problem, exact, 0)


def _kept(problem: Problem, plan: Plan) -> Kept | None:
    """Forecast the general loss, where it is limited, with the least replay that keeps the limit."""
    return None if problem.retention is None else problem.retention.tell(plan, _replay(problem, plan))


def _replay(problem: Problem, plan: Plan) -> float:
    """Return the least share of replay with which a plan keeps the limit on the general loss; where none does, the most that runs had."""
    if problem.retention is None:
        return 0.0
    size = Size(plan.params_non_embedding, plan.params_total, plan.flops / (plan.tokens_pt + plan.tokens_spec), None)
    exact = problem.realise(size, plan.tokens_pt, plan.tokens_spec)
    share = float(problem.retention.replay(exact, margin=0.0)[0])
    return share if np.isfinite(share) else problem.retention.replays[-1]


def _priced(problem: Problem, plan: Plan) -> Plan:
    """Count replayed text at the price of the stage that it is in, which under adapters is another one than the general stage's."""
    if problem.retention is None or plan.shape is None or problem.recipe is None:
        return plan
    size = sized(plan.model_shape, problem.recipe.seq_len, problem.method)
    if size.spec_cost == 1:
        return plan
    share = _replay(problem, plan)
    return replace(plan, flops=plan.flops + (size.spec_cost - 1) * share / (1 - share) * plan.tokens_spec * size.flops_per_token)


def _resampled(problem: Problem, plan: Plan, most: int | None = None) -> Any:
    params = {"non_embedding": [plan.params_non_embedding], "total": [plan.params_total]}
    points = problem.law.points(params, [plan.tokens_pt], [plan.tokens_spec], [plan.unique_spec])
    return problem.law.log_loss_resamples(points, most)[:, 0]


def _arm(problem: Problem, name: str, share: float, mine: Any, sizes: tuple[Size, ...]) -> Arm:
    """Find the best plan with a given share of specialist tokens."""
    if share > 0 and problem.one_stage:
        return Arm(name, None, None, None, KNOWS_NO_TEXT)
    plans = problem.split(sizes, share)
    plans = plans.rows(np.flatnonzero(plans.tokens_pt + plans.tokens_spec >= problem.min_tokens_stage * (1 - ROUNDING)))
    if share == 1 and problem.needs_trunk:
        return Arm(name, None, None, None, f"{problem.method.name} adapts a model that has had general text")
    if not len(plans):
        passes = share * min(problem.tokens_at(size, share) for size in sizes) / problem.request.unique_spec
        if passes > problem.max_epochs:
            return Arm(name, None, None, None, f"would take {passes:.3g} epochs or more; at most {problem.max_epochs:.3g} are allowed")
        return Arm(name, None, None, None, f"its {'specialist' if share else 'general'} stage would be too short to train")
    found = search(problem, plans)
    if not np.isfinite(found.expected).any():
        return Arm(name, None, None, None, "would exceed the limit on the general loss")
    best = describe(problem, plans, found.best)
    return Arm(name, _priced(problem, best), *behind(_resampled(problem, best), mine))


def _passes(problem: Problem, name: str, most: float, mine: Any) -> Arm:
    """Find the best plan of at most some passes over the one corpus."""
    if most > problem.max_epochs:
        return Arm(name, None, None, None, f"more than the {problem.max_epochs:.3g} that are allowed")
    fewer = replace(problem, request=replace(problem.request, max_epochs=most))
    try:
        found = closest(fewer, coarse(fewer))
    except DataError as error:
        return Arm(name, None, None, None, error.message)
    best = realised(fewer, found.plans, found.best)
    return Arm(name, best, *behind(_resampled(problem, best), mine))


def _alternatives(problem: Problem, found: Search, plan: Plan, mine: Any) -> Iterator[Arm]:
    """Find, among the plans that are as good, the smallest model and the fewest passes; such as are hardly simpler are left out."""
    plans = found.plans
    good = np.flatnonzero(found.expected <= found.expected.min() + np.log1p(problem.request.tolerance))
    for name, values, mine_now in (
        ("smallest model", plans.params, plan.params_non_embedding), ("least specialist text seen", plans.tokens_spec, plan.tokens_spec),
    ):  # fmt: skip
        number = good[values[good].argmin()]
        if values[number] > SIMPLER * mine_now or mine_now == 0:
            continue
        other = describe(problem, plans, int(number))
        yield Arm(name, _priced(problem, other), *behind(_resampled(problem, other), mine))


def _warnings(problem: Problem, whole: Search, plan: Plan, extrapolation: dict[str, float]) -> list[str]:
    request = problem.request
    found = warnings_of_law(problem)
    found += tell_far(problem.law, request.flops, extrapolation)
    least = problem.law.least_loss
    if not problem.law.bounded_below and plan.loss_high == least and plan.loss < least:
        found.append(
            f"the upper end of the interval stays at {least:.4g}, the lowest loss that any run reached: the law has no irreducible loss and cannot know "
            f"where the loss stops falling; by its spread alone it would be {plan.loss**2 / plan.loss_low:.4g}"
        )
    if request.params is not None and abs(plan.params_non_embedding / request.params - 1) > 0.05:
        found.append(f"--params {format_count(request.params)} is realised as {format_count(plan.params_non_embedding)} non-embedding parameters")
    left_out = len(request.params_among) - len(whole.plans.sizes)
    if left_out > 0:
        found.append(f"{left_out} of the {len(request.params_among)} sizes of --params are too large for the budget, or the memory, and were left out")
    memory, free = request.memory_per_gpu, request.params is None and not request.params_among
    if memory is not None and free and not problem.fits(problem.size(LARGER * plan.params_non_embedding)):
        found.append(f"the memory binds, {memory / 1e9:.3g} GB on each of {request.gpus} GPUs: a larger model might be better")
    if plan.tokens_spec == 0 and 0 < problem.max_tokens_spec < problem.min_tokens_stage:
        found.append(
            f"the specialist text is left unused: {problem.max_epochs:.3g} passes over it are {format_count(problem.max_tokens_spec)} tokens, and a "
            f"stage of {MIN_STEPS} steps takes {format_count(problem.min_tokens_stage)}; more passes (--max-epochs) or smaller batches would use it"
        )
    spent = plan.flops + plan.flops_inference
    if spent < 0.98 * request.flops:
        left = 1 - spent / request.flops
        tokens = (plan.tokens_pt + plan.tokens_spec) * (request.flops - spent) / plan.flops
        if problem.one_corpus:
            bound = plan.tokens_spec > 0.98 * problem.max_tokens_spec
            passes = f"{problem.max_epochs:.3g} passes"
            why = ["", f"buys nothing: no more than {passes} are allowed" if bound else "is left over: further passes are forecast to harm"]
        elif request.general_tokens and plan.tokens_pt > 0.98 * request.general_tokens:
            why = ["the general text binds: ", "buys nothing, since the law knows no second pass over it"]
        elif plan.tokens_pt == 0 and (request.general_tokens or np.inf) < problem.min_tokens_stage:
            why = ["", f"is left over: the general text is too little for a stage of {MIN_STEPS} steps, and more of the other is forecast to harm"]
        elif problem.retention is not None:
            why = ["", "is left over: after more general tokens there would be more to lose, and the limit on the general loss binds"]
        elif plan.tokens_pt == 0 and tokens < 1.01 * problem.min_tokens_stage:
            why = ["", f"is left over: it is too little for a general stage of {MIN_STEPS} steps, and nothing else is forecast to be better"]
        else:
            why = ["", "is left over: the law forecasts that more general tokens would raise the loss, which runs should confirm first"]
        found.append(f"{why[0]}{100 * left:.0f} % of the budget {why[1]}")
    if plan.tokens_spec > 0.98 * problem.max_tokens_spec and plan.tokens_pt > 0:
        found.append(f"the limit of {problem.max_epochs:.3g} epochs binds: more specialist text, or more passes, might lower the loss")
    chosen = request.params is not None or request.params_range or request.params_among or request.memory_per_gpu is not None
    if not chosen and len({size.params_non_embedding for size in whole.plans.sizes}) > 2:
        ends = (min(whole.plans.params), max(whole.plans.params))
        if whole.plans.params[whole.best] in ends:
            found.append(
                f"the best size is at an end of the sizes searched, {format_count(ends[0])} to {format_count(ends[1])}, the largest being bounded by the "
                f"{problem.min_tokens_per_param:.2g} tokens per parameter that the runs cover at least: the law sees no optimum inside"
            )
    return found


def _warnings_of_replay(problem: Problem, plan: Plan, kept: Kept | None, mine: float) -> list[str]:
    if problem.retention is None or kept is None:
        return []
    names = ", ".join(dict.fromkeys(member.law.name for member in problem.retention.law.members))
    both = better_in_both(problem, plan, kept, mine)
    # A tighter limit is no advice where a looser one would be better in everything.
    surer = "" if both else problem.retention.surer(kept)
    found = [f"the general loss is forecast by {names}, whose runs lie {100 * problem.retention.law.noise:.2g} % around it: the limit is kept with a "
             f"probability of {kept.probability:.0%}" + (f"; {surer}" if surer else "")]  # fmt: skip
    found += [both] if both else []
    if len(problem.retention.replays) == 1:
        found.append("no run of the general law replays general text: what replay would keep is not measured, and none is planned")
    elif kept.replay_fraction:
        found.append(
            "replayed text is assumed to count for the specialist loss like the other general tokens; in the one sweep that measured it the loss came out "
            "0.3 % higher than that with 10 % of replay, 1.1 % with 30 %, 2 % with 50 %"
        )
    over = (plan.flops + plan.flops_inference) / problem.request.flops - 1
    if over < -0.02 and problem.method.name != "full" and kept.tokens_replayed:
        found.append(
            f"the replayed text goes through {problem.method.name}, which costs less than the general stage that the search counts it in: "
            f"{-100 * over:.2g} % of the budget is left over"
        )
    if over > OVER:
        found.append(
            f"{100 * over:.2g} % over the budget: the replayed text goes through {problem.method.name}, which for so small a model costs more than "
            "training all of it"
        )
    if kept.extrapolation > 1.2:
        found.append(f"extrapolation: the plan lies a factor of {kept.extrapolation:.3g} outside the runs of the general law")
    return found
