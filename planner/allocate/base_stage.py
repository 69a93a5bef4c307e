"""What a base comes to after every amount of specialist text that the budget pays, with the replay that a limit on the general loss asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planner.allocate.base import Base
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost_on_top
from planner.laws.dual import Array
from planner.method import Method

AMOUNTS = 160
"""Amounts of specialist text tried for each base."""
LEAST = 3e-3
"""Of the most specialist tokens that budget and passes allow, where the amounts begin."""
FINER = 33
"""Amounts between two of those, around the best and where the plans within the tolerance begin and end."""
CLOSER = 2
"""Looks around the best: a limit on the general loss may end it in the midst of a step."""


@dataclass(frozen=True)
class Stage:
    """The amounts of specialist text that a base could see, and what the law says of each."""

    tokens: Array
    """Shape (amounts,); the first is none."""
    replay: Array
    """Share of general text in the stage, of the same shape."""
    resamples: Array
    """ln L with what replay costs, shape (resamples, amounts); infinite where a limit on the general loss is not kept."""
    guess: Array
    """ln L of the fitted parameters, shape (amounts,); infinite likewise."""
    before: Array
    """ln L of the base as it is, whatever its general loss, shape (resamples,)."""
    paid: float
    """Tokens of the stage, replay among them, that the budget pays once inference is paid."""
    robust: bool
    """Whether the best is that of the mean over the resamples, or of the fitted parameters alone."""

    @property
    def expected(self) -> Array:
        """Mean of ln L over the resamples, shape (amounts,)."""
        result: Array = self.resamples.mean(0)
        return result

    @property
    def best(self) -> int:
        """Number of the amount that is best."""
        return int(np.argmin(self.expected)) if self.robust else self.best_guess

    @property
    def best_guess(self) -> int:
        """Number of the amount that the fitted parameters prefer."""
        return int(np.argmin(self.guess))

    @property
    def end(self) -> Array:
        """ln L after the best amount, shape (resamples,)."""
        result: Array = self.resamples[:, self.best]
        return result

    def amount(self, number: int) -> tuple[float, float]:
        """Return the specialist tokens of an amount, whole ones, and its share of replay."""
        return float(math.floor(self.tokens[number] + 1e-6)), float(self.replay[number])


def stage_of(problem: Problem, base: Base, method: Method) -> Stage:
    """Evaluate a base after every amount of specialist text that the budget pays, with the least replay that keeps a limit on the general loss.

    A budget that does not even pay the inference leaves the base as it is.
    """
    request, keeping = problem.request, problem.retention
    left = request.paid(base.flops_inference(request.inference_tokens))
    paid = max(left, 0.0) / method.flops_per_token(base.shape, base.context)
    most = min(paid, problem.max_epochs * request.unique_spec)
    shares = (0.0,) if keeping is None else keeping.replays
    ends = [min(most, paid * (1 - share)) for share in shares]  # where the budget binds, with each share of replay
    tokens = np.unique(np.concatenate([[0.0, min(most, request.unique_spec)], ends, _ladder(most)]))
    found = _evaluated(problem, base, tokens, paid)
    for _ in range(CLOSER):
        near = [found.tokens[max(number - 1, 0) : number + 2] for number in (int(found.expected.argmin()), found.best_guess)]
        finer = [np.linspace(*pair, FINER) for three in near for pair in pairwise(three)]
        found = _evaluated(problem, base, np.unique(np.concatenate([found.tokens, *finer])), paid)
    return found


def _ladder(most: float) -> Array:
    """Return amounts up to the most there can be, at places that do not depend on it: a larger budget looks at what a smaller one does."""
    if most <= 1.0:
        return np.array([most])
    step = -math.log(LEAST) / (AMOUNTS - 1)
    steps = np.arange(math.ceil(math.log(most * LEAST) / step), math.floor(math.log(most) / step) + 1)
    return np.append(np.exp(step * steps), most)


def within(problem: Problem, base: Base, stage: Stage) -> Stage:
    """Return those amounts whose mean of ln L is within the tolerance of the base's best, finer at both ends of their range."""
    limit = stage.expected.min() + np.log1p(problem.request.tolerance)
    rows = np.flatnonzero(stage.expected <= limit)
    number = np.arange(max(rows[0] - 1, 0), min(rows[-1] + 2, len(stage.tokens)))
    gaps = [pair for pair in pairwise(stage.tokens[number]) if pair[0] < stage.tokens[rows[0]] or pair[1] > stage.tokens[rows[-1]]]
    fine = _evaluated(problem, base, np.unique(np.concatenate([stage.tokens[rows], *(np.linspace(*gap, FINER) for gap in gaps)])), stage.paid)
    good = fine.expected <= limit
    return Stage(fine.tokens[good], fine.replay[good], fine.resamples[:, good], fine.guess[good], stage.before, stage.paid, stage.robust)


def _evaluated(problem: Problem, base: Base, tokens: Array, paid: float) -> Stage:
    """Evaluate a base after some amounts of specialist text, shape (amounts,), of which the least may be none."""
    keeping, law = problem.retention, problem.law
    tokens = np.union1d([0.0], tokens)
    count, unique = len(tokens), np.full(len(tokens), float(problem.request.unique_spec))
    size = base.params_by(problem.vocab, count)
    trunk, replay = np.full(count, base.tokens), np.zeros(count)
    if keeping is not None:
        replay = keeping.replay_after(size, trunk, tokens, unique, paid)
    keeps, shown = np.isfinite(replay), np.nan_to_num(replay)
    points = law.points(size, trunk + shown / (1 - shown) * tokens, tokens, unique)
    resamples, guess = law.log_loss_resamples(points, MOST_RESAMPLES), law.log_loss(points)
    before = resamples[:, 0].copy()
    if shown.any():
        bare = law.points(size, trunk, tokens, unique)
        resamples += cost_on_top(shown, resamples.mean(0), law.log_loss_resamples(bare, MOST_RESAMPLES).mean(0))
        guess = guess + cost_on_top(shown, guess, law.log_loss(bare))
    return Stage(tokens, shown, np.where(keeps, resamples, np.inf), np.where(keeps, guess, np.inf), before, paid, problem.robust)
