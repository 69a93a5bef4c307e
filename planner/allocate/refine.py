"""From a coarse search to the best plan: ever closer searches around every plan that may still turn out best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from planner.allocate.optimum import Search, bent, guesses, joined, leading, search
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import EVERY_SHAPE, FINEST, Problem
from planner.allocate.request import LEFT_OVER
from planner.arrays import Array

MOST_MOVES = 4
"""Most moves of a round whose best lies far from where it began."""
ENDS, BEYOND = (0.03, 0.97), 1.2
"""Quantiles of the resamples' own best sizes and amounts that bound the range in which these are searched, and a factor beyond."""
SIZES, AMOUNTS = 60, 31
"""Number of sizes and of amounts there."""
QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Quantiles of the general tokens of resamples' own best plans that leave some out."""
REPLAY_STEP = 0.05
"""Width of the bins of replay shares in which valleys are searched: at a kink of the cost there may be a separate valley."""
GENERAL, FEWER = 5, 15
"""Amounts of general text to try if a plan leaves some out, and the most amounts of specialist text then."""
MARGIN = 0.005
"""In ln L: how far behind the best a plan of the coarse search may be and still be searched closely."""
BEHIND = 1e-3
"""The same after the first round."""


@dataclass(frozen=True)
class Round:
    """How closely to search around a plan."""

    size_reach: float
    """Factor in size to either side."""
    size_step: float
    """Between sizes, in ln N."""
    text_reach: float
    """Factor in specialist tokens to either side, and in general ones if the plan leaves some out."""
    amounts: int
    """Amounts of specialist text, evenly in the logarithm."""
    farther: tuple[float, ...] = ()
    """Additional factors in specialist tokens: a size far from the plan's may prefer another amount."""


FIRST = Round(1.6, 0.023, 1.25, 31)
SHAPE_ROUNDS = (FIRST, Round(1.7, FINEST, 1.03, 5, (1 / 1.2, 1 / 1.1, 1.1, 1.2)), Round(1.05, FINEST, 1.006, 9))
"""The second tries every shape near the best: some cost less for their size than others."""
GUESS_ROUNDS = (FIRST, Round(1.7, EVERY_SHAPE, 1.03, 5), SHAPE_ROUNDS[2])
"""Rounds for the best guess, which costs little but the shapes."""
SMOOTH_ROUNDS = (FIRST, Round(1.03, 0.003, 1.03, 9), Round(1.003, 0.0003, 1.004, 9))
"""Rounds for sizes without shapes, which may have any value."""


@dataclass(frozen=True)
class _End:
    """State of a close search: the best plan so far, and the plans among which it was found."""

    value: float
    plans: Plans
    number: int
    nearby: Plans

    @property
    def place(self) -> Array:
        """Coordinates of that plan."""
        return _place(self.plans, self.number)


Look = Callable[[Plans], tuple[Plans, Array]]
"""From plans to those of them that may be the best, with their ln L."""


def refine_search(problem: Problem, whole: Search, most: int | None = None) -> Search:
    """Search ever more closely around the best plans of a coarse search; return the last round around the best.

    Args:
        problem: the request.
        whole: the coarse search.
        most: most plans that are searched beyond the first round; None for all that are distinct and close to the best.
    """

    def look(plans: Plans) -> tuple[Plans, Array]:
        found = leading(problem, plans)
        return found.plans, found.expected

    end = _refined(problem, whole, SHAPE_ROUNDS if problem.recipe else SMOOTH_ROUNDS, look, most)
    return whole if end.nearby is whole.plans else search(problem, end.nearby)


def refine_guess(problem: Problem, whole: Search) -> tuple[Plans, int]:
    """Search as closely for the best plan by the fitted parameters alone; return plans and its number among them."""
    whole = replace(whole, expected=whole.guess)
    end = _refined(problem, whole, GUESS_ROUNDS if problem.recipe else SMOOTH_ROUNDS, lambda plans: (plans, guesses(problem, plans)), None)
    return end.plans, end.number


