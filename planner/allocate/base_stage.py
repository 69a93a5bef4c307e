"""The loss of a base after every amount of specialist text that the budget pays, with the replay that a limit on the general loss needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from planner.allocate.base import Base
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost_on_top
from planner.arrays import Array
from planner.method import Method

AMOUNTS = 160
"""Amounts of specialist text tried for each base."""
LEAST_SHARE = 3e-3
"""Smallest amount, as a share of the most specialist tokens that budget and passes allow."""
FINER_AMOUNTS = 33
"""Amounts between two of those, around the best and at both ends of the plans within the tolerance."""
NEAR_BEST = 2e-3
"""In ln L: possible error, from using only some resamples, about which amounts are within the tolerance."""
CLOSER_LOOKS = 2
"""Refinements around the best amount: a limit on the general loss may cut the amounts off between two steps."""


@dataclass(frozen=True)
class Amounts:
    """Amounts of specialist text for a base, and the loss after each by the law."""

    tokens: Array
    """Shape (amounts,)."""
    replay: Array
    """Share of general text in the stage, of the same shape."""
    resamples: Array
    """ln L including the cost of replay, shape (resamples, amounts); infinite if the limit on the general loss is not kept."""
    guess: Array
    """ln L of the fitted parameters, shape (amounts,); infinite likewise."""

    @property
    def expected(self) -> Array:
        """Mean of ln L over the resamples, shape (amounts,)."""
        result: Array = self.resamples.mean(0)
        return result

    def amount(self, number: int) -> tuple[float, float]:
        """Return the specialist tokens of an amount, rounded down to whole ones, and its share of replay."""
        return _whole(self.tokens[number]), float(self.replay[number])


@dataclass(frozen=True)
class Stage(Amounts):
    """The amounts that a search for the best has tried, the first of which is none, under some of the resamples, and its result under all of them."""

    before: Array
    """ln L of the base without specialist stage, whatever its general loss, shape (all resamples,)."""
    end: Array
    """ln L after the best amount, of the same shape; infinite if no amount keeps the limit on the general loss."""
    paid: float
    """Tokens of the stage, replay included, that the budget pays for after inference."""
    best: int
    """Number of the best amount, by the mean over the resamples, or by the fitted parameters for the best guess."""

    @property
    def best_guess(self) -> int:
        """Number of the amount that the fitted parameters prefer."""
        return int(np.argmin(self.guess))


def stage_of(problem: Problem, base: Base, method: Method) -> Stage:
    """Evaluate a base after every amount of specialist text that the budget pays, with the least replay that keeps a limit on the general loss.

    A budget that does not even pay for the inference leaves the base unspecialised.
    """
    request, keeping = problem.request, problem.retention
    left = request.paid(base.flops_inference(request.inference_tokens))
    paid = max(left, 0.0) / method.flops_per_token(base.shape, base.context)
    most = min(paid, problem.max_epochs * request.unique_spec)
    shares = (0.0,) if keeping is None else keeping.replays
    ends = [min(most, paid * (1 - share)) for share in shares]  # where the budget binds, for each share of replay
    tokens = np.unique(np.concatenate([[0.0, min(most, request.unique_spec)], ends, _ladder(most)]))
    found = evaluated(problem, base, tokens, paid, MOST_RESAMPLES)
    for _ in range(CLOSER_LOOKS):
        near = [found.tokens[max(number - 1, 0) : number + 2] for number in (int(found.expected.argmin()), int(found.guess.argmin()))]
        finer = np.concatenate([found.tokens[:0], *(np.linspace(*pair, FINER_AMOUNTS) for three in near for pair in pairwise(three))])
        found = _joined(found, evaluated(problem, base, np.setdiff1d(finer, found.tokens), paid, MOST_RESAMPLES))
    best = int(np.argmin(found.expected if problem.robust else found.guess))
    spec, share = found.amount(best)
    told, _ = _log_losses(problem, base, np.array([0.0, spec]), np.array([0.0, share]), None)
    end = told[:, 1] if np.isfinite(found.guess[best]) else np.full(len(told), np.inf)
    return Stage(found.tokens, found.replay, found.resamples, found.guess, told[:, 0], end, paid, best)


def _ladder(most: float) -> Array:
    """Return amounts up to the most possible, on a grid that does not depend on it: a larger budget tries all amounts of a smaller one."""
    if most <= 1.0:
        return np.array([most])
    step = -math.log(LEAST_SHARE) / (AMOUNTS - 1)
    steps = np.arange(math.ceil(math.log(most * LEAST_SHARE) / step), math.floor(math.log(most) / step) + 1)
    return np.append(np.exp(step * steps), most)


def capped(problem: Problem, stage: Stage) -> str:
    """Say if the amount is limited by the most replay of any run, not by the budget or the text; empty if not."""
    keeping, more = problem.retention, stage.tokens > stage.tokens[stage.best]
    if keeping is None or not more.any() or np.isfinite(stage.guess[more]).any():
        return ""
    most = keeping.replays[-1]
    if most == 0 or float(stage.tokens[more].min()) > stage.paid * (1 - most):
        return ""
    return f"more would need over {100 * most:.3g} % of replay in its stage, the most that any run of the general law had"


def within(problem: Problem, base: Base, stage: Stage) -> Amounts:
    """Return the amounts whose mean of ln L over all resamples is within the tolerance of the base's best, refined at both ends of their range."""
    best, tolerance = int(stage.expected.argmin()), np.log1p(problem.request.tolerance)
    near = np.flatnonzero(stage.expected <= stage.expected[best] + tolerance + NEAR_BEST)
    low, high = stage.tokens[max(near[0] - 1, 0)], stage.tokens[min(near[-1] + 1, len(stage.tokens) - 1)]
    middle = _whole(stage.tokens[best])
    found = evaluated(problem, base, _whole_between(low, high, [middle]), stage.paid, None)
    limit = found.expected[found.tokens == middle][0] + tolerance
    rows = np.flatnonzero(found.expected <= limit)
    number = np.arange(max(rows[0] - 1, 0), min(rows[-1] + 2, len(found.tokens)))
    gaps = [pair for pair in pairwise(found.tokens[number]) if pair[0] < found.tokens[rows[0]] or pair[1] > found.tokens[rows[-1]]]
    finer = np.concatenate([found.tokens[:0], *(_whole_between(*gap) for gap in gaps)])
    found = _joined(found, evaluated(problem, base, np.setdiff1d(finer, found.tokens), stage.paid, None))
    good = found.expected <= limit
    return Amounts(found.tokens[good], found.replay[good], found.resamples[:, good], found.guess[good])


