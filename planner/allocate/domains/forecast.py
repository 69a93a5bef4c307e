"""The weighted loss of a structure with its interval, and the domains' own.

Resamples of different laws are independent; domains that share a law share its resamples. Run noise is independent between domains; drift outside the
runs is common to all domains: laws of one form err alike there, and in each of four structures that were trained the three domains were off in the same
direction (sweeps/three/NOTES.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import erf, sqrt

import numpy as np

from planner.allocate.domains.answer import DomainPlan
from planner.allocate.domains.found import INDEPENDENT, MIXED, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.replay_cost import cost, dearer
from planner.allocate.retention import SURE
from planner.arrays import Array
from planner.fit.level import Z, interval_of
from planner.flops import flops_6nd

DRAWS = 4000
SEED = 0
SEVERAL = 0.04
"""Root mean square error of such forecasts for two trained mixes of three domains, in ln L (0.7 and 5.2 %: sweeps/three/NOTES.md)."""


@dataclass(frozen=True)
class MixDoubt:
    """Uncertainty of a mix beyond that of its laws, in ln L; arrays have shape (domains,)."""

    worth: Array
    """Standard deviation from the worth, and from the mixing of several domains: common to all domains."""
    off: Array
    """Standard deviation of a run around its law."""
    general: Array
    """Change if the other domains' text counted as general text; 0 if that would not lower the loss."""

    @classmethod
    def of(cls, problem: DomainsProblem, found: Found) -> MixDoubt:
        """Evaluate it at one plan; zeros if nothing is mixed."""
        mix, none = problem.mix, np.zeros(problem.count)
        if mix is None:
            return cls(none, none, none)

        def log_loss(worth: Array, pt: Array) -> Array:
            result = np.empty(problem.count)
            for law, members in problem.groups:
                spec = (worth * found.tokens_spec)[members]
                result[members] = law.log_loss(law.points(problem.params_by(found.size[members]), pt[members], spec, problem.unique[members]))
            return result

        others = found.tokens_pt + found.tokens_spec.sum() - found.tokens_spec
        worth = np.hypot((log_loss(mix.high, found.tokens_pt) - log_loss(mix.low, found.tokens_pt)) / (2 * Z), SEVERAL)
        general = np.minimum(log_loss(mix.value, others) - log_loss(mix.value, found.tokens_pt), 0.0)
        return cls(worth, mix.off, general)


@dataclass(frozen=True)
class Outlook:
    """Forecast of one structure."""

    losses: Array
    """Mean over resamples by domain [nats/token], shape (domains,)."""
    resamples: Array
    """Weighted loss under joint draws of the resamples, the same draws for every structure, shape (draws,)."""
    low: float
    high: float
    """90 % interval of the weighted loss, with run noise and drift."""

    @property
    def loss(self) -> float:
        """Weighted mean."""
        return float(self.resamples.mean())


