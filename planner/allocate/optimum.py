"""The best plan under uncertainty: the one with the least expected regret over the law's resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.allocate.problem import FINEST, Plans, Problem, Size
from planner.laws.dual import Array

FRACTIONS = np.unique(np.concatenate([np.geomspace(2e-3, 1.0, 24), np.linspace(0.05, 1.0, 24)]))
"""Of the most specialist tokens possible; finer where they are few."""
MOST_MOVES = 4
"""Of a round whose best lies far from where it began."""
MARGIN = 0.005
"""In ln L: how far behind the best a place of the coarse search may lie and yet be searched closely."""
SPARED = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)
"""Shares of the general tokens that could be taken, tried under a law by which they can do harm."""
FEW_RESAMPLES = 8
"""Of each member, to see whether general tokens can do harm."""
MOST_RESAMPLES = 120
"""Of each member, in a search; forecasts use all."""
TOLERANCE = 0.005
"""Plans whose loss is within this share of the best count as equally good."""


@dataclass(frozen=True)
class Round:
    """How closely to search around a plan."""

    size_reach: float
    """Factor in size to either side."""
    size_step: float
    """Between sizes, in ln N."""
    text_reach: float
    """Factor in specialist tokens to either side, and in general ones where the plan leaves some out."""
    amounts: int
    """Of specialist text, evenly in its logarithm."""


FIRST = Round(1.6, 0.023, 1.25, 31)
SHAPE_ROUNDS = (FIRST, Round(1.5, FINEST, 1.03, 5), Round(1.0, FINEST, 1.006, 9))
"""The second meets every shape near the best: some cost less for their size than others, and are worth a step aside."""
SMOOTH_ROUNDS = (FIRST, Round(1.03, 0.003, 1.03, 9), Round(1.003, 0.0003, 1.004, 9))
"""For sizes that have no shapes, which may be anything."""


@dataclass(frozen=True)
class Search:
    """What the law says of a set of plans."""

    plans: Plans
    expected: Array
    """Mean of ln L over resamples, shape (plans,): least where the expected regret is least."""
    guess: Array
    """ln L of the fitted parameters, shape (plans,)."""
    resamples: Array
    """ln L, shape (resamples, plans)."""

    @property
    def best(self) -> int:
        """Number of the plan with the least expected regret."""
        return int(np.argmin(self.expected))

    @property
    def best_guess(self) -> int:
        """Number of the plan that the fitted parameters prefer."""
        return int(np.argmin(self.guess))


def search(problem: Problem, plans: Plans) -> Search:
    """Evaluate plans under every resample."""
    points = problem.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
    resamples = problem.law.log_loss_resamples(points, MOST_RESAMPLES)
    return Search(plans, resamples.mean(0), problem.law.log_loss(points), resamples)


def coarse(problem: Problem) -> Search:
    """Search the whole range; where a law says that general tokens can do harm, plans that leave some out too.

    Raises:
        DataError: the budget is too small for any size, or the text for any stage.
    """
    sizes = problem.sizes()
    plans = problem.plans(sizes, FRACTIONS)
    if not len(plans):
        problem.refuse_text()
    return search(problem, problem.plans(sizes, FRACTIONS, SPARED) if _general_harms(problem, plans) else plans)


def _general_harms(problem: Problem, plans: Plans) -> bool:
    both = (
        problem.law.points(plans.params_by, factor * plans.tokens_pt, plans.tokens_spec, plans.unique_spec) for factor in (1.0, 0.98)
    )  # fmt: skip
    all_of_it, less = (problem.law.log_loss_resamples(points, FEW_RESAMPLES).mean(0) for points in both)
    return bool((less < all_of_it - 1e-9).any())


def closest(problem: Problem, whole: Search, guess: bool = False) -> Search:
    """Search ever more closely around the best places of a coarse search.

    Args:
        problem: the request under its law.
        whole: the coarse search.
        guess: whether the best is what the fitted parameters prefer, rather than what has the least expected regret.

    Returns:
        The last round around the best place.
    """
    values = whole.guess if guess else whole.expected
    result: Search | None = None
    for number in _places(whole, values):
        found = whole
        for closely in SHAPE_ROUNDS if problem.recipe else SMOOTH_ROUNDS:
            for _ in range(MOST_MOVES):
                before = found.plans.params[number]
                near = refine(problem, found, number, closely)
                if _least(near, guess) <= _least(found, guess) + 1e-12:
                    found, number = near, near.best_guess if guess else near.best
                # A best that lies far off in the round may have a better one beyond.
                if abs(np.log(found.plans.params[number] / before)) <= 0.5 * np.log(closely.size_reach):
                    break
        if result is None or _least(found, guess) < _least(result, guess):
            result = found
    assert result is not None
    return result


def _least(found: Search, guess: bool) -> float:
    return float((found.guess if guess else found.expected).min())


def _places(whole: Search, values: Array) -> list[int]:
    """Choose where to search closely: the best plan, and valleys apart from it, in size or in text, that may turn out deeper yet."""
    plans = whole.plans
    text = np.log(np.maximum(plans.tokens_spec, 1.0) / (plans.tokens_pt + plans.tokens_spec))
    size, step = np.log(plans.params), np.log(FIRST.text_reach)
    alone = np.flatnonzero(plans.tokens_pt == 0)
    candidates = [int(values.argmin()), *_valleys(size, values), *_valleys(np.round(text / step), values)]
    candidates += [int(alone[values[alone].argmin()])] if len(alone) else []
    found: list[int] = []
    for number in sorted(candidates, key=lambda number: float(values[number])):
        near = [other for other in found if abs(size[number] - size[other]) < np.log(FIRST.size_reach) and abs(text[number] - text[other]) < step]
        same_kind = any((plans.tokens_pt[number] == 0) == (plans.tokens_pt[other] == 0) for other in near)
        if values[number] <= values[candidates[0]] + MARGIN and not same_kind:
            found.append(number)
    return found


def _valleys(keys: Array, values: Array) -> list[int]:
    """Return, of the best rows for each key, those that are better than the best rows for the next lower and higher key."""
    order = np.lexsort((values, keys))
    firsts = order[np.unique(keys[order], return_index=True)[1]]
    floor = np.concatenate([[np.inf], values[firsts], [np.inf]])
    return [int(row) for row in firsts[(floor[1:-1] < floor[:-2]) & (floor[1:-1] < floor[2:])]]


def refine(problem: Problem, found: Search, number: int, closely: Round = FIRST) -> Search:
    """Search closely around one plan of a search."""
    plans = found.plans
    size, pt, spec = plans.sizes[plans.size[number]], float(plans.tokens_pt[number]), float(plans.tokens_spec[number])
    near: tuple[Size, ...] = ()
    if problem.request.params is None and not problem.request.params_among:
        ends = (problem.clipped(size.params_non_embedding / closely.size_reach), problem.clipped(size.params_non_embedding * closely.size_reach))
        near = problem.between(*ends, closely.size_step)
    others = tuple(item for item in near if item != size)
    total = problem.tokens(size)
    fractions = np.array([1.0])
    if spec > 0:
        fractions = _around(spec / min(total, problem.max_tokens_spec), closely.text_reach, closely.amounts)
    most = min(total - spec, problem.request.general_tokens or np.inf)
    general = _around(pt / most, closely.text_reach, 5) if most > 1e-9 * total and pt < (1 - 1e-9) * most else np.ones(1)
    return search(problem, problem.plans((size, *others), fractions, general.tolist()))


def _around(share: float, reach: float, count: int) -> Array:
    result: Array = np.unique(np.minimum(1.0, share * np.geomspace(1 / reach, reach, count)))
    return result


def joined(first: Search, second: Search) -> Search:
    """Put two searches together."""
    a, b = first.plans, second.plans
    plans = Plans(
        np.concatenate([a.size, b.size + len(a.sizes)]), np.concatenate([a.params, b.params]), np.concatenate([a.tokens_pt, b.tokens_pt]),
        np.concatenate([a.tokens_spec, b.tokens_spec]), np.concatenate([a.unique_spec, b.unique_spec]), a.sizes + b.sizes,
    )  # fmt: skip
    pairs = ((first.expected, second.expected), (first.guess, second.guess))
    expected, guess = (np.concatenate(pair) for pair in pairs)
    return Search(plans, expected, guess, np.concatenate([first.resamples, second.resamples], axis=1))


def interval(found: Search, values: Array, level: float) -> tuple[float, float]:
    """Return the interval over resamples of a quantity of each resample's own best plan."""
    chosen = values[found.resamples.argmin(1)]
    low, high = np.quantile(chosen, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def within(found: Search, values: Array, tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Return the range of a quantity over all plans within a tolerance of the best."""
    good = found.expected <= found.expected.min() + np.log1p(tolerance)
    return float(values[good].min()), float(values[good].max())


def profile(problem: Problem, sizes: tuple[Size, ...], count: int = 41) -> tuple[Array, Array]:
    """Return the best loss for each share of specialist tokens that is possible: shares and losses, for a figure."""
    shares, losses = [], []
    for share in np.linspace(0, 1, count):
        plans = problem.split(sizes, float(share))
        if len(plans):
            points = problem.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)
            shares.append(float(share))
            losses.append(float(np.exp(problem.law.log_loss(points).min())))
    return np.array(shares), np.array(losses)