def _refined(problem: Problem, whole: Search, rounds: tuple[Round, ...], look: Look, most: int | None) -> _End:
    """Search around all valleys in the first round, then around the (at most `most`) distinct results close to the best."""
    ends = [_End(float(whole.expected[number]), whole.plans, number, whole.plans) for number in _places(whole)]
    ends = _apart([_searched_around(problem, end, rounds[0], look) for end in ends])[:most]
    for closely in rounds[1:]:
        ends = [_searched_around(problem, end, closely, look) for end in ends]
    return min(ends, key=lambda end: end.value)


def _searched_around(problem: Problem, end: _End, closely: Round, look: Look) -> _End:
    """Search around a plan, and move to better ones."""
    for _ in range(MOST_MOVES):
        place, nearby = end.place, around_plan(problem, end.plans, end.number, closely)
        plans, values = look(nearby)
        if len(plans) and values.min() <= end.value:
            end = _End(float(values.min()), plans, int(values.argmin()), nearby)
        if _stays(problem, end.plans, end.number, place, closely):
            break
    return end


def _apart(ends: list[_End]) -> list[_End]:
    """Drop results of the first round that are far behind the best or close to a better one."""
    kept: list[_End] = []
    for end in sorted(ends, key=lambda end: end.value):
        near = any(float(np.abs(end.place - other.place).max()) < np.log(FIRST.text_reach) / 2 for other in kept)
        if not kept or (end.value <= kept[0].value + BEHIND and not near):
            kept.append(end)
    return kept


def _stays(problem: Problem, plans: Plans, number: int, place: Array, closely: Round) -> bool:
    """Tell whether the best of a round lies near its start; otherwise a better one may lie further on."""
    moved = np.abs(_place(plans, number) - place)
    # If some budget is left over, general tokens are a free coordinate; else they follow from the others.
    texts = moved[1:] if plans.flops[number] < LEFT_OVER * problem.request.flops else moved[1:2]
    return bool(moved[0] <= 0.5 * np.log(closely.size_reach) and (texts <= 0.5 * np.log(closely.text_reach)).all())


def _place(plans: Plans, number: int) -> Array:
    """Return the coordinates of a plan: ln of its size, specialist and general tokens, zero for none."""
    return np.log([plans.params[number], max(plans.tokens_spec[number], 1.0), max(plans.tokens_pt[number], 1.0)])


def _places(whole: Search) -> list[int]:
    """Choose where to search closely: the best plan, and separate valleys, in size or text, that may turn out deeper."""
    plans, values = whole.plans, whole.expected
    text = np.log(np.maximum(plans.tokens_spec, 1.0) / (plans.tokens_pt + plans.tokens_spec))
    size, step = np.log(plans.params), np.log(FIRST.text_reach)
    alone = np.flatnonzero(plans.tokens_pt == 0)
    candidates = [int(values.argmin()), *_valleys(size, values), *_valleys(np.round(text / step), values)]
    candidates += [int(alone[values[alone].argmin()])] if len(alone) else []
    candidates += _valleys(np.round(plans.replay / REPLAY_STEP), values) if plans.replay is not None else []
    found: list[int] = []
    for number in sorted(candidates, key=lambda number: float(values[number])):
        near = [other for other in found if abs(size[number] - size[other]) < np.log(FIRST.size_reach) and abs(text[number] - text[other]) < step]
        same_kind = any((plans.tokens_pt[number] == 0) == (plans.tokens_pt[other] == 0) for other in near)
        if values[number] <= values[candidates[0]] + MARGIN and not same_kind:
            found.append(number)
    return found


def _valleys(keys: Array, values: Array) -> list[int]:
    """Return, of the best rows for each key, those that are better than the best rows for the neighbouring keys."""
    order = np.lexsort((values, keys))
    firsts = order[np.unique(keys[order], return_index=True)[1]]
    floor = np.concatenate([[np.inf], values[firsts], [np.inf]])
    return [int(row) for row in firsts[(floor[1:-1] < floor[:-2]) & (floor[1:-1] < floor[2:])]]


