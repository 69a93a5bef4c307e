"""What more of each resource would gain: the best plan of a request with a little more of it, compared with the recommendation under each resample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from planner.allocate.allocation import Plan, Worth
from planner.allocate.epoch import one_more
from planner.allocate.exchange import MORE_COMPUTE, exchange_of
from planner.allocate.extrapolation import TOO_FAR
from planner.allocate.optimum import Search, coarse, coarse_near, leading, search
from planner.allocate.problem import Problem
from planner.allocate.refine import around_plan, refine_guess, refine_search
from planner.allocate.request import TAKEN, Request
from planner.allocate.retention import Retention
from planner.arrays import Array
from planner.errors import DataError
from planner.fit.level import interval_of
from planner.units import format_count

MORE_TEXT = 2.0
EASED = 0.01
"""Share of the general loss by which a limit on it is relaxed."""


def prices(problem: Problem, found: Search, plan: Plan, mine: Array) -> tuple[list[Worth], str]:
    """Compute the gain from changes of a request, and from one more pass over its specialist text.

    Args:
        problem: the request under its law.
        found: its best plans.
        plan: the recommendation.
        mine: its ln L under each resample, shape (resamples,).

    Returns:
        The gains, and in words what the specialist text is worth in compute, and why one more pass has no gain if so.
    """
    request = problem.request
    why = ""
    compute = f"{100 * (MORE_COMPUTE - 1):.0f} % more {request.more(MORE_COMPUTE, plan.flops_inference)}"
    changes: list[tuple[str, Request]] = [(compute, request.times(MORE_COMPUTE))]
    if not problem.one_stage:
        amount = f"{format_count(request.unique_spec)} more distinct specialist tokens"
        changes.append((f"twice the specialist text ({amount})", replace(request, unique_spec=MORE_TEXT * request.unique_spec)))
        # The limit on passes binds too if all of them together are too short for a stage.
        allowed = plan.tokens_spec > TAKEN * problem.max_tokens_spec or problem.max_tokens_spec < problem.min_tokens_stage
        if allowed:
            beyond = "" if problem.max_epochs + 1 <= problem.law.support.high["epochs_spec"] else ", beyond what the runs cover"
            if (problem.max_epochs + 1) * request.unique_spec >= problem.min_tokens_stage:
                changes.append((f"one more epoch over the specialist text{beyond}", replace(request, max_epochs=problem.max_epochs + 1)))
            else:
                stage = format_count(problem.min_tokens_stage)
                few = f"even with it, all passes together are below a stage's minimum of {stage} tokens"
                why = f"no gain can be given for one more epoch over the specialist text: {few}"
    if request.general_tokens and plan.tokens_pt > 0.9 * request.general_tokens:
        more = f"twice the general text ({format_count(request.general_tokens)} more tokens)"
        changes.append((more, replace(request, general_tokens=MORE_TEXT * request.general_tokens)))
    limits = request.max_general_rise, request.max_general_loss
    changes += [(name, replace(request, max_general_rise=rise, max_general_loss=loss)) for name, rise, loss in eased(*limits)]
    gains: dict[str, Array] = {}
    for name, changed in changes:
        try:
            gains[name] = mine - _best(under(problem, changed), found, mine)
        except DataError:
            continue  # the larger request has no plan of the requested sizes
    rows, named = [price_of(name, gain) for name, gain in gains.items()], list(gains)
    if not problem.one_stage and not allowed:
        epoch = one_more(problem, plan, tuple(dict.fromkeys(found.plans.sizes)))
        if epoch.resamples is not None:
            rows.insert(2, price_of(epoch.name, mine - epoch.resamples))
        else:
            why = f"no gain can be given for {epoch.name}: {epoch.why}"
    if len(named) < 2 or not named[1].startswith("twice the specialist"):
        return rows, why

    def gain(factor: float) -> Array:
        return mine - _nearly_best(replace(problem, request=request.times(factor)))

    grows = request.grows(plan.flops_inference)
    most = TOO_FAR * problem.law.support.high["flops"] / grows
    # Under a limit on the general loss a search needs the replay of every plan, a third of a second for one sentence: there the rate suffices.
    searched = gain if problem.retention is None else None
    rounding = max(float((mine - found.resamples[:, found.best]).mean()), 0.0) if problem.robust else 0.0
    exchange = exchange_of(grows, request.unique_spec, gains[named[0]], gains[named[1]], searched, most, rounding)
    return rows, "; ".join(text for text in (exchange, why) if text)


def _best(problem: Problem, found: Search, mine: Array) -> Array:
    """Return ln L of the best plan of a changed request under each resample: robust or best guess, as the recommendation."""
    if not problem.robust:
        return _best_guess(problem)
    best = refine_search(problem, coarse_near(problem, found), 1)
    # With more of anything the recommendation remains possible; this small search may miss it.
    return min((best.resamples[:, best.best], found.resamples[:, found.best], mine), key=lambda losses: float(losses.mean()))


def _nearly_best(problem: Problem) -> Array:
    """Return the same for a request that differs more, from a search of the whole range and one refinement: within 1e-4."""
    if not problem.robust:
        return _best_guess(problem)
    whole = coarse(problem, each=False)
    close = leading(problem, around_plan(problem, whole.plans, whole.best))
    best = close if len(close.plans) else whole
    result: Array = best.resamples[:, best.best]
    return result


def _best_guess(problem: Problem) -> Array:
    plans, number = refine_guess(problem, coarse(problem))
    result: Array = search(problem, plans.rows([number])).resamples[:, 0]
    return result


def eased(rise: float | None, loss: float | None) -> Iterator[tuple[str, float | None, float | None]]:
    """Relax each limit on the general loss by one per cent of it, and both together if there are two, since either may bind.

    Args:
        rise: limit on its rise, as a share.
        loss: limit on itself [nats/token].

    Yields:
        The change in words, and both limits after it.
    """
    if rise is not None:
        yield f"a general loss that may rise {100 * (rise + EASED):.3g} % instead of {100 * rise:.3g}", rise + EASED, loss
    if loss is not None:
        yield f"a general loss up to {loss * (1 + EASED):.4g} instead of {loss:.4g}", rise, loss * (1 + EASED)
    if rise is not None and loss is not None:
        yield "both of these together", rise + EASED, loss * (1 + EASED)


def under(problem: Problem, request: Request) -> Problem:
    """Replace the request of a problem, and its limit on the general loss."""
    return replace(problem, request=request, retention=Retention.of(problem.retention.law if problem.retention else None, request))


def price_of(name: str, gain: Array) -> Worth:
    """Describe what a change gains.

    Args:
        name: of the change.
        gain: by how much it lowers ln L under each resample, shape (resamples,).
    """
    # From the mean of ln L, which the search minimises: if resamples disagree much, the mean in per cent may have the other sign.
    return Worth(name, -100 * float(np.expm1(-gain.mean())), *interval_of(-100 * np.expm1(-gain)))
