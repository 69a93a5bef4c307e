"""Limits on the general loss after specialising, and the share of replayed general text that keeps them.

A limit is on the forecast general loss itself, or on its rise over the loss of the same model after the same general tokens without specialist ones.
Replayed text is taken from the plan's general tokens, so it costs no extra FLOPs; it raises the specialist loss (`replay_cost`), so a plan has the least
replay that keeps the limit.
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
"""Shares of general text in the specialist stage that are tried, up to the most of any run; the least that keeps a limit is then searched between them."""
SURE = 0.95
"""If the probability of keeping a limit is lower, a tighter limit that reaches it is named."""


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
    """General loss of the same model after the same general tokens and no specialist ones [nats/token]; infinite for a model without general tokens."""
    rise_percent: float
    """Rise of the forecast loss over `loss_before` [%]."""
    rise_low: float
    rise_high: float
    """90 % interval, from the resamples, run noise, and drift outside the runs of the general law."""
    probability: float
    """Probability that one run keeps the limit."""
    limit: str
    """The limit in words."""
    extrapolation: float = 1.0
    """By what factor the plan lies outside the runs of the general law, all axes together; 1 is inside."""


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
        """Make the limit of a request, or None.

        Args:
            law: of the general loss.
            request: the request.
            corpus: fingerprint of the specialist law's corpus, if known.

        Raises:
            InputError: a limit without a law of the general loss, or with one of another corpus.
        """
        if not request.limited:
            return None
        if law is None:
            raise InputError(
                "a limit on the general loss needs a law of the general loss",
                remedy="fit one with plan fit SWEEP --target general, and name it with --general-law",
            )
        for member in law.members:
            if member.law.target != "general":
                raise InputError(f"--general-law holds {member.law.name}, a law of the specialist loss", remedy="fit one with plan fit --target general")
        if corpus and law.source.get("corpus") and law.source["corpus"] != corpus:
            raise InputError("--general-law was fitted on another corpus than the law", remedy="fit both to runs on the same text")
        return cls(law, request.max_general_loss, request.max_general_rise)

    @property
    def replays(self) -> tuple[float, ...]:
        """Shares of replay that the runs of the law cover."""
        most = float(np.floor(max(self.law.source.get("replay_fractions") or [0.0]) * PARTS + 1e-9)) / PARTS
        return (*(share for share in REPLAYS if share < most), most)

    @property
    def limit(self) -> str:
        """Return the limit in words."""
        parts = [f"a general loss of at most {self.max_loss:.4g} nats/token"] if self.max_loss is not None else []
        parts += [f"a rise of the general loss of at most {100 * self.max_rise:.3g} %"] if self.max_rise is not None else []
        return " and ".join(parts)

    def replay(self, plans: Plans, least_stage: float = 0.0, margin: float = 0.0, closely: bool = True) -> Array:
        """Return the least share of replay with which each plan keeps the limit, NaN if none does, shape (plans,).

        Args:
            plans: their general tokens include replayed text.
            least_stage: minimum of tokens of a general stage.
            margin: by how much the limit is tightened, in ln L.
            closely: whether to search between the shares of REPLAYS.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            spare = (plans.tokens_pt - max(least_stage, 1.0)) / plans.tokens_spec  # general tokens per specialist token
            most = np.where((plans.tokens_pt == 0) | (plans.tokens_spec == 0), 0.0, np.where(spare < np.inf, spare / (1 + spare), 1.0))
        most = np.where((plans.tokens_pt > 0) & (plans.tokens_pt < least_stage), -1.0, most)
        before, kept = self._before(plans), np.where(plans.tokens_spec > 0, -margin, 1e-9)
        return least_share(lambda rows, share: self._excess(plans.rows(rows), share, before[rows]) - kept[rows], self.replays, most, closely)

    def keeps(self, plans: Plans, share: Array, least_stage: float) -> Any:
        """Tell which plans keep the limit with given shares of replay, and have enough general text left for a general stage."""
        fits = _trunk(plans.tokens_pt, plans.tokens_spec, share) >= least_stage
        return fits & (self._excess(plans, share, self._before(plans)) <= 0)

    def losses(self, plans: Plans, share: float, least_stage: float) -> tuple[Array, Array]:
        """Forecast ln L of the general loss after a specialist stage with some replay (NaN if it cannot be trained), and before it."""
        after = self.law.log_loss(self._after(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec, share))
        before = self.law.log_loss(self._bare(plans.params_by, plans.tokens_pt, plans.unique_spec))
        return np.where(_fits(plans.tokens_pt, plans.tokens_spec, share, least_stage), after, np.nan), before

    def replay_after(self, params: Mapping[str, Any], trunk: Array, spec: Array, unique: Array, most: float, margin: float = 0.0) -> Array:
        """Return the least share of replay with which a stage after an existing trunk keeps the limit, NaN if none does.

        Args:
            params: parameters by convention, each of shape (stages,).
            trunk: general tokens of the trunk; replayed text comes on top.
            spec: specialist tokens of the stage.
            unique: distinct specialist tokens.
            most: most tokens of the stage, replay included.
            margin: by how much the limit is tightened, in ln L.
        """
        before, kept = self.law.log_loss(self._bare(params, trunk, unique)), np.where(spec > 0, -margin, 1e-9)

        def over(rows: Any, share: Array) -> Array:
            some = {kind: values[rows] for kind, values in params.items()}
            after = self.law.log_loss(self.law.points(some, trunk[rows], spec[rows], unique[rows], share))
            return self._over(np.where(spec[rows] > 0, after, before[rows]), before[rows]) - kept[rows]

        return least_share(over, self.replays, np.where(spec > 0, 1 - spec / (most * (1 + 1e-9)), 0.0))

    def passed_by(self, params: Mapping[str, Any], trunk: Array) -> Array:
        """Return by what share the general loss of unspecialised checkpoints exceeds its limit, shape (checkpoints,)."""
        assert self.max_loss is not None
        result: Array = np.expm1(self.law.log_loss(self._bare(params, trunk, np.ones(len(trunk)))) - np.log(self.max_loss))
        return result

    def _before(self, plans: Plans) -> Array:
        """Forecast ln L of the general loss without a specialist stage; minus infinity without general tokens, so that any rise exceeds the limit."""
        if self.max_rise is None:
            return np.zeros(len(plans))
        return np.where(plans.tokens_pt > 0, self.law.log_loss(self._bare(plans.params_by, plans.tokens_pt, plans.unique_spec)), -inf)

    def _excess(self, plans: Plans, share: Any, before: Array) -> Array:
        """Return by how much the forecast ln L of plans exceeds the limit; infinite if there is no loss before to compare with."""
        return self._over(self.law.log_loss(self._after(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec, share)), before)

    def _over(self, after: Array, before: Array) -> Array:
        """Return by how much ln L after a specialist stage exceeds the limits, given ln L before it."""
        found = np.full(len(after), -inf)
        if self.max_loss is not None:
            found = after - np.log(self.max_loss)
        if self.max_rise is not None:
            found = np.maximum(found, after - before - np.log1p(self.max_rise))
        return found

    def tell(self, plan: Plan | DomainPlan, share: float, base: float | None = None) -> GeneralLoss:
        """Forecast the general loss of a plan.

        Args:
            plan: its general tokens include replayed text.
            share: of replay.
            base: general tokens behind the loss before specialising, if that is of a checkpoint; else those of the plan.
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
            # Trunk noise is common to both losses and cancels; run noise and drift do not: no run has measured a rise so far out.
            # As in a forecast, a deviation of 5 means "anything".
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
        """Say what limit to request so that this one is kept in 95 % of runs; empty if it is already, or if no limit would do."""
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
        """Refuse a limit that no plan keeps, and say which comes nearest.

        Args:
            plans: those that the budget and the text allow.
            least_stage: minimum of tokens of a general stage.
            would: what would keep it, in words; empty if unknown.

        Raises:
            DataError: always.
        """
        before = self._before(plans)
        # Only plans that can be trained: replayed text comes in addition to the trunk's.
        each = [np.where(_fits(plans.tokens_pt, plans.tokens_spec, share, least_stage), self._excess(plans, share, before), inf) for share in self.replays]
        least = np.min(each, axis=0)
        if not np.isfinite(least).any():
            raise DataError(
                f"this budget and text allow no general stage, of at least {format_count(least_stage)} tokens, that could keep {self.limit}",
                remedy=f"relax the limit{f', or give {would}' if would else ''}",
            )
        share = self.replays[int(np.argmin(np.min(each, axis=1)))]
        nearest = format_number(100 * max(0.0, float(np.expm1(least[np.isfinite(least)].min()))), 2)
        more = "" if share < self.replays[-1] else ", or measure more replay than the runs of the general law have"
        raise DataError(
            f"no plan of this budget keeps {self.limit}: the nearest is {nearest} % above it, with {100 * share:.3g} % of replay (measured: "
            f"up to {100 * self.replays[-1]:.3g} %)",
            remedy=f"relax the limit{f', or give {would}' if would else ''}{more}",
        )

    def _after(self, params: Mapping[str, Any], general: Array, spec: Array, unique: Array, share: Any) -> list[Points]:
        """Prepare models after their specialist stage; their general tokens include replayed text."""
        return self.law.points(params, np.maximum(_trunk(general, spec, share), 0.0), spec, unique, share)

    def _bare(self, params: Mapping[str, Any], general: Array, unique: Array) -> list[Points]:
        """Prepare models without a specialist stage; no general tokens are replaced by one, to avoid a logarithm of zero."""
        return self.law.points(params, np.where(general > 0, general, 1.0), 0.0, unique, 0.0)


def _fits(general: Array, spec: Array, share: float, least_stage: float) -> Array:
    """Tell which plans have enough general text for replay and a general stage, or neither."""
    trunk = _trunk(general, spec, share)
    result: Array = (trunk >= least_stage) | ((share == 0) & (trunk == 0))
    return result


def _trunk(general: Array, spec: Array, share: Any) -> Array:
    """Return the general tokens before the specialist stage; negative if replay takes more than there are."""
    result: Array = general - spec * share / (1 - share)
    return result


def _below(deviations: float) -> float:
    return 0.5 * (1 + erf(deviations / sqrt(2)))
