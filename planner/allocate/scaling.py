"""How the best plan changes with the budget: one search per budget and amount of text, slopes over the budgets, and break-even between amounts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from planner.allocate.break_even import break_evens
from planner.allocate.curves import Curve, Exponent, Optimum, Scaling
from planner.allocate.describe import realised
from planner.allocate.exponents import AT, bounded, exponents
from planner.allocate.extrapolation import FAR, TOO_FAR, extrapolation_of, refuse_far, tell_never, warnings_of_law
from planner.allocate.optimum import coarse, interval, joined, reaching
from planner.allocate.problem import Problem
from planner.allocate.refine import refine_plan, refine_search, spread
from planner.allocate.request import Request
from planner.arrays import Array
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.fit.level import ENDS
from planner.fit.support import NEAR
from planner.units import format_count

POINTS = 9
MOST_POINTS = 60
DEARER = 10.0
"""Factor above the largest run at which a range ends by default."""
DEARER_START = 1.25
"""Factor by which the start of a default range is raised until its first budget allows a plan."""
ANCHORS = (ENDS[0], 0.5, ENDS[1])
"""Quantiles of the resamples' own best plans, by size and by specialist tokens, around which the search is refined too: otherwise the coarse grid would
show in their slopes."""


@dataclass(frozen=True)
class Found:
    """Results of the search of one budget for slopes and break-even; resamples are in the law's order, so that each can be followed along the budgets."""

    optimum: Optimum
    expected: float
    """Mean of ln L over the resamples under the best plan."""
    own: Array
    """ln L of each resample's own best plan, shape (resamples,)."""
    values: Array
    """`QUANTITIES` of each resample's own best plan, NaN at a limit, shape (quantities, resamples)."""
    best: Array
    """`QUANTITIES` of the plan with the least expected regret, NaN at a limit, shape (quantities,)."""


def scaling(
    law: FittedLaw, budgets: Sequence[float], amounts: Sequence[float], limits: Request | None = None, *, allow_extrapolation: bool = False
) -> Scaling:
    """Follow the best plan along budgets, for several amounts of distinct specialist text.

    Args:
        law: the fitted law.
        budgets: [FLOPs], at least two.
        amounts: distinct specialist tokens.
        limits: general text, passes and sizes, which hold at every budget; its own budget and specialist text are ignored.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        DataError: a budget allows no plan, or a best plan lies too far beyond the runs.
        InputError: fewer than two budgets, or no amount.
    """
    flops, unique = sorted(set(budgets)), sorted(set(amounts))
    if len(flops) < 2 or not unique:
        raise InputError(f"{len(flops)} budgets and {len(unique)} amounts of text make no curve", remedy="give at least two budgets and one amount")
    limits = limits or Request(flops[0], unique[0])
    problems = [[Problem.of(law, replace(limits, flops=budget, unique_spec=amount)) for budget in flops] for amount in unique]
    rows = [[_find(problem) for problem in row] for row in problems]
    if not allow_extrapolation:
        for found in (item for row in rows for item in reversed(row)):
            refuse_far(law, found.optimum.plan.flops, found.optimum.extrapolation)
    curves = tuple(Curve(amount, tuple(found.optimum for found in row), _exponents(flops, row)) for amount, row in zip(unique, rows, strict=True))
    pairs = break_evens(unique, flops, [[found.expected for found in row] for row in rows], [np.array([found.own for found in row]) for row in rows])
    kept = {key: value for key, value in limits.to_dict().items() if key not in ("flops", "unique_spec")}
    return Scaling(
        request={**kept, "max_epochs": problems[0][0].max_epochs, "budgets": flops, "amounts": unique},
        curves=curves,
        break_evens=tuple(pairs),
        warnings=tuple([*warnings_of_law(problems[0][0]), *_warnings(law, curves, flops, bool(limits.general_tokens))]),
        source=law.origin,
    )


def budget_range(
    law: FittedLaw, amounts: Sequence[float], limits: Request | None = None, *, least: float | None = None, most: float | None = None, points: int = POINTS
) -> list[float]:
    """Return budgets evenly in ln C [FLOPs]: by default from the cheapest run, or the cheapest possible plan, to DEARER times the largest run.

    Args:
        law: the fitted law.
        amounts: distinct specialist tokens.
        limits: as for `scaling`.
        least: first budget.
        most: last budget.
        points: how many.

    Raises:
        InputError: the range is empty, or the points are too few or too many.
    """
    if not 2 <= points <= MOST_POINTS:
        raise InputError(f"{points} points are not between 2 and {MOST_POINTS}", remedy=f"leave out --points for {POINTS}")
    last = most or DEARER * law.support.high["flops"]
    first = least or law.support.low["flops"]
    while least is None and first < last and not all(_possible(law, limits, first, amount) for amount in amounts):
        first *= DEARER_START
    if first >= last:
        if most is None and least is None:
            raise InputError(
                f"this request takes at least {first:.3g} FLOPs, but without --to budgets end at {DEARER:g} times the largest run, {last:.3g} FLOPs",
                remedy="give a higher --to, or a smaller --params",
            )
        raise InputError(f"the range of budgets {first:.3g}..{last:.3g} FLOPs is empty", remedy="give a --to above --from")
    return [float(value) for value in np.geomspace(first, last, points)]


