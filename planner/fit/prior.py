"""Priors: what other tables say of a parameter that these runs may leave open.

The objective O, nearly a sum of absolute residuals, is the likelihood of Laplace noise: its minimum over the noise's unknown scale is n·ln O. A normal
prior adds z²/2, z standard deviations from its mean, so the fit minimises O·exp(z²/2n). Thus a prior counts for much where the noise is large or the runs
hardly know the parameter, and for nothing where a law passes through all runs. Each resample draws the prior's mean anew, as it draws the runs: what the
runs leave open varies among resamples as the prior does (randomised maximum a posteriori, arXiv 1403.1800).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.laws import Law

INDEPENDENT = 0.25
"""Independent runs per run: those of one trunk share its noise."""

START = 3.0
"""Standard deviations from a prior's mean within which fits start: far outside, the objective is too steep, or infinite."""

USUAL_NOISE = 0.005
"""Deviation of ln L between runs of one setting, in the recorded sweeps."""


@dataclass(frozen=True)
class Prior:
    """The priors of a law's parameters in a batch of problems."""

    mean: Array
    """Shape (problems, parameters) or (1, parameters)."""
    precision: Array
    """Weight of the squared distance from the mean in ln of the objective, shape (problems, parameters) or (1, parameters); 0 without a prior."""

    @classmethod
    def of(cls, law: Law, runs: Any, means: Array | None) -> Prior | None:
        """Return a law's priors, None where it has none.

        Args:
            law: the law.
            runs: total weight of the runs in each problem, a number or of shape (problems,).
            means: the priors' means in each problem, shape (problems, parameters); None for the law's own.
        """
        if not law.has_prior:
            return None
        mean, deviation = _moments(law)
        weight = 1.0 / (INDEPENDENT * np.atleast_1d(np.asarray(runs, dtype=float))[:, None] * deviation**2)
        return cls(mean[None] if means is None else means, weight)

    def take(self, number: Any) -> Prior:
        """Return the priors of some of the problems."""
        mean, precision = (items if len(items) == 1 else items[number] for items in (self.mean, self.precision))
        return Prior(mean, precision)

    def factor(self, theta: Array) -> Array:
        """Return what multiplies the objectives at parameters of shape (problems, parameters)."""
        result: Array = np.exp(0.5 * np.add.reduce((theta - self.mean) ** 2 * self.precision, 1))
        return result

    def apply(self, theta: Array, value: Array, gradient: Array, curvature: Array, majorant: Array) -> None:
        """Multiply objectives and their derivatives with respect to the parameters, in place; the majorant stays positive."""
        factor, pull = self.factor(theta), (theta - self.mean) * self.precision
        across = pull[:, :, None] * gradient[:, None, :]
        own = value[:, None, None] * np.eye(theta.shape[1]) * self.precision[:, None, :]
        curvature += across + across.transpose(0, 2, 1) + own + value[:, None, None] * pull[:, :, None] * pull[:, None, :]
        majorant += own
        gradient += value[:, None] * pull
        for items in (value, gradient, curvature, majorant):
            items *= factor.reshape(-1, *(1,) * (items.ndim - 1))


def within(law: Law, theta: Array) -> Array:
    """Clip starts of shape (any, parameters) to where the priors leave a chance."""
    if not law.has_prior:
        return theta
    mean, deviation = _moments(law)
    low, high = np.array([(parameter.low, parameter.high) for parameter in law.parameters]).T
    return np.clip(theta, np.maximum(mean - START * deviation, low), np.minimum(mean + START * deviation, high))


def draw_means(law: Law, count: int, random: np.random.Generator) -> Array | None:
    """Draw the priors' means anew, shape (count, parameters); None for a law without priors."""
    if not law.has_prior:
        return None
    mean, deviation = _moments(law)
    return mean + np.where(np.isfinite(deviation), deviation, 0.0) * random.standard_normal((count, len(mean)))


def drawn_of_priors(law: Law, middle: Array, drawn: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Replace the middle, shape (parameters,), and draws, shape (any, parameters), of parameters with a prior by its mean and draws from it."""
    mean, deviation = _moments(law)
    known = np.isfinite(deviation)
    low, high = np.array([(parameter.low, parameter.high) for parameter in law.parameters]).T
    again = np.clip(mean + np.where(known, deviation, 0.0) * random.standard_normal(drawn.shape), low, high)
    return np.where(known, mean, middle), np.where(known, again, drawn)


def pull_of_priors(law: Law) -> Array:
    """Return the slopes of the runs that would say what the priors say, one for each parameter, at a usual noise, shape (parameters,)."""
    return USUAL_NOISE / (_moments(law)[1] * np.sqrt(INDEPENDENT))


def _moments(law: Law) -> tuple[Array, Array]:
    """Return the means and standard deviations, infinite without a prior, each of shape (parameters,)."""
    mean, deviation = np.array([(0.0, np.inf) if parameter.prior is None else parameter.prior for parameter in law.parameters]).T
    return mean, deviation
