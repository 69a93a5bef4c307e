"""From a fitted law and a request to a recommendation, the arms to compare with, and the warnings about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from planner.allocate.allocation import KNOWS_NO_TEXT, PASSES, Allocation, Arm, Plan, behind
from planner.allocate.budget import cost_of
from planner.allocate.describe import describe, priced, realised, resampled
from planner.allocate.early import Held, mixed_arm, warnings_of_mixed
from planner.allocate.extrapolation import extrapolation_of, refuse_far, refuse_far_general, tell_never
from planner.allocate.optimum import MOST_RESAMPLES, Search, coarse, interval, reaching, search, within
from planner.allocate.plan_warnings import warnings_of, warnings_of_compromise, warnings_of_replay
from planner.allocate.plans import Plans, Size
from planner.allocate.prices import prices
from planner.allocate.problem import Problem
from planner.allocate.refine import refine_guess, refine_search, spread
from planner.allocate.request import Request
from planner.allocate.split_arm import closest_split, profile, why_none
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.level import LEVEL

ARMS = (("no specialisation", 0.0), ("specialist only", 1.0), ("50/50", 0.5), ("90/10", 0.1))
"""Names and shares of specialist tokens."""
SIMPLER = 0.9
"""Share of the recommendation's size, or text, below which another plan counts as simpler."""
AT_ONCE = 16
"""Plans evaluated together under all resamples."""


def allocate(law: FittedLaw, request: Request, *, general: FittedLaw | None = None, robust: bool = True, allow_extrapolation: bool = False) -> Allocation:
    """Recommend how to spend a budget.

    Args:
        law: the fitted law.
        request: budget, available text, and limits.
        general: law of the general loss, if that is limited.
        robust: whether to recommend the plan with the least expected regret, rather than the best guess of the fitted parameters.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        DataError: the budget allows no plan, or the best one lies too far beyond the runs.
    """
    problem = Problem.of(law, request, general, robust=robust)
    whole = coarse(problem, advise=True)
    close = refine_search(problem, whole)
    everything = spread(problem, whole, close)
    guessed = refine_guess(problem, whole)
    guess = realised(replace(problem, robust=False), *guessed)
    plan = realised(problem, close.plans, close.best) if robust else guess
    mine, every = resampled(problem, plan, MOST_RESAMPLES), resampled(problem, plan)
    exact = search(problem, close.plans.rows([close.best]) if robust else guessed[0].rows([guessed[1]]))
    rounding = float((every - problem.law.log_loss_resamples(problem.points(exact.plans))[:, 0]).mean() - exact.plans.added[0])
    held = partial(behind, mine=every, rounding=max(0.0, rounding))
    regret = 100 * np.expm1(np.maximum(mine - everything.resamples.min(1), 0.0))
    extrapolation = extrapolation_of(law, plan)
    if not allow_extrapolation:
        refuse_far(law, plan.flops, extrapolation)
        refuse_far_general(problem.retention, plan, plan.flops)
    kept = None if problem.retention is None else problem.retention.tell(plan, plan.replay_fraction)
    searched, plan = plan, priced(problem, plan)
    worths, exchange = prices(problem, everything, searched, mine)
    candidates = tuple(dict.fromkeys(everything.plans.sizes))
    shares, losses = profile(problem, candidates, plan.share_spec)
    found = everything.plans
    values = {
        "params": (found.params, searched.params_non_embedding), "share": (found.share, searched.share_spec),
        "tokens_pt": (found.tokens_pt, searched.tokens_pt), "epochs": (found.tokens_spec / found.unique_spec, searched.epochs_spec),
    }  # fmt: skip
    own = {name: reaching(interval(everything, of), mine) for name, (of, mine) in values.items()}
    as_good = {name: reaching(within(everything, of, request.tolerance), mine) for name, (of, mine) in values.items()}
    if problem.one_corpus:
        arms = [_passes(problem, name, most, held) for name, most in PASSES.items()]
    else:
        arms = [_arm(problem, name, share, held, candidates) for name, share in ARMS]
        arms.append(mixed_arm(problem, held, candidates))
    return Allocation(
        request={**request.to_dict(), "max_epochs": problem.max_epochs},
        plan=plan,
        best_guess=priced(problem, guess),
        share_interval=own["share"],
        params_interval=own["params"],
        share_within=as_good["share"],
        params_within=as_good["params"],
        regret_expected_percent=float(regret.mean()),
        regret_90_percent=float(np.quantile(regret, LEVEL)),
        arms=tuple(arms),
        alternatives=tuple(_alternatives(problem, everything, plan, float(every.mean()), held)),
        worths=tuple(worths),
        exchange=exchange,
        extrapolation=extrapolation,
        warnings=(
            *warnings_of(problem, whole, searched, float((exact.expected if robust else exact.guess)[0]), extrapolation),
            *warnings_of_compromise(problem, searched, own),
            *warnings_of_replay(problem, plan, kept, float(every.mean())),
            *warnings_of_mixed(law, arms[-1]),
        ),
        curve={"share": shares.tolist(), "loss": losses.tolist()},
        source=law.origin,
        general=asdict(kept) if kept else None,
        tokens_pt_interval=own["tokens_pt"],
        epochs_interval=own["epochs"],
        epochs_within=as_good["epochs"],
        cost=cost_of(request, plan.flops, plan.flops_inference),
    )


