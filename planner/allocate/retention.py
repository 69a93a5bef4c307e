"""What specialising may cost in general loss, and the share of replayed general text that keeps it.

A limit is on the forecast general loss itself, or on its rise over that of the same model after the same general tokens and no specialist ones.
Replayed text is taken from the plan's general tokens: for the specialist loss it is assumed to count like the rest of them, so that replay costs no
FLOPs of its own. (On the sweep computing/replay the specialist loss comes out 0.3 % higher at most up to 10 % of replay, 1.1 % at 30 %, 2 % at 50 %.)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.allocate.plans import Plans
from planner.errors import DataError, InputError
from planner.fit.fitted import LEVEL, FittedLaw
from planner.laws.dual import Array

if TYPE_CHECKING:
    from planner.allocate.allocation import Plan
    from planner.allocate.request import Request

REPLAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Shares of general text in the specialist stage that are tried, as far as runs replayed."""
RESAMPLES = 40
"""Of each member of the general law, in a search."""


@dataclass(frozen=True)
class Kept:
    """The general loss of a plan."""

    replay_fraction: float
    """Share of general text in the specialist stage."""
    tokens_replayed: float
    loss: float
    """Forecast after the specialist stage [nats/token]."""
    loss_low: float
    loss_high: float
    """90 % interval of one run."""
    loss_before: float
    """Of the same model after the same general tokens and no specialist ones; infinite for a model without general tokens."""
    rise_percent: float
    """Of the forecast, mean over the resamples."""
    rise_low: float
    rise_high: float
    """90 % interval over the resamples and the noise of a run."""
    probability: float
    """That the limit is kept."""
    limit: str
    """In words."""


