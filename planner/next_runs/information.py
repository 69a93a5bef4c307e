"""How much cells would tell about a law: covariances before and after, with rows of one trunk sharing an error.

ln L of a run has the variance σ² around the law, of which a share is common to its trunk (compound symmetry). The common part is
carried as one more unknown for each trunk, of variance share·σ²: then every cell adds (1 − share)⁻¹σ⁻²·a·aᵀ to the information, a being
its slopes with a 1 at its trunk's place, and taking one more cell is an update of rank one. Marginal over the trunks' unknowns this is
exactly Σ_trunks SᵀV⁻¹S with V = σ²((1 − share)·I + share·11ᵀ).

The criterion of a set of cells is the mean over worlds of the logarithm of a variance; the logarithm, so that no world with large
losses, or far from the rest, outvotes the others. "V" is the weighted mean variance of the contrasts of ln L that decide between plans,
"I" that of the forecasts of ln L themselves, "D" the geometric mean variance of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array

TRUNK_SHARE = 0.25
"""Share of a run's variance that its trunk's runs have in common: an assumption. In the recorded sweep the residuals of one trunk correlate by 0.0
or 0.4 as N is counted with embeddings or without."""
ABSOLUTE = float(np.sqrt(np.pi / 2))
"""By which factor a fit's estimates scatter more than those of least squares: its Huber objective turns to absolute values at 1e-3, far below the
noise of a run, and a median scatters so much more than a mean where errors are normal."""


@dataclass(frozen=True)
class Information:
    """What n cells would tell in some worlds of one law."""

    slopes: Array
    """Of ln L at the cells, shape (worlds, n, parameters)."""
    trunk: Any
    """Place of each cell's trunk among the unknowns, after the parameters, shape (n,)."""
    before: Array
    """Covariance before, shape (worlds, unknowns, unknowns)."""
    variance: float
    """Of ln L of one run, without what its trunk shares."""
    weight: Array | None
    """Σ w·l·lᵀ over the contrasts or forecasts whose mean variance counts, shape (worlds, parameters, parameters); None for the determinant."""

    @classmethod
    def of(cls, slopes: Array, covariance: Array, group: Any, noise: float, share: float, weight: Array | None) -> Information:
        """Prepare cells.

        Args:
            slopes: of ln L at the cells, shape (worlds, n, parameters).
            covariance: of the parameters before, shape (worlds, parameters, parameters).
            group: number of each cell's trunk, from 0, shape (n,).
            noise: deviation of ln L of one run.
            share: of the variance, common to the runs of a trunk, 0 to below 1.
            weight: see the field.
        """
        parameters, trunks = slopes.shape[2], int(group.max()) + 1
        before = np.zeros((len(slopes), parameters + trunks, parameters + trunks))
        before[:, :parameters, :parameters] = covariance
        before[:, parameters:, parameters:] = share * noise**2 * np.eye(trunks)
        return cls(slopes, parameters + group, before, (1 - share) * noise**2, weight)

    @property
    def worlds(self) -> int:
        """Number of parameter vectors."""
        return len(self.slopes)

    def of_parameters(self, covariance: Array) -> Array:
        """Return the parameters' part of a covariance, shape (worlds, parameters, parameters)."""
        parameters = self.slopes.shape[2]
        return covariance[:, :parameters, :parameters]

    def covariance(self, chosen: Any) -> Array:
        """Return the covariance after the chosen cells, a boolean mask of shape (n,); shape (worlds, unknowns, unknowns)."""
        taken = self._rows(np.flatnonzero(chosen))
        # In the space of the observations: they may be fewer than the unknowns, and no inverse of a wide prior is needed.
        across = taken @ self.before
        inner = across @ taken.transpose(0, 2, 1) + self.variance * np.eye(taken.shape[1])
        result: Array = self.before - across.transpose(0, 2, 1) @ np.linalg.solve(inner, across)
        return result

    def with_one(self, covariance: Array, number: int) -> Array:
        """Return the covariance after one cell more."""
        row = self._rows(np.array([number]))[:, 0]
        toward = (covariance @ row[:, :, None])[:, :, 0]
        spread = self.variance + (toward * row).sum(1)
        result: Array = covariance - toward[:, :, None] * (toward / spread[:, None])[:, None, :]
        return result

    def criterion(self, covariance: Array) -> Array:
        """Return the logarithm of the variance that counts, shape (worlds,)."""
        inside = self.of_parameters(covariance)
        if self.weight is None:
            result: Array = np.linalg.slogdet(inside)[1] / inside.shape[-1]
            return result
        return np.log((self.weight * inside).sum((1, 2)))

    def gains(self, covariance: Array) -> Array:
        """Return by how much each cell would lower the criterion, shape (worlds, n)."""
        own = self.of_parameters(covariance)
        half = self.slopes @ own
        # A cell's row is its slopes and a single 1, so products with it need only that row of the covariance.
        luck = covariance[:, self.trunk, : own.shape[1]]
        spread = self.variance + ((half + 2 * luck) * self.slopes).sum(2) + covariance[:, self.trunk, self.trunk]
        toward = half + luck
        if self.weight is None:
            lost = ((toward @ np.linalg.inv(own)) * toward).sum(2) / spread
            return -np.log1p(-np.minimum(lost, 1 - 1e-12)) / own.shape[1]
        lost = ((toward @ self.weight) * toward).sum(2) / spread
        return -np.log1p(-np.minimum(lost / (self.weight * own).sum((1, 2))[:, None], 1 - 1e-12))

    def _rows(self, numbers: Any) -> Array:
        """Return slopes with a 1 at the trunk's place, shape (worlds, cells, unknowns)."""
        rows = np.zeros((self.worlds, len(numbers), self.before.shape[1]))
        rows[:, :, : self.slopes.shape[2]] = self.slopes[:, numbers]
        rows[:, np.arange(len(numbers)), self.trunk[numbers]] = 1.0
        return rows


def mean_criterion(every: Sequence[Information], chosen: Any) -> float:
    """Return the criterion of a set of cells: the mean over all worlds of all laws."""
    return float(np.concatenate([one.criterion(one.covariance(chosen)) for one in every]).mean())


def fisher(slopes: Array, group: Any, noise: float, share: float) -> Array:
    """Return the information matrix of cells alone, nothing known before, shape (parameters, parameters).

    Args:
        slopes: shape (n, parameters).
        group: number of each cell's trunk, shape (n,).
        noise: deviation of ln L of one run.
        share: of the variance, common to the runs of a trunk.
    """
    total = np.zeros((slopes.shape[1],) * 2)
    for trunk in np.unique(group):
        rows = slopes[group == trunk]
        summed = rows.sum(0)
        common = share / (1 + (len(rows) - 1) * share)
        total += (rows.T @ rows - common * np.outer(summed, summed)) / ((1 - share) * noise**2)
    return total
