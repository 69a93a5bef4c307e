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
"""Of the most specialist tokens possible; finer where they are few."""
SHORTER = 2**0.5
"""Factor between general tokens, up from the shortest stage, that are tried under a law by which they can do harm, or a limit on the general loss that
fewer may keep: amounts and no shares, so that a larger budget finds again what a smaller one does."""
OCTAVES = 9
"""Down from the most of the largest size, where a stage may be as short as one likes."""
FEW_RESAMPLES = 8
"""Of each member, to see whether general tokens can do harm."""
SOME_RESAMPLES = 24
"""Of each member, under which plans without hope are told from the others."""
BEYOND_DOUBT = 6.0
"""Standard errors by which a plan must be behind under a part of the resamples to be given up."""
CLOSE_BEHIND = 2e-4
"""In ln L, on top of those: what a rare resample that is not among that part may make up for."""
HOPELESS = 0.03
"""In ln L: how far behind the best a plan must lie in all of those worlds, and in their mean, to be given up; twice the tolerance where that is more."""
NEARLY = 0.01
"""In ln L: sizes this near the best are searched again where a request changes a little."""
WIDER = 1.5
"""Factor in size beyond those."""
ROUNDING = 0.01
"""Share by which whole steps may change an amount."""
MOST_RESAMPLES = 120
"""Of each member, in a search; forecasts use all."""


@dataclass(frozen=True)
class Search:
    """What the law says of a set of plans."""

    plans: Plans
    expected: Array
    """Mean of ln L over resamples, shape (plans,): least where the expected regret is least."""
    guess: Array
    """ln L of the fitted parameters, shape (plans,)."""
    resamples: Array
    """ln L with what replay costs, shape (resamples, plans); infinite, here and above, for a plan that passes the limit on the general loss."""

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
    """Evaluate those of the plans that keep the limit and may come that near to the best in ln L; a tenth of them in a close search."""
    plans = _keeping(problem, plans)
    return _evaluated(problem, plans.rows(contends(problem, plans, SOME_RESAMPLES, near)) if len(plans) else plans)


def guesses(problem: Problem, plans: Plans) -> Array:
    """Forecast ln L by the fitted parameters alone, infinite for a plan that passes the limit on the general loss."""
    plans = replaying(problem, plans)
    result: Array = problem.law.log_loss(problem.points(plans)) + plans.added
    return result


def contends(problem: Problem, plans: Plans, most: int, near: float, among: Any = None) -> Any:
    """Tell which plans may come that near to the best of the mean, or nearer, by few resamples, each of which is asked of both plans.

    Args:
        problem: the request under its law.
        plans: all of which keep the limit on the general loss.
        most: resamples of each member.
        near: in ln L.
        among: numbers of groups, shape (plans,), in each of which a best one is looked for; None for one group of all.
    """
    some = problem.law.log_loss_resamples(problem.points(plans), most) + plans.added
    among = np.zeros(len(plans), dtype=int) if among is None else among
    order = np.lexsort((some.mean(0), among))
    groups, firsts = np.unique(among[order], return_index=True)
    behind = some - some[:, order[firsts[np.searchsorted(groups, among)]]]
    # Laws differ in their means, too, so that the error is rather more than less than this.
    return behind.mean(0) <= near + BEYOND_DOUBT * behind.std(0) / sqrt(len(behind))


def _evaluated(problem: Problem, plans: Plans) -> Search:
    """Evaluate plans whose replay is known; those that pass the limit are infinitely bad."""
    points = problem.points(plans)
    resamples, guess = problem.law.log_loss_resamples(points, MOST_RESAMPLES), problem.law.log_loss(points)
    if plans.replay is not None:
        resamples, guess = resamples + plans.added, guess + plans.added
    return Search(plans, resamples.mean(0), guess, resamples)


def bent(problem: Problem, plans: Plans) -> Plans:
    """Give plans of a grid their replay where the general loss is limited, and add those between them at which what it costs bends."""
    if problem.retention is None:
        return plans
    plans = replaying(problem, plans)
    added = kinks(problem.retention, plans, problem.min_tokens_stage, problem.shortest)
    return plans.beside(added.rows(problem.enough(added)))


def replaying(problem: Problem, plans: Plans) -> Plans:
    """Give plans the least replay that keeps the limit on the general loss, where there is one, and they have none yet."""
    if problem.retention is None or plans.replay is not None:
        return plans
    return replace(plans, replay=problem.retention.replay(plans, problem.min_tokens_stage))


