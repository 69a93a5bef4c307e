"""Resamples: the law refitted under random weights of the trunks, all in one batch.

Rows of one trunk and seed share its noise, so trunks are weighted, not rows. *multinomial* weights draw as many trunks as there are,
with replacement. With one or two trunks per size they leave a whole size out of many resamples and the intervals explode; then trunks get
independent exponential weights of mean 1 (*fractional*, arXiv 1808.08199), which have the same mean and variance and lose no size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import InputError
from planner.fit.solver import DELTAS, solve
from planner.laws import Law, Points

SCHEMES = ("auto", "multinomial", "fractional")
TRUNKS_A_SIZE = 4
"""Fewest trunks of a size with which multinomial weights seldom leave it out (1 resample in 50 for one size)."""
STEPS = 20
"""Most steps without second derivatives: a problem that is not done by then creeps along a valley."""
TOLERANCE = 1e-6
"""Relative gain of a step below which a problem is done with these steps."""
EXACT_STEPS = 100
"""Most steps with the law's second derivatives, which finish at once near the optimum and follow a valley in a quarter of the steps."""
EXACT_TOLERANCE = 1e-9
HOPEFUL = 0.1
"""Of several starts of one problem, second derivatives continue the best, and unfinished ones whose objective is within this share of it."""


def check_scheme(scheme: str, known: Sequence[str] = SCHEMES) -> None:
    """Refuse an unknown resampling scheme.

    Raises:
        InputError: it is not among the known ones.
    """
    if scheme not in known:
        raise InputError(f"there is no resampling scheme {scheme!r}", remedy=f"choose one of {', '.join(known)}")


def scheme_for(sizes: Array, cluster: Any) -> str:
    """Choose how to weight.

    Args:
        sizes: model size of each row, shape (runs,).
        cluster: number of each row's trunk, shape (runs,).
    """
    pairs = np.unique(np.stack([np.round(np.log(sizes), 2), cluster]), axis=1)
    trunks = np.unique(pairs[0], return_counts=True)[1]
    # In a table without a grid each row has its own size, and a size left out has neighbours. Where rows are many they lie closer than the rounding.
    gridless = len(trunks) > 0.3 * len(sizes) or len(np.unique(sizes)) > 0.9 * len(sizes)
    return "multinomial" if gridless or trunks.min() >= TRUNKS_A_SIZE else "fractional"


def draw_weights(cluster: Any, count: int, scheme: str, random: np.random.Generator) -> Array:
    """Draw a weight for each row in each resample, shape (count, runs); weights of a resample sum to about the number of rows.

    Args:
        cluster: number of each row's trunk, from 0, shape (runs,).
        count: resamples.
        scheme: "multinomial" or "fractional".
        random: source of chance.

    Raises:
        InputError: another scheme.
    """
    check_scheme(scheme, SCHEMES[1:])
    trunks = int(cluster.max()) + 1
    if scheme == "multinomial":
        draws = random.multinomial(trunks, np.full(trunks, 1 / trunks), size=count).astype(float)
    else:
        draws = random.exponential(size=(count, trunks))
        draws /= draws.mean(1, keepdims=True)
    weights: Array = draws[:, cluster]
    return weights


def fit_weighted(
    law: Law, points: Points, log_loss: Array, weights: Array, warm: Array, *, deltas: tuple[float, ...] = DELTAS[1:], each: bool = False,
    means: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Fit a law under every row of weights.

    Args:
        law: the law.
        points: n runs.
        log_loss: ln L, shape (n,).
        weights: shape (problems, n).
        warm: solutions on all rows, shape (any, parameters): each problem starts from each of them.
        deltas: Huber's δ, largest first. From a solution on all rows the last one alone nearly always leads to the same optimum; the one before it
            costs a little and finds a better optimum for some resamples of a law with a ridge.
        each: whether each problem starts from only one of them, in turn: for solutions along a flat ridge, which are equally good.
        means: of the law's priors in each problem, shape (problems, parameters); the law's own by default.

    Returns:
        Parameters, shape (problems, parameters), and objectives, shape (problems,).
    """
    count, several = len(weights), 1 if each else len(warm)
    repeated = np.repeat(weights, several, axis=0)
    starts = warm[np.arange(count) % len(warm)] if each else np.tile(warm, (count, 1))
    means = None if means is None else np.repeat(means, several, axis=0)
    near = solve(law, points, log_loss, starts, repeated, deltas=deltas, iterations=STEPS, tolerance=TOLERANCE, means=means)
    theta, value, first = near.theta, near.objective, np.arange(count) * several
    best = first + value.reshape(count, several).argmin(1)
    kept = ~near.finished & (value <= (1 + HOPEFUL) * np.repeat(value[best], several))
    kept[best] = True
    last = solve(
        law, points, log_loss, theta[kept], repeated[kept], deltas=deltas[-1:], iterations=EXACT_STEPS, tolerance=EXACT_TOLERANCE, exact=True,
        means=None if means is None else means[kept],
    )  # fmt: skip
    theta[kept], value[kept] = last.theta, last.objective
    best = first + value.reshape(count, several).argmin(1)
    return theta[best], value[best]
