"""What one more pass over the specialist text costs, or buys, where the passes allowed do not bind: out of the same budget, all else divided anew."""

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
"""The fraction of the passes that is taken: all of them."""
ASIDE = 1.25
"""Factor in size, and in general tokens where some are left out, about the best of a first look within which a second one is taken."""
LOOKS = 8
"""Second looks at most, each about the best of the one before, while that lies far from its middle."""
AMOUNTS = 11
"""Of general tokens there."""


@dataclass(frozen=True)
class Epoch:
    """One more pass than a plan has."""

    name: str
    """Of the change, in words."""
    resamples: Array | None
    """ln L of the best plan with it under each resample; None where there is none."""
    why: str = ""
    """Why there is none."""


def named(problem: Problem, tokens: float, passes: float) -> str:
    """Name one more pass than a plan with some specialist tokens has, so many in all."""
    beyond = "" if passes <= problem.law.support.high["epochs_spec"] else ", beyond what the runs cover"
    said = f"one more epoch over the specialist text, {format_number(passes)} in all" if tokens else "one epoch over the specialist text"
    return f"{said}, for the same budget{beyond}"


def one_more_of_base(problem: Problem, base: Base, stage: Stage, paying: str) -> Epoch:
    """Put one more pass on top of those that are best for a base: it has no other use for the budget than text.

    Args:
        problem: the request.
        base: the base.
        stage: what it comes to.
        paying: what its tokens are paid from, in words.
    """
    unique = problem.request.unique_spec
    tokens = stage.amount(stage.best)[0] + unique
    name = named(problem, tokens - unique, tokens / unique)
    if tokens > stage.paid:
        return Epoch(name, None, f"{paying} pays {format_count(stage.paid)} tokens, and it takes {format_count(tokens)}")
    found = evaluated(problem, base, np.array([tokens]), stage.paid, None)
    if not np.isfinite(found.guess[0]):
        return Epoch(name, None, "no replay that can be paid and that the runs of the general law had keeps the limit on the general loss with it")
    return Epoch(name, found.resamples[:, 0])


def one_more(problem: Problem, plan: Plan, sizes: tuple[Size, ...]) -> Epoch:
    """Find the best plan with one more pass over the specialist text than a recommendation has, for the same budget.

    Args:
        problem: the request under its law.
        plan: the recommendation.
        sizes: to begin with.
    """
    tokens = plan.tokens_spec + plan.unique_spec
    passes = tokens / plan.unique_spec
    name = named(problem, plan.tokens_spec, passes)
    if tokens < problem.min_tokens_stage:
        return Epoch(name, None, f"it is {format_count(tokens)} tokens, and a stage takes {format_count(problem.min_tokens_stage)}")
    forced = replace(problem, request=replace(problem.request, max_epochs=passes))
    plans = _taken(crossed(forced, sizes, ALL), tokens)
    if not len(plans):
        return Epoch(name, None, "it leaves no size that the budget could train")
    best = _best(forced, plans)
    if best is None:
        return Epoch(name, None, "no plan with it keeps the limit on the general loss")
    for _ in range(LOOKS):  # a first look may have no size near the best
        found = _best(forced, _taken(_around(forced, best), tokens)) or best
        moved, best = abs(float(np.log(found.params[0] / best.params[0]))), found
        if moved < 0.5 * np.log(ASIDE):
            break
    return Epoch(name, search(forced, best).resamples[:, 0])


def _taken(plans: Plans, tokens: float) -> Plans:
    """Keep the plans that take all those specialist tokens."""
    return plans.rows(plans.tokens_spec >= tokens * (1 - ROUNDING))


def _best(problem: Problem, plans: Plans) -> Plans | None:
    """Return the best of the plans alone, by what a recommendation is chosen by; None where none keeps the limit on the general loss."""
    plans = bent(problem, plans)
    if problem.robust:
        found = leading(problem, plans)
        return found.plans.rows([found.best]) if len(found.plans) else None
    values = guesses(problem, plans)
    return plans.rows([int(values.argmin())]) if np.isfinite(values).any() else None


def _around(problem: Problem, best: Plans) -> Plans:
    """Make the plans of every shape about a plan's, and about its general tokens where it leaves some out."""
    size, tokens_pt = best.sizes[best.size[0]], float(best.tokens_pt[0])
    near: tuple[Size, ...] = ()
    if not problem.request.sized:
        low, high = (problem.clipped(size.params_non_embedding * factor) for factor in (1 / ASIDE, ASIDE))
        near = tuple(other for other in problem.between(low, high, EVERY_SHAPE) if other != size)
    leaves = tokens_pt > 0 and best.flops[0] < (1 - ROUNDING) * problem.tokens(size) * size.flops_per_token
    amounts = (tokens_pt * np.geomspace(1 / ASIDE, ASIDE, AMOUNTS)).tolist() if leaves else []
    return problem.plans((size, *near), ALL, [*amounts, np.inf])
