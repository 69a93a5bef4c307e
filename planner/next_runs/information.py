"""How much cells would tell about a law: covariances before and after, with a common error for the rows of one trunk.

ln L of a run has variance σ² around the law, a share of which is common to its trunk (compound symmetry). The common part is one additional unknown per
trunk, of variance share·σ²: then every cell adds (1 − share)⁻¹σ⁻²·a·aᵀ to the information, a being its slopes with a 1 at its trunk's place, and adding
a cell is an update of rank one. Marginalised over the trunks' unknowns this is exactly Σ_trunks SᵀV⁻¹S with V = σ²((1 − share)·I + share·11ᵀ).

The criterion of a set of cells is the mean over parameter draws of the logarithm of a variance; the logarithm, so that no draw with large losses, or far
from the rest, dominates. "V" is the weighted mean variance of the contrasts of ln L that decide between plans,
"I" that of the forecasts of ln L themselves, "D" the geometric mean variance of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array

TRUNK_SHARE = 0.25
"""Share of a run's variance common to the runs of its trunk: an assumption. In the recorded sweep the residuals of one trunk correlate by 0.0 if N
includes embeddings, and by 0.4 if not."""
ABSOLUTE = float(np.sqrt(np.pi / 2))
"""Factor by which a fit's estimates scatter more than those of least squares: its Huber objective becomes absolute values at 1e-3, far below the
noise of a run, and with normal errors a median scatters that much more than a mean."""


@dataclass(frozen=True)
class Information:
    """Information of n cells under some parameter draws of one law."""

    slopes: Array
    """Slopes of ln L at the cells, shape (draws, n, parameters)."""
    trunk: Any
    """Place of each cell's trunk among the unknowns, after the parameters, shape (n,)."""
    before: Array
    """Covariance before, shape (draws, unknowns, unknowns)."""
    variance: float
    """Variance of ln L of one run, without the part common to its trunk."""
    weight: Array | None
    """Σ w·l·lᵀ over the contrasts or forecasts whose mean variance is the criterion, shape (draws, parameters, parameters); None for the determinant."""

    @classmethod
    def of(cls, slopes: Array, covariance: Array, group: Any, noise: float, share: float, weight: Array | None) -> Information:
        """Prepare cells.

        Args:
            slopes: of ln L at the cells, shape (draws, n, parameters).
            covariance: of the parameters before, shape (draws, parameters, parameters).
            group: number of each cell's trunk, from 0, shape (n,).
            noise: standard deviation of ln L of one run.
            share: share of the variance common to the runs of a trunk, 0 to below 1.
            weight: see the field.
        """
        parameters, trunks = slopes.shape[2], int(group.max()) + 1
        before = np.zeros((len(slopes), parameters + trunks, parameters + trunks))
        before[:, :parameters, :parameters] = covariance
        before[:, parameters:, parameters:] = share * noise**2 * np.eye(trunks)
        return cls(slopes, parameters + group, before, (1 - share) * noise**2, weight)

    @property
    def draws(self) -> int:
        """Number of parameter vectors."""
        return len(self.slopes)

    def of_parameters(self, covariance: Array) -> Array:
        """Return the parameters' part of a covariance, shape (draws, parameters, parameters)."""
        parameters = self.slopes.shape[2]
        return covariance[:, :parameters, :parameters]

    def covariance(self, chosen: Any) -> Array:
        """Return the covariance after the chosen cells, a boolean mask of shape (n,); shape (draws, unknowns, unknowns)."""
        taken = self._rows(np.flatnonzero(chosen))
        # In the space of the observations: they may be fewer than the unknowns, and no inverse of a wide prior is needed.
        across = taken @ self.before
        inner = across @ taken.transpose(0, 2, 1) + self.variance * np.eye(taken.shape[1])
        result: Array = self.before - across.transpose(0, 2, 1) @ np.linalg.solve(inner, across)
        return result

    def with_one(self, covariance: Array, number: int) -> Array:
        """Return the covariance after one more cell."""
        row = self._rows(np.array([number]))[:, 0]
        toward = (covariance @ row[:, :, None])[:, :, 0]
        spread = self.variance + (toward * row).sum(1)
        result: Array = covariance - toward[:, :, None] * (toward / spread[:, None])[:, None, :]
        return result

    def criterion(self, covariance: Array) -> Array:
        """Return the logarithm of the variance in the criterion, shape (draws,)."""
        inside = self.of_parameters(covariance)
        if self.weight is None:
            result: Array = np.linalg.slogdet(inside)[1] / inside.shape[-1]
            return result
        return np.log((self.weight * inside).sum((1, 2)))

    def gains(self, covariance: Array) -> Array:
        """Return by how much each cell would lower the criterion, shape (draws, n)."""
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
        """Return slopes with a 1 at the trunk's place, shape (draws, cells, unknowns)."""
        rows = np.zeros((self.draws, len(numbers), self.before.shape[1]))
        rows[:, :, : self.slopes.shape[2]] = self.slopes[:, numbers]
        rows[:, np.arange(len(numbers)), self.trunk[numbers]] = 1.0
        return rows


def mean_criterion(every: Sequence[Information], chosen: Any) -> float:
    """Return the criterion of a set of cells: the mean over all draws of all laws."""
    return float(np.concatenate([one.criterion(one.covariance(chosen)) for one in every]).mean())


def fisher(slopes: Array, group: Any, noise: float, share: float) -> Array:
    """Return the information matrix of cells alone, without prior knowledge, shape (parameters, parameters).

    Args:
        slopes: shape (n, parameters).
        group: number of each cell's trunk, shape (n,).
        noise: standard deviation of ln L of one run.
        share: share of the variance common to the runs of a trunk.
    """
    total = np.zeros((slopes.shape[1],) * 2)
    for trunk in np.unique(group):
        rows = slopes[group == trunk]
        summed = rows.sum(0)
        common = share / (1 + (len(rows) - 1) * share)
        total += (rows.T @ rows - common * np.outer(summed, summed)) / ((1 - share) * noise**2)
    return total
