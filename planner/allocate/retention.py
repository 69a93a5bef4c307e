"""What specialising may cost in general loss, and the share of replayed general text that keeps it.

A limit is on the forecast general loss itself, or on its rise over that of the same model after the same general tokens and no specialist ones.
Replayed text is taken from the plan's general tokens, so that it costs no FLOPs of its own; what it costs the specialist loss is in `replay_cost`, and is
why a plan has the least of it that keeps the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erf, inf, sqrt
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from planner.allocate.least_share import PARTS, least_share
from planner.allocate.plans import Plans
from planner.arrays import Array
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.fit.level import ENDS, Z
from planner.laws import Points
from planner.units import format_count, format_number

if TYPE_CHECKING:
    from planner.allocate.allocation import Plan
    from planner.allocate.domains.answer import DomainPlan
    from planner.allocate.request import Request

REPLAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Shares of general text in the specialist stage that are tried, as far as runs replayed; between them the least that keeps a limit is looked for."""
SURE = 0.95
"""Probability of keeping a limit for which a tighter one is named."""


@dataclass(frozen=True)
class GeneralLoss:
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
    """Of the forecast loss over `loss_before`."""
    rise_low: float
    rise_high: float
    """90 % interval over the resamples, the noise of a run, and the drift outside the runs of the general law."""
    probability: float
    """That the limit is kept."""
    limit: str
    """In words."""
    extrapolation: float = 1.0
    """By what factor the plan lies outside the runs of the general law, all axes taken together; 1 is inside."""


