"""What the specialist text is worth in compute for a base: the budget that reaches the loss which twice the text reaches with this budget.

For one base, plans differ only in the amount of text, so walking along the amounts finds the budget.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_stage import LEAST_SHARE, Stage, evaluated, stage_of
from planner.allocate.prices import MORE_TEXT, under
from planner.allocate.problem import Problem
from planner.arrays import Array
from planner.fit.level import interval_of
from planner.method import Method
from planner.units import format_count, format_number

MOST_FACTOR = 100.0
"""Largest factor in compute on the walk; a larger worth is reported as more than that."""
NEARLY = 0.98
"""Share of that factor from which the walk counts as having reached it."""
AMOUNTS = 60
"""Amounts on the walk, between which the compute is interpolated."""
LEAST_GAIN = 1e-5
"""Gain in ln L below which more text gains nothing."""
LEAST_WORTH = 1.005
"""Factor in compute below which the text is worth nothing."""


def base_exchange(problem: Problem, base: Base, method: Method, stage: Stage) -> str:
    """Say how much compute would lower a base's loss as much as twice its specialist text does.

    Args:
        problem: the request.
        base: the base.
        method: how it is specialised.
        stage: its stage with the present text.
    """
    request, inference = problem.request, base.flops_inference(problem.request.inference_tokens)
    start = f"another {format_count(request.unique_spec)} distinct specialist tokens"
    text = stage_of(under(problem, replace(request, unique_spec=MORE_TEXT * request.unique_spec)), base, method)
    if float((stage.end - text.end).mean()) < LEAST_GAIN:
        return f"{start} would gain {base.name} nothing here"
    factors, ends = _walk(problem, base, method, stage)
    reached = np.flatnonzero(ends.mean(0) <= text.end.mean())
    if not len(reached):
        return f"no amount of compute replaces {start} for {base.name} here: {_why_none(problem, factors, ends)}"
    factor = float(_crossing(factors, ends.mean(0)[None], text.end.mean()[None])[0])
    low, high = interval_of(_crossing(factors, ends, text.end))
    if factor < LEAST_WORTH:
        return f"{start} would gain {base.name} nothing here"
    most = "over " if high >= factors[-1] * (1 - 1e-9) else ""
    ends_said = f"90 % interval {format_number(low)} to {most}{format_number(high)} times"
    worth = f"{start} are worth about {request.grows(inference) * (factor - 1):.2g} FLOPs to {base.name} here"
    return f"{worth}: {format_number(factor)} times the compute would lower its loss as much ({ends_said})"


def _walk(problem: Problem, base: Base, method: Method, stage: Stage) -> tuple[Array, Array]:
    """Return factors in compute, shape (budgets,), and ln L after the best amount that each pays for, shape (all resamples, budgets)."""
    request, inference = problem.request, base.flops_inference(problem.request.inference_tokens)
    price = method.flops_per_token(base.shape, base.context)
    paid = request.times(MOST_FACTOR).paid(inference) / price
    most = min(paid, problem.max_epochs * request.unique_spec)
    now = float(stage.tokens[stage.best])
    seen = evaluated(problem, base, np.unique(np.append(np.geomspace(max(now, LEAST_SHARE * most), max(most, now), AMOUNTS), now)), paid, None)
    cost = price * seen.tokens / (1 - seen.replay)
    factors = np.maximum((cost + inference) / request.flops, cost / (request.training_flops or np.inf))
    kept = np.flatnonzero(np.isfinite(seen.guess))
    order = kept[np.argsort(factors[kept])]
    expected = seen.expected[order]
    # A larger budget may be left over in part, so it is never worse.
    best = np.maximum.accumulate(np.where(expected <= np.minimum.accumulate(expected), np.arange(len(order)), 0))
    return np.maximum(factors[order], 1.0), seen.resamples[:, order][:, best]


def _crossing(factors: Array, ends: Array, wanted: Array) -> Array:
    """Return the factor at which each row of ln L, shape (rows, budgets), reaches the wanted value, shape (rows,); the last if it never does."""
    low = ends <= wanted[:, None]
    at = np.where(low.any(1), low.argmax(1), len(factors) - 1)
    before, rows = np.maximum(at - 1, 0), np.arange(len(ends))
    above, below, logs = ends[rows, before], ends[rows, at], np.log(factors)
    between = low.any(1) & (above > wanted) & (above > below)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(between, (above - wanted) / np.where(between, above - below, 1.0), 1.0)
    result: Array = np.exp(logs[before] + share * (logs[at] - logs[before]))
    return result


def _why_none(problem: Problem, factors: Array, ends: Array) -> str:
    """Say why no budget on the walk reaches that loss."""
    if factors[-1] > NEARLY * MOST_FACTOR:
        return f"{MOST_FACTOR:g} times as much would not lower its loss as much"
    if ends.shape[1] < 2 or (ends[:, -1] < ends[:, -2]).any():
        return f"at most {problem.max_epochs:.3g} passes over the present text are allowed"
    return "more passes over the present text would raise the loss" + (", or exceed the limit" if problem.retention is not None else "")
