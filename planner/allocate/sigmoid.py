"""A calibrated sigmoid from loss to accuracy, with its resamples.

accuracy = chance + (top − chance)/(1 + exp(k·(loss − middle))), k > 0: the form of arXiv 2412.04403, which also fits all four. A model may
depart from such a curve by more than its neighbours suggest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, InputError

PARAMETERS = ("chance", "top", "k", "middle")
"""Units: fraction, fraction, 1/(nats/token), nats/token."""
LEAST_ROWS = 5
"""Minimum of rows, and of distinct losses."""
RESAMPLES = 300
SHUFFLES = 2000
GUESSING = 0.1
"""By how much an accuracy may lie below guessing: with few questions it scatters that much."""
NOISE = 0.05
"""Largest share of shuffled tables whose accuracy may fall with loss as much as that of the real one."""
STEEPEST, FLATTEST = 100.0, 0.3
"""Bounds of k, in units of 1 / span of the losses."""
AWAY = 2.0
"""How far the middle may lie outside the losses, in spans of the losses."""


@dataclass(frozen=True)
class Table:
    """Losses and accuracies of models."""

    loss: Array
    """[nats/token], shape (rows,)."""
    accuracy: Array
    """Fractions of 1, shape (rows,)."""


@dataclass(frozen=True)
class Sigmoid:
    """A fitted curve with its resamples."""

    parameters: Array
    """Values of PARAMETERS, shape (4,)."""
    resamples: Array
    """The same fitted to resampled rows, shape (resamples, 4)."""
    scatter: float
    """Standard deviation of a model's accuracy around the curve."""
    degrees: int
    """Degrees of freedom of the scatter."""
    rows: int
    """Number of models in the table."""
    losses: tuple[float, float]
    """Least and greatest loss of the table [nats/token]."""

    def at(self, loss: Any) -> Array:
        """Return the fitted accuracy at losses."""
        return curve(self.parameters, np.asarray(loss, dtype=float))


def curve(parameters: Array, loss: Array) -> Array:
    """Return accuracies; PARAMETERS are the last axis."""
    chance, top, k, middle = np.moveaxis(parameters, -1, 0)
    result: Array = chance + (top - chance) * 0.5 * (1 - np.tanh(0.5 * k * (loss - middle)))
    return result


def fit_sigmoid(table: Table, *, chance: float | None = None, resamples: int = RESAMPLES) -> Sigmoid:
    """Fit the curve, and refit it to resampled rows.

    Args:
        table: losses and accuracies.
        chance: accuracy of guessing, if known; fitted by default.
        resamples: number of refits.

    Raises:
        DataError: accuracy does not fall with loss more than by chance in shuffled tables, or no row is above chance.
        InputError: chance is not a valid fraction.
    """
    random = np.random.default_rng(0)
    if chance is not None and not 0 <= chance < 1:
        raise InputError(f"chance {chance:g} is not from 0 to below 1", remedy="give the accuracy of guessing, such as 0.25")
    if chance is not None and table.accuracy.max() <= chance:
        raise DataError(f"no accuracy of the table is above chance, {chance:g}", remedy="give models better than guessing, or another chance level")
    if chance is not None and (below := int((table.accuracy < chance - GUESSING).sum())):
        raise DataError(
            f"{below} of {len(table.accuracy)} accuracies lie more than {GUESSING:g} below chance, {chance:g}; the lowest is {table.accuracy.min():g}",
            remedy="give the accuracy of guessing, or leave it out to have it fitted",
        )
    _refuse_noise(table, random)
    best = _fit(table, chance, _starts(table))
    rows = len(table.loss)
    found: list[Array] = []
    while len(found) < resamples:
        drawn = random.integers(0, rows, rows)
        some = Table(table.loss[drawn], table.accuracy[drawn])
        if len(np.unique(some.loss)) >= LEAST_ROWS - 1:  # fewer do not determine a curve of four parameters
            found.append(_fit(some, chance, [best]))
    degrees = max(1, rows - (4 if chance is None else 3))
    scatter = math.sqrt(float(((curve(best, table.loss) - table.accuracy) ** 2).sum()) / degrees)
    return Sigmoid(best, np.array(found), scatter, degrees, rows, (float(table.loss.min()), float(table.loss.max())))


def _refuse_noise(table: Table, random: np.random.Generator) -> None:
    """Refuse a table whose accuracy falls with loss no more than in shuffled tables."""
    loss, accuracy = (values - values.mean() for values in (table.loss, table.accuracy))
    real = float(loss @ accuracy)
    shuffled = random.permuted(np.tile(accuracy, (SHUFFLES, 1)), axis=1) @ loss
    share = float((shuffled <= real + 1e-12).mean())
    if real >= 0 or share > NOISE:
        raise DataError(
            f"accuracy does not fall with loss in the table beyond noise: it falls as much in {share:.0%} of shuffled tables",
            remedy="give more models, or models with a wider range of losses",
        )


def _starts(table: Table) -> list[Array]:
    span = float(np.ptp(table.loss))
    low, high = float(table.accuracy.min()), float(table.accuracy.max())
    middles = (*np.quantile(table.loss, [0.25, 0.5, 0.75]), table.loss.min() - 0.3 * span)
    return [np.array([low, top, steep / span, middle]) for middle in middles for steep in (3.0, 10.0) for top in (high, 0.5 * (1 + high))]


def _fit(table: Table, chance: float | None, starts: list[Array]) -> Array:
    """Fit by least squares from several starts.

    The fitted variables are the chance level, (top − chance) / (1 − chance), ln k and the middle, so that top lies between chance and 1.
    """
    from scipy.optimize import least_squares

    span = float(np.ptp(table.loss))
    least, most = float(table.loss.min()), float(table.loss.max())
    low = np.array([0.0, 1e-3, math.log(FLATTEST / span), least - AWAY * span])
    high = np.array([1 - 1e-6, 1.0, math.log(STEEPEST / span), most + AWAY * span])
    free = slice(0 if chance is None else 1, 4)

    def full(at: Array) -> Array:
        c, reached, log_k, middle = at if chance is None else (chance, *at)
        return np.array([c, c + reached * (1 - c), math.exp(log_k), middle])

    def off(at: Array) -> Array:
        return curve(full(at), table.loss) - table.accuracy

    def slopes(at: Array) -> Array:
        c, top, k, middle = full(at)
        share = 0.5 * (1 - np.tanh(0.5 * k * (table.loss - middle)))
        steep = (top - c) * share * (1 - share) * k
        reached = (top - c) / (1 - c)
        columns = (1 - reached * share, (1 - c) * share, -steep * (table.loss - middle), steep)
        return np.column_stack(columns[free])

    found = []
    for c, top, k, middle in starts:
        c = min(c, 0.99) if chance is None else chance
        at = np.array([c, (top - c) / (1 - c), math.log(k), middle])
        inside = np.clip(at, low + 1e-6 * (high - low), high - 1e-6 * (high - low))[free]
        found.append(least_squares(off, inside, slopes, bounds=(low[free], high[free]), x_scale=(high - low)[free], max_nfev=200))
    return full(min(found, key=lambda item: item.cost).x)