def spread(problem: Problem, whole: Search, close: Search) -> Search:
    """Join two searches with plans among which every resample finds its own best: around the best of all, and over the range of the resamples' own best.

    The last rounds of a close search contain hardly any other size, and a coarse search has wide steps, so intervals from these alone would be too narrow
    or too coarse.
    """
    found = joined(joined(whole, close), refine_plan(problem, close, close.best))
    plans, own = found.plans, found.resamples.argmin(1)
    sizes = tuple(plans.sizes[number] for number in np.unique(plans.size[own]))
    if not problem.request.sized:
        low, high = (problem.clipped(float(end)) for end in np.quantile(plans.params[own], ENDS) * (1 / BEYOND, BEYOND))
        sizes = problem.between(low, high, max(FINEST, float(np.log(high / low)) / SIZES)) or sizes
    total, cost = (np.array([value(plans.sizes[number]) for number in plans.size[own]]) for value in (problem.tokens, lambda size: size.spec_cost))
    part = plans.tokens_spec[own] / np.maximum(np.minimum(total / cost, problem.max_tokens_spec), 1e-300)
    low, high = np.quantile(part[part > 0], ENDS) if (part > 0).any() else (1.0, 1.0)
    fractions = np.unique(np.minimum(1.0, np.geomspace(low / BEYOND, high * BEYOND, AMOUNTS)))
    most = np.minimum(total - cost * plans.tokens_spec[own], problem.general_tokens)
    shorter = plans.tokens_pt[own][(plans.tokens_pt[own] > 0) & (plans.tokens_pt[own] < (1 - 1e-9) * most)]
    general = np.unique(np.quantile(shorter, QUARTILES)) if len(shorter) else ()
    nearby = problem.plans(sizes, fractions, [*general, np.inf])
    return joined(found, search(problem, nearby)) if len(nearby) else found


def refine_plan(problem: Problem, found: Search, number: int, closely: Round = FIRST) -> Search:
    """Search closely around one plan of a search."""
    return search(problem, around_plan(problem, found.plans, number, closely))


def around_plan(problem: Problem, plans: Plans, number: int, closely: Round = FIRST) -> Plans:
    """Make the plans close to one of several."""
    size, pt, spec = plans.sizes[plans.size[number]], float(plans.tokens_pt[number]), float(plans.tokens_spec[number])
    near: tuple[Size, ...] = ()
    if not problem.request.sized:
        ends = (problem.clipped(size.params_non_embedding / closely.size_reach), problem.clipped(size.params_non_embedding * closely.size_reach))
        near = problem.between(*ends, closely.size_step)
    others = tuple(item for item in near if item != size)
    total, cost = problem.tokens(size), size.spec_cost
    most = min(total - cost * spec, problem.general_tokens)

    def made(general: list[float], amounts: int) -> Plans:
        fractions = np.array([1.0])
        if spec > 0:
            factors = np.append(_around(1.0, closely.text_reach, amounts), closely.farther)
            fractions = np.unique(np.minimum(1.0, spec / min(total / cost, problem.max_tokens_spec) * factors))
        return problem.plans((size, *others), fractions, general)

    # Under a limit on the general loss, a better neighbour may leave out general text, or other sizes may have to.
    limited = problem.retention is not None
    if most <= 1e-9 * total or not (limited or pt < (1 - 1e-9) * most):
        return bent(problem, made([np.inf], closely.amounts))
    shorter = made(_around(pt, closely.text_reach, GENERAL).tolist(), min(closely.amounts, FEWER))
    return bent(problem, made([np.inf], closely.amounts).beside(shorter) if limited else shorter)


def _around(middle: float, reach: float, count: int) -> Array:
    result: Array = middle * np.geomspace(1 / reach, reach, count)
    return result
