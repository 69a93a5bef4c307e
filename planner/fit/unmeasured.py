"""Parameters that no run constrains, such as those of repetition where no run repeats: a fit would leave them at their start."""

from __future__ import annotations

import numpy as np

from planner.arrays import Array
from planner.fit.prior import drawn_of_priors
from planner.fit.scale import Scale
from planner.laws import Law, Points


def unmeasured(law: Law, points: Points, theta: Array) -> Array:
    """Tell which parameters change the forecast of no row, shape (parameters,).

    Args:
        law: the law.
        points: the rows.
        theta: a solution, shape (parameters,).
    """
    with np.errstate(all="ignore"):  # an absurd row makes an infinite slope
        slopes = law.log_loss_and_slopes(theta[None], points)[1][0]
    return nowhere(slopes)


def nowhere(slopes: Array) -> Array:
    """Tell which parameters have no slope at any row, shape (parameters,).

    Args:
        slopes: of ln L, shape (parameters, rows).
    """
    return np.logical_not((slopes != 0).any(1))


def opened(law: Law, which: Array, theta: Array, resamples: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Set unmeasured parameters to the middle of their start range, and draw them from all of it in the resamples; with a prior, from that.

    Args:
        law: the law.
        which: whether each of its parameters is unmeasured, shape (parameters,).
        theta: the solution, shape (parameters,).
        resamples: shape (resamples, parameters).
        random: source of chance.

    Returns:
        The solution and the resamples so changed.
    """
    scale = Scale(law)
    middle, drawn = scale.middle, scale.draw(random, len(resamples))
    if law.has_prior:
        middle, drawn = drawn_of_priors(law, middle, drawn, random)
    return np.where(which, middle, theta), np.where(which, drawn, resamples)
