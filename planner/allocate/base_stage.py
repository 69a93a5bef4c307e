"""What a base comes to after every amount of specialist text that the budget pays, with the replay that a limit on the general loss asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.allocate.base import Base
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.laws.dual import Array
from planner.method import Method

AMOUNTS = 160
"""Amounts of specialist text tried for each base."""
LEAST = 3e-3
"""Of the most specialist tokens that budget and passes allow, where the amounts begin."""


@dataclass(frozen=True)
class Stage:
    """The amounts of specialist text that a base could see, and what the law says of each."""

    tokens: Array
    """Shape (amounts,); the first is none."""
    replay: Array
    """Share of general text in the stage, of the same shape."""
    resamples: Array
    """ln L, shape (resamples, amounts); infinite where a limit on the general loss is not kept."""
    before: Array
    """ln L of the base as it is, whatever its general loss, shape (resamples,)."""

    @property
    def best(self) -> int:
        """Number of the amount that is best in the mean of ln L."""
        return int(np.argmin(self.resamples.mean(0)))


def stage_of(problem: Problem, base: Base, method: Method, request: Request) -> Stage:
    """Evaluate a base after every amount of specialist text that the budget pays, with the least replay that keeps a limit on the general loss.

    As for a model of one's own, replayed text is taken to count for the specialist loss like other general text.
    """
    paid, keeping = request.flops / method.flops_per_token(base.shape, base.context), problem.retention
    most = min(paid, problem.max_epochs * request.unique_spec)
    shares = (0.0,) if keeping is None else keeping.replays
    ends = [min(most, paid * (1 - share)) for share in shares]  # where the budget binds, with each share of replay
    tokens = np.unique(np.concatenate([[0.0, min(most, request.unique_spec)], ends, most * np.geomspace(LEAST, 1.0, AMOUNTS)]))
    count, unique = len(tokens), np.full(len(tokens), request.unique_spec)
    size = {"non_embedding": np.full(count, float(base.shape.params_non_embedding)), "total": np.full(count, float(base.params_total(problem.vocab)))}
    trunk, replay = np.full(count, base.tokens), np.zeros(count)
    if keeping is not None:
        replay = keeping.replay_after(size, trunk, tokens, unique, paid)
    shown = np.nan_to_num(replay)
    points = problem.law.points(size, trunk + shown / (1 - shown) * tokens, tokens, unique)
    resamples = problem.law.log_loss_resamples(points, MOST_RESAMPLES)
    before = resamples[:, 0].copy()
    resamples[:, np.isnan(replay)] = np.inf
    return Stage(tokens, shown, resamples, before)