def _keeping(problem: Problem, plans: Plans) -> Plans:
    """Return those plans that keep the limit, with their replay; all of them where there is none."""
    plans = replaying(problem, plans)
    return plans if plans.replay is None else plans.rows(np.flatnonzero(np.isfinite(plans.replay)))


def _hopeful(problem: Problem, plans: Plans, each: bool) -> Plans:
    """Choose the plans that come near the best of the mean, or `each` of some resample, and keep one of the smallest and of the largest size.

    A compromise may be far from the best in every world that is looked at. By the sizes at the ends it is seen whether the best lies there.
    """
    near = max(HOPELESS, 2 * problem.request.tolerance) if each else NEARLY
    ends = (plans.params.min(), plans.params.max())
    if not each:
        plans = plans.rows(contends(problem, plans, FEW_RESAMPLES, near) | np.isin(plans.params, ends))
    some = problem.law.log_loss_resamples(problem.points(plans), SOME_RESAMPLES) + plans.added
    mean = some.mean(0)
    behind = mean - mean.min()
    if each:
        behind = np.minimum((some - some.min(1, keepdims=True)).min(0), behind)
    keep = behind <= near
    for end in ends:
        rows = np.flatnonzero(plans.params == end)
        keep[rows[behind[rows].argmin()]] = True
    return plans.rows(keep)


def coarse(problem: Problem, *, each: bool = True, advise: bool = False) -> Search:
    """Search the whole range; where general tokens can do harm, or a limit on the general loss hold a shorter trunk too, plans that leave some out.

    Args:
        problem: the request.
        each: whether to keep what may be best by some resample, rather than by their mean alone.
        advise: whether to look for what would keep a limit that no plan keeps, which takes longer than to find that out.

    Raises:
        DataError: the budget is too small for any size, or the text for any stage.
    """
    return _coarse(problem, problem.sizes(), each, advise)


def coarse_near(problem: Problem, other: Search) -> Search:
    """Search for the best plan alone among the sizes that were nearly as good for another request, which differs in little.

    If the best lies at an end of those, all sizes are searched.

    Raises:
        DataError: as `coarse`.
    """
    sizes = problem.sizes()
    good = other.plans.params[other.expected <= other.expected.min() + NEARLY]
    inside = [size for size in sizes if good.min() / WIDER <= size.params_non_embedding <= good.max() * WIDER]
    if 2 < len(inside) < len(sizes):
        try:
            found = _coarse(problem, tuple(inside), each=False)
        except DataError:  # none of these keeps a limit
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
    except DataError:  # no size has enough of something
        return False


def crossed(problem: Problem, sizes: tuple[Size, ...], fractions: Array) -> Plans:
    """Cross sizes with amounts of text, and where that may be better, with less general text than could be taken."""
    plans = problem.plans(sizes, fractions)
    shorter = len(plans) and (problem.retention is not None or harms(problem, plans, "tokens_pt"))
    return problem.plans(sizes, fractions, _amounts(problem, sizes)) if shorter else plans


def _amounts(problem: Problem, sizes: tuple[Size, ...]) -> list[float]:
    """List the general tokens to try: none, the shortest stage, more by a factor each, and all there are."""
    total = [problem.tokens(size) for size in sizes]
    least, most = problem.min_tokens_stage or 2.0 ** (np.floor(np.log2(min(total))) - OCTAVES), min(max(total), problem.general_tokens)
    return [0.0, *np.exp(np.arange(np.log(least), np.log(most), np.log(SHORTER))), np.inf]


def harms(problem: Problem, plans: Plans, tokens: str) -> bool:
    """Tell whether some plan would be better with a little less of its "tokens_pt" or "tokens_spec"."""
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
    """Return the 90 % interval over resamples of a quantity of each resample's own best plan."""
    return interval_of(values[found.resamples.argmin(1)])


def within(found: Search, values: Array, tolerance: float) -> tuple[float, float]:
    """Return the range of a quantity over all plans within a tolerance of the best."""
    good = found.expected <= found.expected.min() + np.log1p(tolerance)
    return float(values[good].min()), float(values[good].max())


def reaching(ends: tuple[float, float], value: float) -> tuple[float, float]:
    """Widen an interval of plans as they were searched to the recommended one, where only its rounding to whole steps put it outside."""
    low, high = ends
    return (value if low * (1 - ROUNDING) <= value < low else low), (value if high < value <= high * (1 + ROUNDING) else high)
