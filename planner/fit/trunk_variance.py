"""Standard deviation of ln L for a run on a new trunk, where no trunk was repeated and the fit absorbed part of the trunk effect.

Restricted maximum likelihood (Patterson and Thompson 1971, doi 10.1093/biomet/58.3.545) of ln L = law + trunk effect + run noise, the law linearised
around its fit. Only residuals orthogonal to the parameters' slopes are used, so what the parameters absorb of few sizes is accounted for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.arrays import Array
from planner.laws import Law, Points

RATIOS = np.concatenate([[0.0], np.geomspace(1e-3, 100, 120)])
"""Ratios of between-trunk to within-trunk variance that are tried."""
RANK_TOLERANCE = 1e-7
"""Singular values below this share of the largest count as zero: their parameters are redundant."""

LEAST_LEFT = 1.0
"""Least length of a trunk direction orthogonal to the parameters: at this length the trunk effect shows in it as much as a run's noise. Shorter ones would
be a guess from nothing, as with three sizes for three parameters of size."""


def trunk_deviation(law: Law, points: Points, theta: Array, log_loss: Array, cluster: Any) -> float:
    """Return the standard deviation of ln L of a run on a new trunk; 0 where the parameters leave no degree of freedom.

    Args:
        law: the law.
        points: the runs, n of them.
        theta: its fit, shape (parameters,).
        log_loss: ln L, shape (n,).
        cluster: number of each run's trunk, shape (n,).
    """
    with np.errstate(all="ignore"):
        forecast, slopes = law.log_loss_and_slopes(theta[None], points)
    residual = log_loss - forecast[0]
    sound = np.isfinite(residual)
    slopes = np.nan_to_num(slopes[0][:, sound].T, posinf=0.0, neginf=0.0)
    trunks = (cluster[sound][:, None] == np.unique(cluster[sound])).astype(float)
    explained = _span(slopes / np.maximum(np.sqrt((slopes**2).sum(0)), 1e-300))[0]
    off = residual[sound] - explained @ (explained.T @ residual[sound])
    axes, length = _span(trunks - explained @ (explained.T @ trunks))
    axes, length = axes[:, length > LEAST_LEFT], length[length > LEAST_LEFT]
    freedom = len(off) - explained.shape[1]
    if freedom < 1:
        return 0.0
    shared = (axes.T @ off) ** 2
    rest = max(float(off @ off - shared.sum()), 0.0)
    scale = 1 + RATIOS[:, None] * length**2
    within = np.maximum(((shared / scale).sum(1) + rest) / freedom, 1e-300)
    best = int((freedom * np.log(within) + np.log(scale).sum(1)).argmin())
    return float(np.sqrt(within[best] * (1 + RATIOS[best])))


def _span(columns: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis of columns, shape (n, rank), and their lengths along it."""
    basis, size, _ = np.linalg.svd(columns, full_matrices=False)
    kept = size > RANK_TOLERANCE * max(float(size.max(initial=0.0)), RANK_TOLERANCE)
    return basis[:, kept], size[kept]
