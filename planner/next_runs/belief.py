"""What is known before the next runs: parameter draws of laws with their uncertainty, from a fit or from the start ranges of law forms.

A *draw* is one parameter vector of one law, with the covariance of the uncertainty around it. Coordinates are the solver's: logarithms if a parameter is
logarithmic, in units of the standard deviation of its start range.

Without a fit that covariance is that of the start ranges. With a fit it is that of its resamples, but of their forecasts and not of their parameters:
these lie along curved ridges and at bounds, and their plain covariance overstates the spread of the recorded sweep's forecast at ten times the budget by
a factor of 2 to 10. Each resample is therefore replaced by the step along the draw's slopes that best reproduces its forecasts at the candidates and at
the target; directions that no forecast determines keep the covariance of the start ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.allocate.plans import Plans
from planner.arrays import Array
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.scale import Scale
from planner.fit.support import Support
from planner.laws import Law, Points, Reference, law_named
from planner.next_runs.candidates import Candidates

FORMS = ("gap-competing", "bounded-penalised")
"""Laws that represent the possibilities if nothing has been fitted: the form of the recorded sweep, and a bounded one."""
DRAWS = 60
"""Parameter vectors of each form for the law, if nothing has been fitted."""
DRAWS_A_MEMBER = 6
"""Draws of each member of a fit: the criterion is a mean over them, since slopes depend on where they are taken."""
PRIOR_DRAWS_A_FORM = 8
"""Draws of each form for the criterion, if nothing has been fitted."""
NOISE = 0.005
"""Standard deviation of ln L of one run if nothing has been fitted: between seeds of the recorded sweep it is 0.0041."""
NEARNESS = 0.002
"""Standard deviation of ln L to which a step along the slopes reproduces a resample's forecasts, relative to start ranges of deviation 1."""


@dataclass(frozen=True)
class ParameterDraws:
    """Parameter vectors of one law."""

    law: Law
    params_kind: str
    """Convention of its N."""
    reference: Reference
    theta: Array
    """Shape (draws, parameters)."""
    scale: Array
    """Standard deviation of each parameter's start range, in natural coordinates, shape (parameters,)."""
    covariance: Array
    """Covariance of the uncertainty around each draw, in units of `scale`, shape (draws, parameters, parameters)."""

    def points(self, params_by: Mapping[str, Any], tokens_pt: Any, tokens_spec: Any, unique_spec: Any) -> Points:
        """Prepare points of this law."""
        return Points(self.reference, params_by[self.params_kind], tokens_pt, tokens_spec, unique_spec)

    def log_loss(self, points: Points) -> Array:
        """Return ln L, shape (draws, points)."""
        return self.law.log_loss(self.theta, points)

    def slopes(self, points: Points) -> Array:
        """Return the derivatives of ln L by the scaled coordinates, shape (draws, points, parameters)."""
        slopes = self.law.log_loss_and_slopes(self.theta, points)[1]
        chain = Scale(self.law).steepness(self.theta) * self.scale
        return np.ascontiguousarray((slopes * chain[:, :, None]).transpose(0, 2, 1))


def draws_of(law: FittedLaw, given: Candidates, plans: Plans) -> tuple[ParameterDraws, ...]:
    """Take draws from a fit: the fitted vector of each member and some of its resamples.

    Args:
        law: the fit.
        given: the candidate cells.
        plans: plans at the target.
    """
    params = {kind: np.concatenate([values, plans.params_by[kind]]) for kind, values in given.params_by.items()}
    pairs = zip(given.tokens, (plans.tokens_pt, plans.tokens_spec, plans.unique_spec), strict=True)
    tokens = [np.concatenate(pair) for pair in pairs]
    found = []
    for member, points in zip(law.members, law.points(params, *tokens), strict=True):
        chosen = member.resamples[np.linspace(0, len(member.resamples) - 1, DRAWS_A_MEMBER - 1).round().astype(int)]
        theta, scale = np.vstack([member.theta, chosen]), Scale(member.law).deviation
        bare = ParameterDraws(member.law, member.params_kind, member.reference, theta, scale, np.zeros((len(theta), len(scale), len(scale))))
        forecasts = member.law.log_loss(member.resamples, points)
        found.append(replace(bare, covariance=_covariance(bare.slopes(points), forecasts - forecasts.mean(0))))
    return tuple(found)


