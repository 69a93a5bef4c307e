"""Resamples: the law fitted again under other weights of the trunks, all at once.

Rows of one trunk and seed share its luck, so trunks are weighted, not rows. *multinomial* weights draw as many trunks as there are,
with replacement. With one or two trunks a size they leave a whole size out of many resamples and the intervals explode; then trunks get
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
"""At most without second derivatives: what is not done by then creeps along a valley."""
TOLERANCE = 1e-6
"""Relative gain of a step under which it is done with these."""
EXACT_STEPS = 100
"""At most with the law's second derivatives, which end what is near its end at once and follow a valley in a fourth of the steps."""
EXACT_TOLERANCE = 1e-9
HOPEFUL = 0.1
"""Of several starts of one problem the best goes on with second derivatives, and those not at an end that are within this share of its objective."""


def check_scheme(scheme: str, known: Sequence[str] = SCHEMES) -> None:
    """Refuse a scheme that is none of some.

    Raises:
        InputError: it is none.
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
    # A table without a grid has a size a row; then a size that is missed has neighbours. Where rows are many they lie closer than the rounding.
    gridless = len(trunks) > 0.3 * len(sizes) or len(np.unique(sizes)) > 0.9 * len(sizes)
    return "multinomial" if gridless or trunks.min() >= TRUNKS_A_SIZE else "fractional"


def draw_weights(cluster: Any, count: int, scheme: str, random: np.random.Generator) -> Array:
    """Draw a weight of each row in each resample, shape (count, runs); weights of a resample sum to about the number of rows.

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
    law: Law, points: Points, log_loss: Array, weights: Array, warm: Array, *, deltas: tuple[float, ...] = DELTAS[1:], each: bool = False
) -> tuple[Array, Array]:
    """Fit a law under every row of weights.

    Args:
        law: the law.
        points: n runs.
        log_loss: ln L, shape (n,).
        weights: shape (problems, n).
        warm: solutions on all rows, shape (any, parameters): each problem starts from each of them.
        deltas: Huber's δ, largest first. From a solution on all rows the last one alone nearly always leads to the same place; the one before it
            costs a little and finds a better one for some of a law with a ridge.
        each: whether each problem starts from one of them alone, by turns: where they are as good as each other, all along a flat ridge.

    Returns:
        Parameters, shape (problems, parameters), and objectives, shape (problems,).
    """
    count, several = len(weights), 1 if each else len(warm)
    repeated = np.repeat(weights, several, axis=0)
    starts = warm[np.arange(count) % len(warm)] if each else np.tile(warm, (count, 1))
    near = solve(law, points, log_loss, starts, repeated, deltas=deltas, iterations=STEPS, tolerance=TOLERANCE)
    theta, value, first = near.theta, near.objective, np.arange(count) * several
    best = first + value.reshape(count, several).argmin(1)
    kept = ~near.finished & (value <= (1 + HOPEFUL) * np.repeat(value[best], several))
    kept[best] = True
    last = solve(
        law, points, log_loss, theta[kept], repeated[kept], deltas=deltas[-1:], iterations=EXACT_STEPS, tolerance=EXACT_TOLERANCE, exact=True
    )
    theta[kept], value[kept] = last.theta, last.objective
    best = first + value.reshape(count, several).argmin(1)
    return theta[best], value[best]