def _whole(tokens: float) -> float:
    return float(math.floor(tokens + 1e-6))


def _whole_between(low: float, high: float, others: Sequence[float] = ()) -> Array:
    """Return whole token counts from one amount to another, and some others, each once."""
    return np.unique(np.append(np.floor(np.linspace(low, high, FINER_AMOUNTS) + 1e-6), others))


def _joined(first: Amounts, second: Amounts) -> Amounts:
    """Put amounts together, ascending."""
    order = np.argsort(np.concatenate([first.tokens, second.tokens]))
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(Amounts))
    return Amounts(*(np.concatenate(pair, axis=-1)[..., order] for pair in pairs))


def evaluated(problem: Problem, base: Base, tokens: Array, paid: float, most: int | None) -> Amounts:
    """Evaluate a base after some amounts of specialist text, shape (amounts,), under at most `most` resamples of each member, or all."""
    keeping, replay = problem.retention, np.zeros(len(tokens))
    if keeping is not None:
        size, trunk = base.params_by(problem.vocab, len(tokens)), np.full(len(tokens), base.tokens)
        replay = keeping.replay_after(size, trunk, tokens, np.full(len(tokens), float(problem.request.unique_spec)), paid)
    keeps, shown = np.isfinite(replay), np.nan_to_num(replay)
    resamples, guess = _log_losses(problem, base, tokens, shown, most)
    return Amounts(tokens, shown, np.where(keeps, resamples, np.inf), np.where(keeps, guess, np.inf))


def _log_losses(problem: Problem, base: Base, tokens: Array, share: Array, most: int | None) -> tuple[Array, Array]:
    """Return ln L after stages with shares of replay: under the resamples, shape (resamples, amounts), and by the fitted parameters."""
    law, size, unique = problem.law, base.params_by(problem.vocab, len(tokens)), np.full(len(tokens), float(problem.request.unique_spec))
    points = law.points(size, base.tokens + share / (1 - share) * tokens, tokens, unique)
    resamples, guess = law.log_loss_resamples(points, most), law.log_loss(points)
    if share.any():
        bare = law.points(size, np.full(len(tokens), base.tokens), tokens, unique)
        resamples += cost_on_top(share, resamples.mean(0), law.log_loss_resamples(bare, most).mean(0))
        guess = guess + cost_on_top(share, guess, law.log_loss(bare))
    return resamples, guess
