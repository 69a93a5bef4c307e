"""The design of the next runs, and its worth compared with a naive grid of equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.allocate.allocation import NOTHING
from planner.allocate.bisection import bisect_log
from planner.allocate.request import Request
from planner.arrays import Array
from planner.design.cells import Cell
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.identify import hardly_apart, rows_for
from planner.fit.select import Progress
from planner.flags import OVERFITTED
from planner.laws import Law
from planner.next_runs.belief import FORMS, ParameterDraws, draws_of, prior_draws, prior_law
from planner.next_runs.candidates import Candidates, Setting, candidates, least_budget
from planner.next_runs.choose import cheapest_first, choose, naive_grid
from planner.next_runs.collinear import against_axes, refuse_collinear
from planner.next_runs.information import ABSOLUTE, TRUNK_SHARE, Information, mean_criterion
from planner.next_runs.target import Target, deviation, expected_regret

MOST_TIMES = 1e7
"""Largest multiple, of the given budget or that of a single run, up to which the least sufficient budget is searched."""
HALVINGS = 4
"""Halvings of the last doubling of the budget, in its logarithm."""
MOST_ROUNDED = 40
"""Steps of 5 % in which a two-digit budget that works is searched."""


@dataclass(frozen=True)
class Worth:
    """Uncertainty of the recommendation after some runs."""

    name: str
    cells: int
    """Number of endpoints."""
    flops: float
    """FLOPs of their tree, evaluation included."""
    deviation_percent: float
    """Standard deviation of the recommendation's loss from the uncertainty of the law: root mean square over the draws [%]."""
    regret_percent: float
    """Expected regret of the plan chosen after these runs, against the best of the target region [%]."""
    criterion: float
    """Mean logarithm of the variance in the criterion."""


