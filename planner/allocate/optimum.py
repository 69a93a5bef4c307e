"""The best plan under uncertainty: the one with the least expected regret over the law's resamples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from planner.allocate.infeasible import would_keep
from planner.allocate.kinks import kinks
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import Problem
from planner.arrays import Array
from planner.errors import DataError
from planner.fit.level import interval_of

FRACTIONS = np.unique(np.concatenate([np.geomspace(2e-3, 1.0, 24), np.linspace(0.05, 1.0, 24)]))
"""Fractions of the most specialist tokens possible; finer where they are few."""
SHORTER = 2**0.5
"""Factor between amounts of general tokens, from the shortest stage upward, that are tried if by the law they can raise the loss, or if fewer of them may
keep a limit on the general loss. Amounts instead of shares, so that a larger budget tries all that a smaller one does."""
OCTAVES = 9
"""Octaves down from the most tokens of the largest size, if a stage may be arbitrarily short."""
GLANCES = 9
"""Resamples of all members together, to discard most of a large grid: fewer would not tell how far they differ."""
FEW_RESAMPLES = 8
"""Resamples of each member, to see whether tokens can raise the loss."""
SOME_RESAMPLES = 24
"""Resamples of each member, to discard hopeless plans."""
BEYOND_DOUBT = 6.0
"""Standard errors by which a plan must be behind under some of the resamples to be discarded."""
CLOSE_BEHIND = 2e-4
"""In ln L, on top of those: allowance for rare resamples that were not used."""
HOPELESS = 0.03
"""In ln L: how far behind the best a plan must be under each of those resamples and in their mean to be discarded; twice the tolerance if that is more."""
NEARLY = 0.01
"""In ln L: sizes this close to the best are searched again if a request changes a little."""
WIDER = 1.5
"""Factor in size beyond those that is searched too."""
ROUNDING = 0.01
"""Share by which rounding to whole steps may change an amount."""
MOST_GLANCED, MOST_HOPEFUL = 20_000, 5_000
"""Most plans kept after the first look at a grid, and after the second: far beyond the runs resamples disagree so much that few would be discarded."""
MOST_RESAMPLES = 120
"""Resamples of each member in a search; forecasts use all."""


@dataclass(frozen=True)
class Search:
    """A set of plans with their losses by the law."""

    plans: Plans
    expected: Array
    """Mean of ln L over resamples, shape (plans,): its minimum has the least expected regret."""
    guess: Array
    """ln L of the fitted parameters, shape (plans,)."""
    resamples: Array
    """ln L including the cost of replay, shape (resamples, plans); infinite, here and above, for a plan that exceeds the limit on the general loss."""

    @property
    def best(self) -> int:
        """Number of the plan with the least expected regret."""
        return int(np.argmin(self.expected))

    @property
    def best_guess(self) -> int:
        """Number of the plan that the fitted parameters prefer."""
        return int(np.argmin(self.guess))


def search(problem: Problem, plans: Plans) -> Search:
    """Evaluate plans under every resample, each with the least replay that keeps the limit on the general loss."""
    return _evaluated(problem, replaying(problem, plans))


def leading(problem: Problem, plans: Plans, near: float = CLOSE_BEHIND) -> Search:
    """Evaluate the plans that keep the limit and may come within `near` of the best in ln L; in a close search a tenth of all."""
    plans = _keeping(problem, plans)
    return _evaluated(problem, plans.rows(contends(problem, plans, SOME_RESAMPLES, near)) if len(plans) else plans)


def guesses(problem: Problem, plans: Plans) -> Array:
    """Forecast ln L by the fitted parameters alone, infinite for a plan that exceeds the limit on the general loss."""
    plans = replaying(problem, plans)
    result: Array = problem.law.log_loss(problem.points(plans)) + plans.added
    return result


def contends(problem: Problem, plans: Plans, most: int, near: float, among: Any = None, each: bool = False) -> Any:
    """Tell which plans may come within `near` of the best mean, from paired differences under a few resamples.

    Args:
        problem: the request under its law.
        plans: all of which keep the limit on the general loss.
        most: resamples of each member.
        near: in ln L.
        among: group of each plan, shape (plans,), for a best one in each group; None for one group.
        each: whether to tell which plans may come so close under any single resample.
    """
    some = problem.law.log_loss_resamples(problem.points(plans), most) + plans.added
    among = np.zeros(len(plans), dtype=int) if among is None else among
    order = np.lexsort((some.mean(0), among))
    groups, firsts = np.unique(among[order], return_index=True)
    behind = some - some[:, order[firsts[np.searchsorted(groups, among)]]]
    # The laws differ in their means too, so this overestimates the error if anything.
    kept = behind.mean(0) <= near + BEYOND_DOUBT * behind.std(0) / (1.0 if each else sqrt(len(behind)))
    return kept & _closest((some - some.min(1, keepdims=True)).min(0), np.inf, MOST_GLANCED) if each else kept


def _closest(behind: Array, near: float, most: int) -> Any:
    """Tell which plans are at most `near` behind; if these are more than `most`, the closest of them."""
    return behind <= (min(near, np.partition(behind, most)[most]) if len(behind) > most else near)


def _evaluated(problem: Problem, plans: Plans) -> Search:
    """Evaluate plans whose replay is known; those that exceed the limit get an infinite loss."""
    points = problem.points(plans)
    resamples, guess = problem.law.log_loss_resamples(points, MOST_RESAMPLES), problem.law.log_loss(points)
    if plans.replay is not None:
        resamples, guess = resamples + plans.added, guess + plans.added
    return Search(plans, resamples.mean(0), guess, resamples)


def bent(problem: Problem, plans: Plans) -> Plans:
    """If the general loss is limited, give plans of a grid their replay, and add the plans between them at the kinks of its cost."""
    if problem.retention is None:
        return plans
    plans = replaying(problem, plans)
    added = kinks(problem.retention, plans, problem.min_tokens_stage, problem.shortest)
    return plans.beside(added.rows(problem.enough(added)))


def replaying(problem: Problem, plans: Plans) -> Plans:
    """Give plans the least replay that keeps the limit on the general loss, if there is a limit and they have no replay yet."""
    if problem.retention is None or plans.replay is not None:
        return plans
    return replace(plans, replay=problem.retention.replay(plans, problem.min_tokens_stage))


def _keeping(problem: Problem, plans: Plans) -> Plans:
    """Return the plans that keep the limit, with their replay; all of them if there is no limit."""
    plans = replaying(problem, plans)
    return plans if plans.replay is None else plans.rows(np.flatnonzero(np.isfinite(plans.replay)))


def _hopeful(problem: Problem, plans: Plans, each: bool) -> Plans:
    """Keep the plans close to the best in the mean, or with `each` also under some resample, and one of the smallest and of the largest size.

    A compromise may be far from the best under every resample used. The sizes at the ends show whether the best lies there.
    """
    near = max(HOPELESS, 2 * problem.request.tolerance) if each else NEARLY
    ends = (plans.params.min(), plans.params.max())
    glance = -(-GLANCES // len(problem.law.members))
    for most in ([glance] if glance < FEW_RESAMPLES else []) + ([] if each else [FEW_RESAMPLES]):
        plans = plans.rows(contends(problem, plans, most, near, each=each) | np.isin(plans.params, ends))
    some = problem.law.log_loss_resamples(problem.points(plans), SOME_RESAMPLES) + plans.added
    mean = some.mean(0)
    behind = mean - mean.min()
    if each:
        behind = np.minimum((some - some.min(1, keepdims=True)).min(0), behind)
    keep = _closest(behind, near, MOST_HOPEFUL)
    for end in ends:
        rows = np.flatnonzero(plans.params == end)
        keep[rows[behind[rows].argmin()]] = True
    return plans.rows(keep)


def coarse(problem: Problem, *, each: bool = True, advise: bool = False) -> Search:
    """Search the whole range; if general tokens can raise the loss, or if the general loss is limited, also plans that leave some of them out.

    Args:
        problem: the request.
        each: whether to keep plans that may be best under some resample, not only in the mean.
        advise: whether to search for what would keep a limit that no plan keeps, which takes longer than the search itself.

    Raises:
        DataError: the budget is too small for any size, or the text for any stage.
    """
    return _coarse(problem, problem.sizes(), each, advise)


def coarse_near(problem: Problem, other: Search) -> Search:
    """Search for just the best plan, among the sizes that were nearly as good for another request that differs little.

    If the best lies at an end of those sizes, all sizes are searched.

    Raises:
        DataError: as `coarse`.
    """
    sizes = problem.sizes()
    good = other.plans.params[other.expected <= other.expected.min() + NEARLY]
    inside = [size for size in sizes if good.min() / WIDER <= size.params_non_embedding <= good.max() * WIDER]
    if 2 < len(inside) < len(sizes):
        try:
            found = _coarse(problem, tuple(inside), each=False)
        except DataError:  # none of these keeps the limit
            return _coarse(problem, sizes, each=False)
        least, most = min(size.params_non_embedding for size in inside), max(size.params_non_embedding for size in inside)
        if least < found.plans.params[found.best] < most:
            return found
    return _coarse(problem, sizes, each=False)


def _coarse(problem: Problem, sizes: tuple[Size, ...], each: bool, advise: bool = False) -> Search:
    plans = crossed(problem, sizes, FRACTIONS)
    kept = _keeping(problem, bent(problem, plans))
    if problem.retention is not None and not len(kept):
        problem.retention.refuse(plans, problem.min_tokens_stage, would_keep(problem, _keeps) if advise else "")
    return _evaluated(problem, _hopeful(problem, kept, each))


def _keeps(problem: Problem) -> bool:
    """Tell whether some plan of a problem keeps its limit on the general loss."""
    try:
        return len(_keeping(problem, bent(problem, crossed(problem, problem.sizes(), FRACTIONS)))) > 0
    except DataError:  # no size is possible
        return False


def crossed(problem: Problem, sizes: tuple[Size, ...], fractions: Array) -> Plans:
    """Cross sizes with amounts of text, and, if that may be better, with less general text than possible."""
    plans = problem.plans(sizes, fractions)
    shorter = len(plans) and (problem.retention is not None or harms(problem, plans, "tokens_pt"))
    return problem.plans(sizes, fractions, _amounts(problem, sizes)) if shorter else plans


def _amounts(problem: Problem, sizes: tuple[Size, ...]) -> list[float]:
    """List the general tokens to try: none, the shortest stage, more by a factor each, and all."""
    total = [problem.tokens(size) for size in sizes]
    least, most = problem.min_tokens_stage or 2.0 ** (np.floor(np.log2(min(total))) - OCTAVES), min(max(total), problem.general_tokens)
    return [0.0, *np.exp(np.arange(np.log(least), np.log(most), np.log(SHORTER))), np.inf]


def harms(problem: Problem, plans: Plans, tokens: str) -> bool:
    """Tell whether some plan would be better with slightly fewer "tokens_pt" or "tokens_spec"."""
    both = (problem.points(replace(plans, **{tokens: factor * getattr(plans, tokens)})) for factor in (1.0, 0.98))
    all_of_it, less = (problem.law.log_loss_resamples(points, FEW_RESAMPLES).mean(0) for points in both)
    return bool((less < all_of_it - 1e-9).any())


def joined(first: Search, second: Search) -> Search:
    """Put two searches together."""
    a, b = first.plans, second.plans
    plans = replace(a, sizes=a.sizes + b.sizes).beside(replace(b, size=b.size + len(a.sizes)))
    pairs = ((first.expected, second.expected), (first.guess, second.guess))
    expected, guess = (np.concatenate(pair) for pair in pairs)
    return Search(plans, expected, guess, np.concatenate([first.resamples, second.resamples], axis=1))


def interval(found: Search, values: Array) -> tuple[float, float]:
    """Return the 90 % interval, over resamples, of a quantity of each resample's own best plan."""
    return interval_of(values[found.resamples.argmin(1)])


def within(found: Search, values: Array, tolerance: float) -> tuple[float, float]:
    """Return the range of a quantity over all plans within a tolerance of the best."""
    good = found.expected <= found.expected.min() + np.log1p(tolerance)
    return float(values[good].min()), float(values[good].max())


def reaching(ends: tuple[float, float], value: float) -> tuple[float, float]:
    """Widen an interval to include the recommended plan if only its rounding to whole steps put it outside."""
    low, high = ends
    return (value if low * (1 - ROUNDING) <= value < low else low), (value if high < value <= high * (1 + ROUNDING) else high)