@dataclass(frozen=True)
class Retention:
    """A limit under a law of the general loss."""

    law: FittedLaw
    max_loss: float | None
    """[nats/token]."""
    max_rise: float | None
    """As a share."""

    @classmethod
    def of(cls, law: FittedLaw | None, request: Request, corpus: str | None = None) -> Retention | None:
        """Make the limit of a request, or none.

        Args:
            law: of the general loss.
            request: what is asked.
            corpus: fingerprint of the specialist law's corpus, where it is known.

        Raises:
            InputError: a limit without a law of the general loss, or with one of another corpus.
        """
        if not request.limited:
            return None
        if law is None:
            raise InputError(
                "a limit on the general loss needs a law of it",
                remedy="fit one with plan fit SWEEP --target general, and name it with --general-law",
            )
        for member in law.members:
            if member.law.target != "general":
                raise InputError(f"--general-law holds {member.law.name}, a law of the specialist loss", remedy="fit one with plan fit --target general")
        if corpus and law.source.get("corpus") and law.source["corpus"] != corpus:
            raise InputError("--general-law is of another corpus than the law", remedy="fit both to runs on the same text")
        return cls(law, request.max_general_loss, request.max_general_rise)

    @property
    def replays(self) -> tuple[float, ...]:
        """Shares of replay that the runs of the law cover."""
        most = float(np.floor(max(self.law.source.get("replay_fractions") or [0.0]) * PARTS + 1e-9)) / PARTS
        return (*(share for share in REPLAYS if share < most), most)

    @property
    def limit(self) -> str:
        """Say the limit in words."""
        parts = [f"a general loss of at most {self.max_loss:.4g} nats/token"] if self.max_loss is not None else []
        parts += [f"a rise of the general loss of at most {100 * self.max_rise:.3g} %"] if self.max_rise is not None else []
        return " and ".join(parts)

    def replay(self, plans: Plans, least_stage: float = 0.0, margin: float = 0.0, closely: bool = True) -> Array:
        """Return the least share of replay with which each plan keeps the limit, not a number for a plan that cannot, shape (plans,).

        Args:
            plans: whose general tokens include what is replayed.
            least_stage: tokens that a general stage has at the least.
            margin: by how much the limit is to be kept, in ln L.
            closely: whether to look between the shares of REPLAYS.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            spare = (plans.tokens_pt - max(least_stage, 1.0)) / plans.tokens_spec  # of general tokens for each specialist one
            most = np.where((plans.tokens_pt == 0) | (plans.tokens_spec == 0), 0.0, np.where(spare < np.inf, spare / (1 + spare), 1.0))
        most = np.where((plans.tokens_pt > 0) & (plans.tokens_pt < least_stage), -1.0, most)
        before, kept = self._before(plans), np.where(plans.tokens_spec > 0, -margin, 1e-9)
        return least_share(lambda rows, share: self._excess(plans.rows(rows), share, before[rows]) - kept[rows], self.replays, most, closely)

    def keeps(self, plans: Plans, share: Array, least_stage: float) -> Any:
        """Tell which plans keep the limit with a share of replay each, and have a general stage beside it."""
        fits = _trunk(plans.tokens_pt, plans.tokens_spec, share) >= least_stage
        return fits & (self._excess(plans, share, self._before(plans)) <= 0)

    def losses(self, plans: Plans, share: float, least_stage: float) -> tuple[Array, Array]:
        """Forecast ln L of the general loss after a specialist stage with some replay, and before it; not a number where that cannot be trained."""
        after = self.law.log_loss(self._after(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec, share))
        before = self.law.log_loss(self._bare(plans.params_by, plans.tokens_pt, plans.unique_spec))
        return np.where(_fits(plans.tokens_pt, plans.tokens_spec, share, least_stage), after, np.nan), before

    def replay_after(self, params: Mapping[str, Any], trunk: Array, spec: Array, unique: Array, most: float, margin: float = 0.0) -> Array:
        """Return the least share of replay with which a stage after a trunk that is there already keeps the limit, not a number where none does.

        Args:
            params: parameters by convention, each of shape (stages,).
            trunk: general tokens of the trunk; what is replayed comes on top.
            spec: specialist tokens of the stage.
            unique: distinct ones.
            most: tokens that the stage may have, with what is replayed.
            margin: by how much the limit is to be kept, in ln L.
        """
        before, kept = self.law.log_loss(self._bare(params, trunk, unique)), np.where(spec > 0, -margin, 1e-9)

        def over(rows: Any, share: Array) -> Array:
            some = {kind: values[rows] for kind, values in params.items()}
            after = self.law.log_loss(self.law.points(some, trunk[rows], spec[rows], unique[rows], share))
            return self._over(np.where(spec[rows] > 0, after, before[rows]), before[rows]) - kept[rows]

        return least_share(over, self.replays, np.where(spec > 0, 1 - spec / (most * (1 + 1e-9)), 0.0))

    def passed_by(self, params: Mapping[str, Any], trunk: Array) -> Array:
        """Return by what share of the limit on it the general loss of checkpoints as they are passes that, shape (checkpoints,)."""
        assert self.max_loss is not None
        result: Array = np.expm1(self.law.log_loss(self._bare(params, trunk, np.ones(len(trunk)))) - np.log(self.max_loss))
        return result

    def _before(self, plans: Plans) -> Array:
        """Forecast ln L of the general loss without a specialist stage; minus infinity without general tokens, over which nothing may rise."""
        if self.max_rise is None:
            return np.zeros(len(plans))
        return np.where(plans.tokens_pt > 0, self.law.log_loss(self._bare(plans.params_by, plans.tokens_pt, plans.unique_spec)), -inf)

    def _excess(self, plans: Plans, share: Any, before: Array) -> Array:
        """Return by how much the forecast ln L of plans passes the limit; infinite where there is no base to rise over."""
        return self._over(self.law.log_loss(self._after(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec, share)), before)

    def _over(self, after: Array, before: Array) -> Array:
        """Return by how much ln L after a specialist stage passes the limits, given that before it."""
        found = np.full(len(after), -inf)
        if self.max_loss is not None:
            found = after - np.log(self.max_loss)
        if self.max_rise is not None:
            found = np.maximum(found, after - before - np.log1p(self.max_rise))
        return found

    def tell(self, plan: Plan | DomainPlan, share: float, base: float | None = None) -> GeneralLoss:
        """Forecast the general loss of a plan.

        Args:
            plan: whose general tokens include what is replayed.
            share: of replay.
            base: general tokens that the loss before is of, where a checkpoint has had them; else those of the plan.
        """
        params = plan.params_by
        general, spec, unique = (np.array([value]) for value in (plan.tokens_pt, plan.tokens_spec, plan.unique_spec))
        forecast = self.law.forecast(params, _trunk(general, spec, share), spec, unique, [share])
        points = self._after(params, general, spec, unique, share), self._bare(params, general if base is None else np.array([base]), unique)
        distance = self.law.support.distance(params["non_embedding"], general, spec, unique)[0]
        before, rise, low, high = inf, inf, inf, inf
        chances = []
        if self.max_loss is not None:
            deviation = max(float(np.log(forecast.high[0] / forecast.low[0])) / (2 * Z), 1e-12)
            chances.append(_below((np.log(self.max_loss) - float(np.log(forecast.loss[0]))) / deviation))
        if plan.tokens_pt > 0:
            after, base = (self.law.log_loss(at)[0] for at in points)
            spread = np.subtract(*(self.law.log_loss_resamples(at)[:, 0] for at in points))
            before, rise = float(np.exp(base)), float(after - base)
            # With the noise of one run: what its trunk was lucky in both losses share. The drift they need not share: no run tells a rise so far out.
            # As in a forecast, a deviation of 5 says "anything".
            off = float(np.fmin(np.hypot(self.law.noise, self.law.drift * distance if distance > 0 else 0.0), 5.0))
            ends = np.quantile(spread - spread.mean(), ENDS)
            low, high = (rise + sign * float(np.hypot(end, Z * off)) for sign, end in zip((-1, 1), ends, strict=True))
            if plan.tokens_spec == 0:  # the same run before and after
                low = high = rise = 0.0
            if self.max_rise is not None and plan.tokens_spec > 0:
                chances.append(_below((np.log1p(self.max_rise) - rise) / max(sqrt(float(spread.var()) + off**2), 1e-12)))
        elif self.max_rise is not None:
            chances.append(0.0)
        rise_percent, rise_low, rise_high = (100 * float(np.expm1(value)) for value in (rise, low, high))
        return GeneralLoss(
            share, share / (1 - share) * plan.tokens_spec, float(forecast.loss[0]), float(forecast.low[0]), float(forecast.high[0]), before,
            rise_percent, rise_low, rise_high, min(chances, default=1.0), self.limit, float(np.exp(distance)),
        )  # fmt: skip

    def surer(self, kept: GeneralLoss) -> str:
        """Say what to ask for if the limit is to be kept in nineteen runs of twenty; nothing where it is, or where no limit would do."""
        if kept.probability >= SURE:
            return ""
        parts = []
        if self.max_rise is not None and np.isfinite(kept.rise_high - kept.rise_low) and kept.rise_high > 100 * self.max_rise:
            ask = 100 * self.max_rise - (kept.rise_high - kept.rise_low) / 2
            parts += [f"--max-general-rise {ask:.2g}%"] if ask > 0 else []
        if self.max_loss is not None and kept.loss_high > self.max_loss:
            parts.append(f"--max-general-loss {self.max_loss * sqrt(kept.loss_low / kept.loss_high):.4g}")
        return f"{' and '.join(parts)} would keep it in {SURE:.0%} of runs" if parts else ""

    def refuse(self, plans: Plans, least_stage: float, would: str) -> NoReturn:
        """Say that no plan keeps the limit, and which comes nearest.

        Args:
            plans: those that the budget and the text allow.
            least_stage: tokens that a general stage has at the least.
            would: what would keep it, in words; nothing where that is not known.

        Raises:
            DataError: always.
        """
        before = self._before(plans)
        # Only what could be trained: the text that is replayed must be there beside the trunk's.
        each = [np.where(_fits(plans.tokens_pt, plans.tokens_spec, share, least_stage), self._excess(plans, share, before), inf) for share in self.replays]
        least = np.min(each, axis=0)
        if not np.isfinite(least).any():
            raise DataError(
                f"no plan of this budget and text has a general stage to keep {self.limit} with, which takes {format_count(least_stage)} tokens",
                remedy=f"relax the limit{f', or give {would}' if would else ''}",
            )
        share = self.replays[int(np.argmin(np.min(each, axis=1)))]
        nearest = format_number(100 * max(0.0, float(np.expm1(least[np.isfinite(least)].min()))), 2)
        more = "" if share < self.replays[-1] else ", or measure more replay: the runs of the general law have no more"
        raise DataError(
            f"no plan of this budget keeps {self.limit}: the nearest is {nearest} % above it, with {100 * share:.3g} % of replay of at most "
            f"{100 * self.replays[-1]:.3g} %",
            remedy=f"relax the limit{f', or give {would}' if would else ''}{more}",
        )

    def _after(self, params: Mapping[str, Any], general: Array, spec: Array, unique: Array, share: Any) -> list[Points]:
        """Prepare models after their specialist stage, whose general tokens include what is replayed."""
        return self.law.points(params, np.maximum(_trunk(general, spec, share), 0.0), spec, unique, share)

    def _bare(self, params: Mapping[str, Any], general: Array, unique: Array) -> list[Points]:
        """Prepare them without a specialist stage; general tokens of none are read as one."""
        return self.law.points(params, np.where(general > 0, general, 1.0), 0.0, unique, 0.0)


def _fits(general: Array, spec: Array, share: float, least_stage: float) -> Array:
    """Tell which plans have enough general text for what is replayed and a stage before it, or no general stage and no replay."""
    trunk = _trunk(general, spec, share)
    result: Array = (trunk >= least_stage) | ((share == 0) & (trunk == 0))
    return result


def _trunk(general: Array, spec: Array, share: Any) -> Array:
    """Return the general tokens before the specialist stage; negative where replay takes more than there are."""
    result: Array = general - spec * share / (1 - share)
    return result


def _below(deviations: float) -> float:
    return 0.5 * (1 + erf(deviations / sqrt(2)))
