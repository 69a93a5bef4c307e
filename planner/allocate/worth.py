"""What more of something would buy: the best plan of a request with a little more of it, against the recommendation, resample by resample."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from planner.allocate.allocation import Worth
from planner.allocate.closer import closest
from planner.allocate.domains.request import DomainsRequest
from planner.allocate.optimum import Search, coarse_near
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.allocate.retention import Retention
from planner.errors import DataError
from planner.fit.level import LEVEL
from planner.laws.dual import Array
from planner.units import format_count

Limited = TypeVar("Limited", Request, DomainsRequest)
MORE_COMPUTE = 1.1
MORE_TEXT = 2.0
EASED = 0.01
"""Of the general loss, by which a limit on it is relaxed."""
LEAST_GAIN = 1e-6
"""Gain in ln L under which more compute buys nothing to compare with."""
MOST_WORTH = 10.0
"""Factor in compute up to which text is said to be worth compute: the rate is that of ten per cent more."""
MOST_POWER = 1000.0
LEAST_WORTH = 0.005
"""Share of the compute under which text is worth none."""


def worths(problem: Problem, found: Search, mine: Array) -> tuple[list[Worth], str]:
    """Price changes of a request.

    Args:
        problem: the request under its law.
        found: its best plans.
        mine: ln L of the recommendation under each resample, shape (resamples,).

    Returns:
        The changes, and in words what the specialist text is worth in compute.
    """
    request, plans = problem.request, found.plans
    changes: list[tuple[str, Request]] = [(f"{100 * (MORE_COMPUTE - 1):.0f} % more compute", replace(request, flops=MORE_COMPUTE * request.flops))]
    if not problem.one_stage:
        amount = f"{format_count(request.unique_spec)} more distinct specialist tokens"
        changes.append((f"twice the specialist text ({amount})", replace(request, unique_spec=MORE_TEXT * request.unique_spec)))
        if float(plans.tokens_spec[found.best]) > 0.9 * problem.max_tokens_spec:
            beyond = "" if problem.max_epochs + 1 <= problem.law.support.high["epochs_spec"] else ", beyond what the runs cover"
            changes.append((f"one more epoch over the specialist text{beyond}", replace(request, max_epochs=problem.max_epochs + 1)))
    if request.general_tokens and float(plans.tokens_pt[found.best]) > 0.9 * request.general_tokens:
        more = f"twice the general text ({format_count(request.general_tokens)} more tokens)"
        changes.append((more, replace(request, general_tokens=MORE_TEXT * request.general_tokens)))
    changes += eased(request)
    gains: dict[str, Array] = {}
    for name, changed in changes:
        try:
            gains[name] = _gain(under(problem, changed), found, mine)
        except DataError:
            continue  # the larger request has no plan of the sizes asked for
    rows = [worth_of(name, gain) for name, gain in gains.items()]
    named = list(gains)
    if len(named) < 2 or not named[1].startswith("twice the specialist"):
        return rows, ""
    return rows, exchange_of(request.flops, request.unique_spec, gains[named[0]], gains[named[1]])


def eased(request: Limited) -> list[tuple[str, Limited]]:
    """Ease each limit on the general loss by a hundredth of it, and both together where there are two, since either may bind."""
    rise, loss = request.max_general_rise, request.max_general_loss
    found: list[tuple[str, Limited]] = []
    if rise is not None:
        name = f"a general loss that may rise {100 * (rise + EASED):.3g} % instead of {100 * rise:.3g}"
        found.append((name, replace(request, max_general_rise=rise + EASED)))
    if loss is not None:
        looser = loss * (1 + EASED)
        found.append((f"a general loss up to {looser:.4g} instead of {loss:.4g}", replace(request, max_general_loss=looser)))
        if rise is not None:
            found.append(("both of these together", replace(request, max_general_loss=looser, max_general_rise=rise + EASED)))
    return found


def under(problem: Problem, request: Request) -> Problem:
    """Put a changed request in the place of a problem's own, with its limit on the general loss."""
    return replace(problem, request=request, retention=Retention.of(problem.retention.law if problem.retention else None, request))


def _gain(problem: Problem, found: Search, mine: Array) -> Array:
    """Return by how much ln L of the changed request's best plan is lower, under each resample."""
    whole = coarse_near(problem, found)
    best = closest(problem, whole)
    result: Array = mine - best.resamples[:, best.best]
    return result


def worth_of(name: str, gain: Array) -> Worth:
    """Describe what a change buys.

    Args:
        name: of the change.
        gain: by how much it lowers ln L under each resample, shape (resamples,).
    """
    lower = -100 * np.expm1(-gain)
    low, high = np.quantile(lower, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Worth(name, float(lower.mean()), float(low), float(high))


def exchange_of(budget: float, unique_spec: float, compute: Array, text: Array) -> str:
    """Say how much compute would lower the loss as much as twice the text does, at the rate of the first ten per cent.

    Args:
        budget: [FLOPs].
        unique_spec: distinct specialist tokens there are.
        compute: by how much more compute lowers ln L under each resample, shape (resamples,).
        text: the same of twice the text.
    """
    if compute.mean() < LEAST_GAIN:
        return ""
    factors = MORE_COMPUTE ** np.minimum(np.maximum(text, 0.0) / np.maximum(compute, LEAST_GAIN), MOST_POWER)
    low, middle, high = (float(value) for value in np.quantile(factors, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2]))
    amount = format_count(unique_spec)
    if float(text.mean()) < 10 * LEAST_GAIN or middle < 1 + LEAST_WORTH:  # less than whole steps of training make up
        return f"another {amount} distinct specialist tokens would buy nothing here"
    if middle > MOST_WORTH:
        flops = (MOST_WORTH - 1) * budget
        return f"another {amount} distinct specialist tokens are worth more than {flops:.2g} FLOPs here: over {MOST_WORTH:.0f} times the compute"
    flops = budget * (middle - 1)
    most = f"{high:.3g}" if high < MOST_POWER else f"over {MOST_POWER:.0f}"
    return (
        f"another {amount} distinct specialist tokens are worth about {flops:.2g} FLOPs here: {middle:.3g} times the compute would lower the loss as much "
        f"(90 % interval {low:.3g} to {most} times, at the rate of the first {100 * (MORE_COMPUTE - 1):.0f} %)"
    )
