"""What one more pass over the specialist text gains or costs if the allowed passes do not bind: with the same budget, the rest reallocated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.base import Base
from planner.allocate.base_stage import Stage, evaluated
from planner.allocate.optimum import bent, crossed, guesses, leading, search
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import EVERY_SHAPE, ROUNDING, Problem
from planner.arrays import Array
from planner.units import format_count, format_number

ALL = np.ones(1)
"""Fraction of the passes to take: all of them."""
ASIDE = 1.25
"""Factor around the best size, and around its general tokens if some are left out, within which to search again."""
LOOKS = 8
"""Such searches at most, each around the best of the one before, while the best is far from the middle."""
AMOUNTS = 11
"""Amounts of general tokens in them."""


@dataclass(frozen=True)
class Epoch:
    """One more pass than a plan has."""

    name: str
    """The change in words."""
    resamples: Array | None
    """ln L of the best plan with it under each resample; None if there is no such plan."""
    why: str = ""
    """Why there is no such plan."""


def named(problem: Problem, tokens: float, passes: float) -> str:
    """Name one more pass than a plan has, with the resulting number of passes."""
    beyond = "" if passes <= problem.law.support.high["epochs_spec"] else ", beyond what the runs cover"
    said = f"one more epoch over the specialist text, {format_number(passes)} in all" if tokens else "one epoch over the specialist text"
    return f"{said}, for the same budget{beyond}"


def one_more_of_base(problem: Problem, base: Base, stage: Stage, paying: str) -> Epoch:
    """Add one more pass to those that are best for a base, whose budget pays for nothing but text.

    Args:
        problem: the request.
        base: the base.
        stage: its specialist stage.
        paying: what limits its tokens, in words.
    """
    unique = problem.request.unique_spec
    tokens = stage.amount(stage.best)[0] + unique
    name = named(problem, tokens - unique, tokens / unique)
    if tokens > stage.paid:
        return Epoch(name, None, f"{paying} pays for {format_count(stage.paid)} tokens, but the stage would take {format_count(tokens)}")
    found = evaluated(problem, base, np.array([tokens]), stage.paid, None)
    if not np.isfinite(found.guess[0]):
        return Epoch(name, None, "the limit on the general loss would need more replay than can be paid for or than any run of the general law had")
    return Epoch(name, found.resamples[:, 0])


def one_more(problem: Problem, plan: Plan, sizes: tuple[Size, ...]) -> Epoch:
    """Find the best plan with one more pass over the specialist text than the recommendation, for the same budget.

    Args:
        problem: the request under its law.
        plan: the recommendation.
        sizes: to begin with.
    """
    tokens = plan.tokens_spec + plan.unique_spec
    passes = tokens / plan.unique_spec
    name = named(problem, plan.tokens_spec, passes)
    if tokens < problem.min_tokens_stage:
        return Epoch(name, None, f"it is {format_count(tokens)} tokens, but a stage takes at least {format_count(problem.min_tokens_stage)}")
    forced = replace(problem, request=replace(problem.request, max_epochs=passes))
    plans = _taken(crossed(forced, sizes, ALL), tokens)
    if not len(plans):
        return Epoch(name, None, "the budget cannot train any size with it")
    best = _best(forced, plans)
    if best is None:
        return Epoch(name, None, "no plan with it keeps the limit on the general loss")
    for _ in range(LOOKS):  # the first search may have no size near the best
        found = _best(forced, _taken(_around(forced, best), tokens)) or best
        moved, best = abs(float(np.log(found.params[0] / best.params[0]))), found
        if moved < 0.5 * np.log(ASIDE):
            break
    return Epoch(name, search(forced, best).resamples[:, 0])


def _taken(plans: Plans, tokens: float) -> Plans:
    """Keep the plans with that many specialist tokens."""
    return plans.rows(plans.tokens_spec >= tokens * (1 - ROUNDING))


def _best(problem: Problem, plans: Plans) -> Plans | None:
    """Return the best plan, by the measure of the recommendation; None if none keeps the limit on the general loss."""
    plans = bent(problem, plans)
    if problem.robust:
        found = leading(problem, plans)
        return found.plans.rows([found.best]) if len(found.plans) else None
    values = guesses(problem, plans)
    return plans.rows([int(values.argmin())]) if np.isfinite(values).any() else None


def _around(problem: Problem, best: Plans) -> Plans:
    """Make plans with every shape around a plan's, and around its general tokens if it leaves some out."""
    size, tokens_pt = best.sizes[best.size[0]], float(best.tokens_pt[0])
    near: tuple[Size, ...] = ()
    if not problem.request.sized:
        low, high = (problem.clipped(size.params_non_embedding * factor) for factor in (1 / ASIDE, ASIDE))
        near = tuple(other for other in problem.between(low, high, EVERY_SHAPE) if other != size)
    leaves = tokens_pt > 0 and best.flops[0] < (1 - ROUNDING) * problem.tokens(size) * size.flops_per_token
    amounts = (tokens_pt * np.geomspace(1 / ASIDE, ASIDE, AMOUNTS)).tolist() if leaves else []
    return problem.plans((size, *near), ALL, [*amounts, np.inf])