def _possible(law: FittedLaw, limits: Request | None, flops: float, amount: float) -> bool:
    problem = Problem.of(law, replace(limits, flops=flops, unique_spec=amount) if limits else Request(flops, amount))
    try:
        problem.sizes()
    except DataError:
        return False
    return True


def _exponents(budgets: Sequence[float], row: Sequence[Found]) -> tuple[Exponent, ...]:
    return exponents(budgets, np.array([found.best for found in row]), np.array([found.values for found in row]))


def _find(problem: Problem) -> Found:
    """Search one budget: the plan as `plan allocate` recommends it, and each resample's own best."""
    whole = coarse(problem)
    close = refine_search(problem, whole)
    chosen = whole.resamples.argmin(1)
    near = set()
    for along in (whole.plans.params, whole.plans.tokens_spec):
        order = chosen[np.argsort(along[chosen], kind="stable")]
        near |= {int(order[round(quantile * (len(order) - 1))]) for quantile in ANCHORS}
    everything = spread(problem, whole, close)
    found = reduce(joined, [everything, *(refine_plan(problem, whole, number) for number in sorted(near - {whole.best}))])
    values, bounds = bounded(problem, whole, found)
    plan = realised(problem, close.plans, close.best)
    own, here = found.resamples.argmin(1), len(whole.plans) + close.best

    def span(of: Array, mine: float) -> tuple[float, float]:
        # Over the plans that `plan allocate` searches, and widened to its own as there, so that both commands agree.
        return reaching(interval(everything, of[: len(everything.plans)]), mine)

    plans = found.plans
    optimum = Optimum(
        plan, span(plans.params, plan.params_non_embedding), span(plans.tokens_pt, plan.tokens_pt), span(plans.tokens_spec, plan.tokens_spec),
        span(plans.tokens_spec / plans.unique_spec, plan.epochs_spec),
        extrapolation_of(problem.law, plan), tuple(name for name, where in bounds.items() if where[here]),
    )  # fmt: skip
    # The finer search for everything compared with the resamples' own plans, which come from it.
    return Found(optimum, float(found.expected[found.best]), found.resamples.min(1), values[:, own], values[:, found.best])


def _warnings(law: FittedLaw, curves: Sequence[Curve], budgets: Sequence[float], general: bool) -> list[str]:
    found = []
    factors = [max(curve.optima[number].extrapolation["flops"] for curve in curves) for number in range(len(curves[0].optima))]
    outside, dearest = sum(factor > NEAR for factor in factors), max(factors)
    if outside:
        word = "EXTRAPOLATION" if dearest > FAR * (1 + AT) else "extrapolation"
        found.append(
            f"{word}: {outside} of {len(curves[0].optima)} budgets are beyond the largest run ({law.support.high['flops']:.3g} FLOPs), the last "
            f"{dearest:.3g}× ({TOO_FAR:g}× is the limit); there, curves and exponents are extrapolated by the law, not measured"
        )
    if outside and not law.bounded_below:
        found.append(
            f"not every law here has an irreducible loss: outside the runs the upper end of an interval is at least {law.least_loss:.4g} nats/token, the "
            "lowest loss of any run"
        )
    never = Counter(text for curve in curves for item in curve.optima for text in tell_never(law, item.extrapolation))
    found += [f"{count} of {len(curves) * len(curves[0].optima)} plans: {text}" for text, count in never.items()]
    at_end, idle = [], []
    for curve in curves:
        where = f"of {len(budgets)} budgets with {format_count(curve.unique_spec)}"
        if ends := sum(bool({"smallest size", "largest size"} & set(item.limits)) for item in curve.optima):
            at_end.append(f"{ends} {where}")
        if unused := sum(item.plan.flops < (1 - AT) * flops for item, flops in zip(curve.optima, budgets, strict=True)):
            idle.append(f"{unused} {where}")
    if at_end:
        where = "at an end of the sizes searched, or at the lowest tokens per parameter of any run,"
        found.append(f"no optimum inside: the best size is {where} at {', '.join(at_end)}")
    if idle:
        why = "the general text binds" if general else "no further passes are allowed"
        found.append(f"{why}, or more tokens are forecast to raise the loss, and part of the budget is left over at {', '.join(idle)}")
    return found