@dataclass(frozen=True)
class Retention:
    """A limit under a law of the general loss."""

    law: FittedLaw
    max_loss: float | None
    """[nats/token]."""
    max_rise: float | None
    """As a share."""

    @classmethod
    def of(cls, law: FittedLaw | None, request: Request) -> Retention | None:
        """Make the limit of a request, or none.

        Raises:
            InputError: a limit without a law of the general loss.
        """
        if request.max_general_loss is None and request.max_general_rise is None:
            return None
        if law is None:
            raise InputError(
                "a limit on the general loss needs a law of it",
                remedy="fit one with plan fit SWEEP --target general, and name it with --general-law",
            )
        for member in law.members:
            if member.law.target != "general":
                raise InputError(f"--general-law holds {member.law.name}, a law of the specialist loss", remedy="fit one with plan fit --target general")
        return cls(law, request.max_general_loss, request.max_general_rise)

    @property
    def replays(self) -> tuple[float, ...]:
        """Shares of replay that the runs of the law cover."""
        most = max(self.law.source.get("replay_fractions") or [0.0])
        return tuple(share for share in REPLAYS if share <= most + 1e-9)

    @property
    def limit(self) -> str:
        """Say the limit in words."""
        parts = [f"a general loss of at most {self.max_loss:.4g} nats/token"] if self.max_loss is not None else []
        parts += [f"a rise of the general loss of at most {100 * self.max_rise:.3g} %"] if self.max_rise is not None else []
        return " and ".join(parts)

    def replay(self, plans: Plans, least_stage: float = 0.0) -> Array:
        """Return the least share of replay with which each plan keeps the limit, not a number for a plan that cannot, shape (plans,).

        Args:
            plans: whose general tokens include what is replayed.
            least_stage: tokens that a general stage has at the least.
        """
        result = np.full(len(plans), np.nan)
        for share in self.replays:
            rows = np.flatnonzero(np.isnan(result))
            excess = self.excess(plans, rows, np.full(len(rows), share))
            trunk = _trunk(plans.tokens_pt[rows], plans.tokens_spec[rows], share)
            fits = (trunk >= least_stage) | ((share == 0) & (trunk == 0))
            result[rows[(excess <= 1e-9) & fits]] = share
        return result

    def excess(self, plans: Plans, rows: Any, share: Array) -> Array:
        """Return by how much ln L passes the limit for some plans, mean over resamples; infinite where there is no base to rise over."""
        params = {name: values[rows] for name, values in plans.params_by.items()}
        after, before = self._log_losses(params, plans.tokens_pt[rows], plans.tokens_spec[rows], plans.unique_spec[rows], share)
        found = np.full(len(rows), -inf)
        if self.max_loss is not None:
            found = after.mean(0) - np.log(self.max_loss)
        if self.max_rise is not None:
            found = np.maximum(found, (after - before).mean(0) - np.log1p(self.max_rise))
        return found

    def tell(self, plan: Plan, share: float) -> Kept:
        """Forecast the general loss of a plan."""
        params = {"non_embedding": np.array([plan.params_non_embedding]), "total": np.array([plan.params_total or np.nan])}
        trunk = float(_trunk(np.array([plan.tokens_pt]), np.array([plan.tokens_spec]), share)[0])
        spec, unique = np.array([plan.tokens_spec]), np.array([plan.unique_spec])
        after, before = self._log_losses(params, np.array([plan.tokens_pt]), spec, unique, np.array([share]), None)
        forecast = self.law.forecast(params, [trunk], spec, unique, [share])
        rise = (after - before)[:, 0]
        # The noise of one run: what its trunk was lucky in both losses share.
        spread = 1.6448536269514722 * self.law.noise
        deviation = sqrt(float(rise.var()) + self.law.noise**2) if np.isfinite(rise).all() else inf
        chances = []
        if self.max_loss is not None:
            sd = max(float(np.log(forecast.high[0] / forecast.low[0])) / (2 * 1.6448536269514722), 1e-12)
            chances.append(_below((np.log(self.max_loss) - float(np.log(forecast.loss[0]))) / sd))
        if self.max_rise is not None:
            chances.append(_below((np.log1p(self.max_rise) - float(rise.mean())) / max(deviation, 1e-12)))
        low, high = np.quantile(rise, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        middle = float(rise.mean())
        ends = middle - np.hypot(middle - low, spread), middle, middle + np.hypot(high - middle, spread)
        rise_low, rise_percent, rise_high = (100 * float(np.expm1(value)) for value in ends)
        return Kept(
            share, share / (1 - share) * plan.tokens_spec, float(forecast.loss[0]), float(forecast.low[0]), float(forecast.high[0]),
            float(np.exp(before.mean())) if np.isfinite(before).all() else inf, rise_percent, rise_low, rise_high, min(chances), self.limit,
        )  # fmt: skip

    def refuse(self, plans: Plans) -> None:
        """Say that no plan keeps the limit, and which comes nearest.

        Raises:
            DataError: always.
        """
        rows = np.arange(len(plans))
        least = np.min([self.excess(plans, rows, np.full(len(rows), share)) for share in self.replays], axis=0)
        nearest = 100 * float(np.expm1(least[np.isfinite(least)].min())) if np.isfinite(least).any() else inf
        raise DataError(
            f"no plan of this budget keeps {self.limit}: the nearest is {nearest:.3g} % above it, with up to {100 * self.replays[-1]:.3g} % of replay",
            remedy="relax the limit, give more FLOPs, or measure more replay: the runs of the general law have no more",
        )

    def _log_losses(self, params: Any, general: Array, spec: Array, unique: Array, share: Array, most: int | None = RESAMPLES) -> tuple[Array, Array]:
        """Return ln L with and without the specialist stage, shape (resamples, plans); without any tokens at all it is minus infinity."""
        trunk = _trunk(general, spec, share)
        after = self.law.log_loss_resamples(self.law.points(params, np.maximum(trunk, 0.0), spec, unique, share), most)
        none = np.zeros_like(spec)
        base = self.law.log_loss_resamples(self.law.points(params, np.where(general > 0, general, 1.0), none, unique, none), most)
        return after, np.where(general > 0, base, -inf)


def _trunk(general: Array, spec: Array, share: Any) -> Array:
    """Return the general tokens before the specialist stage; negative where replay takes more than there are."""
    result: Array = general - spec * share / (1 - share)
    return result


def _below(deviations: float) -> float:
    return 0.5 * (1 + erf(deviations / sqrt(2)))