def outlook(problem: DomainsProblem, found: Found) -> Outlook:
    """Forecast a structure."""
    random = np.random.default_rng(SEED)
    losses, runs = np.empty(problem.count), 0.0
    joint, alone, drift = np.zeros(DRAWS), 0.0, 0.0
    replay = cost(found.shares)
    spec, doubt = problem.worth * found.tokens_spec, MixDoubt.of(problem, found)
    for (law, members), values in zip(problem.groups, problem.resampled(found), strict=True):
        losses[members] = values.mean(0)
        weighted = values @ problem.weights[members]
        # Complete rounds over the resamples, so that means over the draws equal means over the resamples except for the last round.
        rounds = -(-DRAWS // len(weighted))
        joint += weighted[np.concatenate([random.permutation(len(weighted)) for _ in range(rounds)])[:DRAWS]]
        alone += float(weighted.mean())
        share = problem.weights[members] * losses[members]
        distance = law.support.distance(problem.params[found.size[members]], found.tokens_pt[members], spec[members], problem.unique[members])
        # As in a forecast of one run, a deviation of 5 in ln L means "anything".
        drift += float((share * np.minimum(law.drift * np.where(distance > 0, distance, 0.0), 5.0)).sum())
        runs += float((share**2 * (law.noise**2 + doubt.off[members] ** 2)).sum())
    joint += alone - joint.mean()
    weighted = problem.weights * losses
    off, spread = np.zeros(DRAWS), joint.copy()
    if problem.mix is not None:
        common = random.normal(size=DRAWS)
        off = float((weighted * doubt.worth).sum()) * (common - common.mean())
        joint += off
    # The cost of replay was measured once, so its error is common to all domains; half the interval's width is the whole cost, as in `replay_cost`.
    off = off + np.sqrt(runs + drift**2 + (float((weighted * replay).sum()) / Z) ** 2) * random.normal(size=DRAWS)
    # In ln L, as for one run: far outside the runs an interval in L could reach below zero.
    low, high = interval_of(spread * np.exp(off / weighted.sum()))
    return Outlook(losses, joint, float(low * (weighted * np.exp(doubt.general)).sum() / weighted.sum()), high)


def describe(problem: DomainsProblem, found: Found, losses: Array) -> tuple[DomainPlan, ...]:
    """Describe every domain's part, with the interval of its own loss and its distance from the runs.

    Args:
        problem: the domains.
        found: the plan.
        losses: means over the resamples, shape (domains,).
    """
    plans: list[DomainPlan | None] = [None] * problem.count
    doubt = MixDoubt.of(problem, found)
    wider = Z * np.hypot(doubt.worth, doubt.off)
    counts = flops_6nd(problem.params[found.size], found.tokens_of(problem.price[found.size]))
    for law, members in problem.groups:
        size, pt, spec, unique = found.size[members], found.tokens_pt[members], found.tokens_spec[members], problem.unique[members]
        paths = found.flops_general + found.flops[members] if found.name != MIXED else np.full(len(members), found.total_flops)
        counted = problem.worth[members] * spec
        params = problem.params_by(size)
        forecast = dearer(law.forecast(params, pt, counted, unique), cost(found.shares[members]))
        factors = law.support.factors(problem.params[size], pt, counted, unique, paths)
        for row, number in enumerate(members):
            domain, shape = problem.request.domains[number], problem.ladder[size[row]].shape
            loss = float(losses[number])
            ends = [float(np.hypot(np.log(end[row] / forecast.loss[row]), wider[number])) for end in (forecast.low, forecast.high)]
            low = min(loss, float(forecast.loss[row] * np.exp(doubt.general[number] - ends[0])))
            high = max(loss, float(forecast.loss[row] * np.exp(ends[1])))
            # Without an irreducible loss the end is held at the lowest measured loss; requiring a lower loss does not move it.
            held = not law.bounded_below and float(forecast.high[row]) == law.least_loss
            plan = DomainPlan(
                domain.name, domain.weight, float(params["non_embedding"][row]), float(pt[row]), float(spec[row]), float(unique[row]),
                float(spec[row] / unique[row]), float(found.flops[number]), float(paths[row]),
                float(found.flops[number]) / problem.request.flops, loss, low, high, domain.max_loss,
                {name: float(values[row]) for name, values in factors.items() if name != "flops_6nd"}, shape.to_dict() if shape else None,
                problem.ladder[size[row]].params_total, None, None, float(counts[number]), *required(domain.max_loss, loss, low, high, held),
            )  # fmt: skip
            plans[number] = _with_general(problem, found, number, plan)
    assert all(plan is not None for plan in plans)
    return tuple(plan for plan in plans if plan is not None)


def required(max_loss: float | None, loss: float, low: float, high: float, held: bool = False) -> tuple[float | None, float | None]:
    """Return the probability that one run reaches a required loss, and what to require so that a share `SURE` of runs does, if fewer do.

    Args:
        max_loss: required loss; None for none.
        loss: forecast.
        low, high: ends of its 90 % interval of one run; one run in twenty exceeds the upper end.
        held: whether the upper end does not move with what is required; then nothing surer can be named.
    """
    if max_loss is None:
        return None, None
    room = float(np.log(max_loss / loss))
    deviation = float(np.log(high / loss if room >= 0 else loss / low)) / Z
    probability = 0.5 * (1 + erf(room / max(deviation, 1e-12) / sqrt(2)))
    return probability, max_loss * loss / high if probability < SURE and not held else None


def _with_general(problem: DomainsProblem, found: Found, number: int, plan: DomainPlan) -> DomainPlan:
    """Add the general loss after the specialist stage, if it is limited."""
    retention = problem.problems[number].retention
    if retention is None or found.replay is None:
        return plan
    # The rise of a branch is over its trunk, that of a separate model over itself with the same general tokens.
    before = None if found.name == INDEPENDENT else found.tokens_general
    return replace(plan, general=asdict(retention.tell(plan, float(found.replay[number]), before)))
