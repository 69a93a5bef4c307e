"""Where fits start: exponents drawn at random, amplitudes by variable projection, the best of every group of draws.

For fixed exponents a law is linear in its amplitudes, so the best amplitudes are one small weighted least-squares problem
(variable projection). The law states which parameters are amplitudes; the columns of the problem are the law's own slopes.
A few Gauss-Newton steps in the exponents, amplitudes projected anew after each (Kaufman 1975, doi 10.1007/BF01932995), bring most starts
near an optimum at a fraction of the cost of steps in all parameters.
"""

from __future__ import annotations

import numpy as np

from planner.arrays import Array
from planner.fit.prior import within
from planner.fit.scale import Scale
from planner.fit.solver import huber
from planner.laws import Law, Points
from planner.laws.dual import derivatives

DRAWS_A_START = 4
"""Draws for each start, of which the best is used."""
SCREENING_DELTA = 0.1
"""Huber's δ by which draws are ranked: wide, so that far ones are ranked too."""
APPROACH = 3
"""Gauss-Newton steps in the exponents."""
APPROACH_DAMPING = 0.005
APPROACH_LONGEST = 1.0
"""In the logistic coordinates."""
_PROJECTIONS = 2


def draw_starts(law: Law, points: Points, log_loss: Array, random: np.random.Generator, count: int, draws: int = DRAWS_A_START) -> Array:
    """Draw starts, shape (count, parameters); each is the best of a group of `draws`, so that they are good and still differ."""
    scale = Scale(law)
    drawn = within(law, project(law, points, log_loss, within(law, scale.draw(random, count * draws))))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = huber(log_loss - law.on(points).log_loss(drawn), SCREENING_DELTA).sum(1)
    total = np.where(np.isfinite(total), total, np.inf).reshape(count, draws)
    return within(law, _approach(law, scale, points, log_loss, drawn.reshape(count, draws, -1)[np.arange(count), total.argmin(1)]))


def _approach(law: Law, scale: Scale, points: Points, log_loss: Array, theta: Array) -> Array:
    """Move the exponents by damped Gauss-Newton steps, projecting the amplitudes anew after each; keep the best point met.

    Only where amplitudes outnumber exponents: on 80 pairs of other laws and tables it saved no time and changed which optima are found.
    """
    linear = np.array([parameter.linear for parameter in law.parameters])
    if linear.sum() <= (~linear).sum():
        return theta
    damping = 1.0 + np.where(linear, 1e-9, APPROACH_DAMPING)
    room = np.empty((*theta.shape, points.count))
    best, least = theta, np.full(len(theta), np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(APPROACH):
            forecast, slopes = law.on(points).slopes(theta, room)[0], room
            free, residual = scale.to_free(theta), log_loss - forecast
            value = huber(residual, SCREENING_DELTA).sum(1)
            best, least = np.where((value < least)[:, None], theta, best), np.fmin(value, least)
            slopes = slopes * scale.bend(free)[1][:, :, None]
            normal, right = slopes @ slopes.transpose(0, 2, 1), slopes @ residual[:, :, None]
            sound = np.isfinite(normal).all((1, 2)) & np.isfinite(right).all((1, 2))
            normal[~sound], right[~sound] = np.eye(len(linear)), 0.0
            diagonal = np.einsum("kii->ki", normal)
            diagonal *= damping
            diagonal += 1e-12 * diagonal.max(1, keepdims=True) + 1e-30
            step = np.where(linear, 0.0, np.clip(np.linalg.solve(normal, right)[:, :, 0], -APPROACH_LONGEST, APPROACH_LONGEST))
            theta = project(law, points, log_loss, scale.to_theta(free + step))
        value = huber(log_loss - law.on(points).log_loss(theta), SCREENING_DELTA).sum(1)
    result: Array = np.where((value < least)[:, None], theta, best)
    return result


def project(law: Law, points: Points, log_loss: Array, theta: Array) -> Array:
    """Replace the amplitudes of each parameter vector by the best ones for its exponents.

    Relative errors are minimised. An amplitude that would fall below its bound is put there, and the rest are solved for again.
    """
    linear = [number for number, parameter in enumerate(law.parameters) if parameter.linear]
    if not linear:
        return theta
    low = np.array([law.parameters[number].low for number in linear])
    high = np.array([law.parameters[number].high for number in linear])
    loss = np.exp(log_loss)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        trace = law.traced(theta, points)
        by = derivatives(trace, 1.0)
        columns = np.empty((len(theta), len(linear), points.count))
        for place, number in enumerate(linear):
            columns[:, place] = by.get(number, 0.0)
        # The part of the loss without the amplitudes' terms; zero for a law that is a sum of such terms.
        rest = trace.value - np.einsum("kl,kln->kn", theta[:, linear], columns)
        columns /= loss
        target = (loss - rest) / loss
        normal = columns @ columns.transpose(0, 2, 1)
        right = (columns @ target[:, :, None])[:, :, 0]
    sound = np.isfinite(normal).all((1, 2)) & np.isfinite(right).all(1)
    normal[~sound], right[~sound] = np.eye(len(linear)), 1.0
    diagonal = np.einsum("kii->ki", normal)
    diagonal += 1e-9 * diagonal.max(1, keepdims=True) + 1e-30
    held = np.zeros(right.shape, dtype=bool)
    found = np.zeros_like(right)
    for _ in range(_PROJECTIONS):
        free = ~held
        matrix = np.where(free[:, :, None] & free[:, None, :], normal, 0.0) + np.where(held, 1.0, 0.0)[:, :, None] * np.eye(len(linear))
        known = np.where(held, low, 0.0)
        side = np.where(free, right - (normal @ known[:, :, None])[:, :, 0], known)
        found = np.linalg.solve(matrix, side[:, :, None])[:, :, 0]
        below = found < low
        if not (below & free).any():
            break
        held |= below
    result = theta.copy()
    result[:, linear] = np.where(sound[:, None], np.clip(found, low * 1.01, high * 0.99), theta[:, linear])
    return result