def _covariance(slopes: Array, spread: Array) -> Array:
    """Return the covariance of the steps along slopes that reproduce a spread of forecasts, shape (draws, parameters, parameters).

    Args:
        slopes: shape (draws, points, parameters).
        spread: forecasts of the resamples minus their mean, shape (resamples, points).
    """
    left = np.linalg.inv(slopes.transpose(0, 2, 1) @ slopes / NEARNESS**2 + np.eye(slopes.shape[2]))
    steps = spread @ slopes @ left / NEARNESS**2
    result: Array = steps.transpose(0, 2, 1) @ steps / (len(spread) - 1) + left
    return result


def stages_of(laws: Iterable[Law]) -> tuple[bool, bool]:
    """Tell whether the runs for some laws have a general stage, and whether they have a specialist stage.

    Raises:
        DataError: a law of another loss than the specialist one, or laws of different stages.
    """
    found: dict[tuple[bool, bool], str] = {}
    for law in laws:
        if law.target != "spec":
            raise DataError(f"the law {law.name} is of the {law.target} loss, which no design is for", remedy="take a law of the specialist loss")
        found[law.knows_general, law.knows_special] = law.name
    if len(found) > 1:
        raise DataError(f"the laws {' and '.join(found.values())} are for runs with different stages", remedy="take laws of the same stages (plan laws)")
    return next(iter(found))


def prior_law(given: Candidates, forms: Sequence[str] = FORMS, seed: int = 0) -> FittedLaw:
    """Make a law from start ranges only: draws for which every candidate's loss is below that of an untrained model.

    Args:
        given: the candidate cells; their box is the law's support, their means its reference.
        forms: names of laws.
        seed: of the draws.

    Raises:
        DataError: too few draws of a form give sensible losses on these cells.
    """
    setting = given.setting
    general, special, unique = given.tokens
    params = given.params_by["non_embedding"]
    data = given.rows
    reference = data.reference
    random = np.random.default_rng(seed)
    members = []
    for name in forms:
        law = law_named(name)
        scale = Scale(law)
        points = Points(reference, params, general, special, unique)
        theta = scale.draw(random, 40 * DRAWS)
        with np.errstate(over="ignore", invalid="ignore"):
            loss = law.log_loss(theta, points)
        sensible = np.isfinite(loss).all(1) & (loss.max(1) < np.log(np.log(setting.vocab))) & (loss.min(1) > np.log(0.3))
        if sensible.sum() < DRAWS:
            raise DataError(f"the start ranges of {name} give no sensible losses on these cells", remedy="choose another law with --form")
        theta = theta[sensible][:DRAWS]
        middle = theta[np.argmin((scale.natural(theta) ** 2).sum(1))]
        members.append(
            Member(
                law=law, params_kind="non_embedding", reference=reference, theta=middle, resamples=theta, status="converged", starts=0, starts_agree=0,
                condition=1.0, at_bound=(), ridge=(), objective=0.0,
            )
        )  # fmt: skip
    source = {"recipe": setting.recipe.to_dict(), "vocab_size": setting.vocab}
    return FittedLaw(tuple(members), NOISE, 0.0, Support.of(data), least_loss=0.0, source=source)


def prior_draws(law: FittedLaw) -> tuple[ParameterDraws, ...]:
    """Take draws from a law made by `prior_law`: several vectors, each with the whole spread of the start ranges around it."""
    found = []
    for member in law.members:
        scale = Scale(member.law).deviation
        every = np.tile(np.eye(len(scale)), (PRIOR_DRAWS_A_FORM, 1, 1))
        found.append(ParameterDraws(member.law, member.params_kind, member.reference, member.resamples[:PRIOR_DRAWS_A_FORM], scale, every))
    return tuple(found)