def best_plan(problem: Problem) -> Plan:
    """Recommend a plan as `allocate` does, without anything to compare with.

    Raises:
        DataError: the budget allows no plan.
    """
    whole = coarse(problem, advise=True)
    if not problem.robust:
        return priced(problem, realised(problem, *refine_guess(problem, whole)))
    close = refine_search(problem, whole)
    return priced(problem, realised(problem, close.plans, close.best))


def _arm(problem: Problem, name: str, share: float, held: Held, sizes: tuple[Size, ...]) -> Arm:
    """Find the best plan with a given share of specialist tokens."""
    if share > 0 and problem.one_stage:
        return Arm.unavailable(name, KNOWS_NO_TEXT)
    if share == 1 and problem.needs_trunk:
        return Arm.unavailable(name, f"{problem.method.name} needs a model trained on general text first")
    found = closest_split(problem, share, sizes)
    if found is None:
        return Arm.unavailable(name, why_none(problem, share, sizes))
    if not np.isfinite(found.expected).any():
        # Without a limit, some user's own law has no finite loss there, such as one in the logarithm of the general tokens.
        none = "the law gives no finite loss for it" if problem.retention is None else "would exceed the limit on the general loss"
        return Arm.unavailable(name, none)
    best = describe(problem, found.plans, found.best)
    return Arm(name, priced(problem, best), *held(resampled(problem, best)), "; ".join(tell_never(problem.law, extrapolation_of(problem.law, best))))


def _passes(problem: Problem, name: str, most: float, held: Held) -> Arm:
    """Find the best plan with at most some passes over the one corpus."""
    if most > problem.max_epochs:
        return Arm.unavailable(name, f"at most {problem.max_epochs:.3g} are allowed")
    fewer = replace(problem, request=replace(problem.request, max_epochs=most))
    try:
        found = refine_search(fewer, coarse(fewer))
    except DataError as error:
        return Arm.unavailable(name, error.message)
    best = realised(fewer, found.plans, found.best)
    return Arm(name, best, *held(resampled(problem, best)))


def _alternatives(problem: Problem, found: Search, plan: Plan, mine: float, held: Held) -> Iterator[Arm]:
    """Find, among plans within the tolerance, the smallest model and the least specialist text; only if clearly simpler than the recommendation."""
    plans = found.plans
    good = np.flatnonzero(found.expected <= found.expected.min() + np.log1p(problem.request.tolerance))
    for name, values, mine_now in (
        ("smallest model", plans.params, plan.params_non_embedding), ("least specialist text seen", plans.tokens_spec, plan.tokens_spec),
    ):  # fmt: skip
        rows = good[values[good] <= SIMPLER * mine_now] if mine_now > 0 else good[:0]
        ordered = rows[np.lexsort((found.expected[rows], values[rows]))]
        number = _first_as_good(problem, plans, ordered, mine)
        if number is not None:
            other = describe(problem, plans, number)
            note = "; ".join(tell_never(problem.law, extrapolation_of(problem.law, other)))
            yield Arm(name, priced(problem, other), *held(resampled(problem, other)), note)


def _first_as_good(problem: Problem, plans: Plans, ordered: Any, mine: float) -> int | None:
    """Return the first of some plans that is within the tolerance under all resamples, not only under those of the search."""
    for start in range(0, len(ordered), AT_ONCE):
        some = ordered[start : start + AT_ONCE]
        rows = plans.rows(some)
        as_good = problem.law.log_loss_resamples(problem.points(rows)).mean(0) + rows.added <= mine + np.log1p(problem.request.tolerance)
        if as_good.any():
            return int(some[as_good.argmax()])
    return None