@dataclass(frozen=True)
class NextRuns:
    """A design and its worth."""

    cells: tuple[Cell, ...]
    flops_alone: float
    """FLOPs of the cells if each were trained by itself."""
    flops_by_size: dict[float, float]
    """FLOPs of each size's part of the tree."""
    before: Worth
    design: Worth
    naive: Worth | None
    """Worth of the naive grid; None if given cells are judged."""
    recommended: dict[str, float]
    """The recommendation before these runs: params_non_embedding, tokens_pt, tokens_spec, unique_spec, flops; for a base, with its sunk tokens."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Stakes:
    """Candidates, prior knowledge and target: all that determines the worth of a set of cells."""

    given: Candidates
    every: tuple[ParameterDraws, ...]
    target: Target
    information: tuple[Information, ...]
    noise: float
    """Effective standard deviation of ln L of a run for the estimates of a fit."""
    share: float
    """Share of its variance common to the runs of a trunk."""

    @classmethod
    def of(
        cls, given: Candidates, law: FittedLaw | None, request: Request, *, criterion: str = "V", share: float = TRUNK_SHARE,
        forms: Sequence[str] = FORMS, seed: int = 0, general: FittedLaw | None = None, target: Target | None = None,
    ) -> Stakes:  # fmt: skip
        """Prepare a design.

        Args:
            given: the candidate cells.
            law: the fit so far; None to design from the start ranges of `forms`.
            request: target budget, distinct text and limits.
            criterion: "V", "I" or "D", see `target.CRITERIA`.
            share: share of the variance of ln L of a run that is common to its trunk.
            forms: laws by name, if there is no fit.
            seed: of draws.
            general: the law of the general loss, if that is limited.
            target: plans at the target if known, such as those of bases; by default found by a search.
        """
        known = law or prior_law(given, forms, seed)
        target = target or Target.of(known, request, general)
        every = prior_draws(known) if law is None else draws_of(law, given, target.plans)
        information, noise = [], ABSOLUTE * known.noise
        for draws in every:
            slopes = draws.slopes(draws.points(given.params_by, *given.tokens))
            weight = target.weight(target.slopes(draws), criterion)
            information.append(Information.of(slopes, draws.covariance, given.group, noise, share, weight))
        return cls(given, every, target, tuple(information), noise, share)

    def worth(self, name: str, chosen: Any) -> Worth:
        """Evaluate a set of cells, a boolean mask of shape (n,)."""
        spread, regret = [], []
        for draws, one in zip(self.every, self.information, strict=True):
            slopes = self.target.slopes(draws)
            after = one.of_parameters(one.covariance(chosen))
            spread.append(deviation(self.target, slopes, after) ** 2)
            regret.append(expected_regret(self.target.log_loss(draws), slopes, draws.covariance, after))
        return Worth(
            name, int(np.sum(chosen)), self.given.cost.total(chosen), 100 * float(np.sqrt(_mean(spread))), 100 * _mean(regret),
            mean_criterion(self.information, chosen),
        )  # fmt: skip


def affordable(setting: Setting, flops: float, laws: Sequence[Law], fitted: bool, **axes: Any) -> Candidates:
    """Return the candidates for a budget, if they can determine the laws.

    Args:
        setting: recipe, corpus and limits.
        flops: the budget.
        laws: the laws to measure.
        fitted: whether there are rows of a fit in addition to the new ones.
        axes: arguments of `candidates`.

    Raises:
        DataError: the budget is too small, and the message names the least that works; or no budget helps.
    """
    given, error = _attempt(setting, flops, laws, fitted, axes)
    if given is not None:
        return given
    assert error is not None
    low, high = flops, max(2 * flops, least_budget(setting))
    most = MOST_TIMES * high
    while _attempt(setting, high, laws, fitted, axes)[0] is None:
        low, high = high, 2 * high
        if high > most:
            raise error
    _, high = bisect_log(low, high, lambda budget: _attempt(setting, budget, laws, fitted, axes)[0] is not None, HALVINGS)
    # Because of whole steps and shapes, some budgets between two that work may fail.
    rounded = (float(f"{1.05**power * high:.1e}") for power in range(1, MOST_ROUNDED))
    least = next((number for number in rounded if _attempt(setting, number, laws, fitted, axes)[0] is not None), high)
    raise DataError(f"{flops:.3g} FLOPs are too few for a tree of runs: {error.message}", remedy=f"give at least {least:g} FLOPs") from error


def _attempt(setting: Setting, flops: float, laws: Sequence[Law], fitted: bool, axes: dict[str, Any]) -> tuple[Candidates | None, DataError | None]:
    try:
        given = candidates(setting, flops, **axes)
    except DataError as error:
        return None, error
    for law in laws:
        reason = against_axes(given, law)
        if reason:
            return None, DataError(f"this design cannot determine the law {law.name}: {reason[0]}", remedy=reason[1])
        count, wanted = int(cheapest_first(given.cost, flops).sum()), 1 if fitted else rows_for(law)
        if count < wanted:
            return None, DataError(f"it pays for at most {count} runs, but the law {law.name} needs {wanted}", remedy="give more FLOPs")
    return given, None


def without_overfitted(given: Candidates, law: FittedLaw) -> Candidates:
    """Leave out cells that a law forecasts to be over-fitted: the runs table would flag them, and no fit would use them."""
    loss = np.exp(law.log_loss(law.points(given.params_by, *given.tokens)))
    least: dict[tuple[float, ...], float] = {}
    kept = np.ones(len(given), dtype=bool)
    for number in np.argsort(given.tokens[1], kind="stable"):
        cell = given.cells[number]
        if cell.unique_spec is not None:
            key = (cell.size, cell.tokens_pt, cell.unique_spec)
            kept[number] = loss[number] <= OVERFITTED * least.get(key, np.inf)
            least[key] = min(least.get(key, np.inf), float(loss[number]))
    return given.subset(kept)


def design_runs(stakes: Stakes, flops: float, *, fitted: bool, progress: Progress | None = None) -> NextRuns:
    """Choose the next runs.

    Args:
        stakes: candidates, law and target.
        flops: the budget [FLOPs].
        fitted: whether the new runs will be fitted together with those of a fit; if so, they need not determine a law alone.
        progress: called with the steps.

    Raises:
        DataError: no set of the candidates, or none within the budget, can determine the law.
    """
    given = stakes.given
    refuse_collinear(given, stakes.every, stakes.noise, stakes.share)
    found = choose(stakes.information, given.cost, flops, progress)
    if not found.chosen.any():
        raise DataError(f"{flops:.3g} FLOPs pay for none of {len(given)} candidates", remedy=f"give at least {float(given.cost.alone.min()):.2g} FLOPs")
    warnings = []
    chosen = given.subset(found.chosen)
    if fitted:
        reason = against_axes(chosen, stakes.every[0].law)
        if reason:
            warnings.append(f"fit these runs together with those of the law (plan fit … --with …): alone they cannot determine it, since {reason[0]}")
    else:
        most = max(rows_for(draws.law) for draws in stakes.every)
        if len(chosen) < most:
            what = f"the best {len(chosen)} runs for {flops:.3g} FLOPs are fewer than the {most} that a fit of the law needs"
            raise DataError(what, remedy=f"give about {flops * most / len(chosen):.1e} FLOPs, or name a --form with fewer parameters")
        refuse_collinear(chosen, stakes.every, stakes.noise, stakes.share)
        warnings += _weak(stakes, chosen)
    naive = naive_grid(given, flops, stakes.information)
    return _report(stakes, found.chosen, stakes.worth("naive grid", naive.chosen), warnings)


def no_runs(stakes: Stakes) -> NextRuns | None:
    """Return a design without runs if the present recommendation has almost no regret, so that no run could save more; None if some may."""
    nothing = np.zeros(len(stakes.given), dtype=bool)
    before = stakes.worth("before", nothing)
    if before.regret_percent >= NOTHING:
        return None
    why = (
        f"no run would change this decision, as far as the law's form holds: the expected regret of the plan over its refits is already below "
        f"{NOTHING:g} %, so no runs are proposed; to narrow its forecast, whose deviation is now {before.deviation_percent:.2g} %, choose runs with "
        "plan sweep design --criterion I"
    )
    return _report(stakes, nothing, None, [why])


def judge(stakes: Stakes) -> NextRuns:
    """Evaluate all candidates as one design, such as a sweep's own grid.

    Raises:
        DataError: the cells cannot determine the law.
    """
    refuse_collinear(stakes.given, stakes.every, stakes.noise, stakes.share)
    return _report(stakes, np.ones(len(stakes.given), dtype=bool), None, _weak(stakes, stakes.given))


def _weak(stakes: Stakes, given: Candidates) -> list[str]:
    """Say which effects a two-stage design would hardly separate."""
    two_stage = any(draws.law.stages == 2 for draws in stakes.every)
    return hardly_apart(given.params_by["non_embedding"], *given.tokens[:2]) if two_stage else []


def _report(stakes: Stakes, chosen: Any, naive: Worth | None, warnings: Sequence[str]) -> NextRuns:
    given, target = stakes.given, stakes.target
    cells = given.subset(chosen).cells
    sizes = np.array([cell.size for cell in given.cells])
    by_size = {float(size): given.cost.total(chosen & (sizes == size)) for size in np.unique(sizes[chosen])}
    plan = {
        "params_non_embedding": float(target.plans.params[target.best]), "tokens_pt": float(target.plans.tokens_pt[target.best]),
        "tokens_spec": float(target.plans.tokens_spec[target.best]), "unique_spec": float(target.plans.unique_spec[target.best]),
        "flops": float(target.plans.flops[target.best]),
    }  # fmt: skip
    nothing = np.zeros(len(given), dtype=bool)
    return NextRuns(
        cells, float(given.cost.alone[chosen].sum()), by_size, stakes.worth("before", nothing), stakes.worth("this design", chosen), naive, plan,
        tuple(warnings),
    )  # fmt: skip


def _mean(every: Sequence[Array]) -> float:
    return float(np.concatenate(every).mean())
