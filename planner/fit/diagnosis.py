"""Diagnosis of a solution: whether the solver finished, which parameters are at a bound, how well conditioned it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.arrays import Array
from planner.fit.prior import pull_of_priors
from planner.fit.scale import Scale
from planner.fit.unmeasured import nowhere
from planner.laws import Law, Points

EDGE = 2e-3
"""Share of a parameter's range at either end that counts as at its bound."""
ILL_CONDITIONED = 1e10
"""Condition number of the normal equations, columns scaled to unit length, above which single parameters are not determined."""
NOTHING = 1e-9
"""Norm over all runs of the slope of ln L, in `Scale`'s natural coordinate, up to which a parameter counts as changing no forecast where it stands."""
STATUS_ADVICE = {
    "converged": "the fit stands",
    "max_iterations": "the solver stopped early: fit again with another --seed, or a simpler law",
    "at_bound": "a parameter runs to the edge of its range: the runs do not pin it down; choose a simpler law or widen the sweep",
    "ill_conditioned": "several parameters trade off against each other: trust forecasts near the runs, not the parameters",
}


@dataclass(frozen=True)
class Diagnosis:
    """How far a solution can be trusted."""

    status: str
    """Key of `STATUS_ADVICE`."""
    condition: float
    """Condition number of the normal equations, columns scaled to unit length; infinite where a measured parameter changes no forecast."""
    at_bound: tuple[str, ...]
    """Parameters at an edge of their range."""
    flat: tuple[str, ...] = ()
    """Parameters that change no run's forecast where they stand."""


def diagnose(law: Law, points: Points, theta: Array, finished: bool) -> Diagnosis:
    """Diagnose a solution. Parameters that no run measures, such as those of repetition where no run repeats, do not count in the condition number.

    Args:
        law: the law.
        points: the runs, n of them.
        theta: the solution, shape (parameters,).
        finished: whether the solver stopped by itself.
    """
    scale = Scale(law)
    share = scale.share(theta)
    at_bound = tuple(p.name for p, where in zip(law.parameters, share, strict=True) if not EDGE < where < 1 - EDGE)
    with np.errstate(all="ignore"):  # an absurd row makes an infinite slope, and the condition number says so
        slopes = law.log_loss_and_slopes(theta[None], points)[1]
    natural = slopes[0] * scale.steepness(theta)[:, None]
    length = np.sqrt((natural**2).sum(1))
    known = pull_of_priors(law) * scale.steepness(theta)
    measured = np.logical_not(nowhere(slopes[0]))
    condition = float("inf")
    if measured.any() and (length[measured] > NOTHING).all() and np.isfinite(length).all():
        unit, held = (items[measured] / length[measured, None] for items in (natural, np.diag(known)))
        normal = unit @ unit.T + held @ held.T
        if law.has_prior:  # a narrow one makes its column long again, which is no trade-off
            size = np.sqrt(np.diag(normal))
            normal /= size * size[:, None]
        condition = float(np.linalg.cond(normal))
    status = "converged"
    if not finished:
        status = "max_iterations"
    elif at_bound:
        status = "at_bound"
    elif condition > ILL_CONDITIONED:
        status = "ill_conditioned"
    flat = tuple(p.name for p, long in zip(law.parameters, length, strict=True) if long <= NOTHING)
    return Diagnosis(status, condition, at_bound, flat)
