"""The design of the next runs, and what it is worth beside a naive grid of equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from planner.allocate.allocation import NOTHING
from planner.allocate.bisection import bisect_log
from planner.allocate.request import Request
from planner.arrays import Array
from planner.design.cells import Cell
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.fit.identify import ROWS_PER_PARAMETER, hardly_apart
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
"""The least budget that works is looked for up to this multiple of the one given, or of what a single run takes."""
HALVINGS = 4
"""Of the last doubling, in its logarithm."""
MOST_ROUNDED = 40
"""Steps of 5 % in which it is made a number of two digits that works."""


@dataclass(frozen=True)
class Worth:
    """What is known of the recommendation after some runs."""

    name: str
    cells: int
    """How many endpoints."""
    flops: float
    """Of their tree, evaluation included."""
    deviation_percent: float
    """Of the recommendation's loss around its forecast, as the law is uncertain: root mean square over the worlds."""
    regret_percent: float
    """What the plan that is then chosen gives away on average against the best of the region."""
    criterion: float
    """Mean logarithm of the variance that the criterion counts."""


@dataclass(frozen=True)
class NextRuns:
    """A design and its worth."""

    cells: tuple[Cell, ...]
    flops_alone: float
    """Of the cells, each trained by itself."""
    flops_by_size: dict[float, float]
    """Of each size's part of the tree."""
    before: Worth
    design: Worth
    naive: Worth | None
    """Of the naive grid; None where cells are judged and not chosen."""
    recommended: dict[str, float]
    """The plan at the target as it stands before: params_non_embedding, tokens_pt, tokens_spec, unique_spec, flops; of a base, with its sunk tokens."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Stakes:
    """Candidates, what is known, and the target: all that sets of cells are valued by."""

    given: Candidates
    every: tuple[ParameterDraws, ...]
    target: Target
    information: tuple[Information, ...]
    noise: float
    """Deviation of ln L of a run, as it scatters the estimates of a fit."""
    share: float
    """Of its variance, common to the runs of a trunk."""

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
            share: of the variance of ln L of a run, common to its trunk.
            forms: laws by name, where there is no fit.
            seed: of draws.
            general: the law of the general loss, where that is limited.
            target: plans at the target, where they are known, such as those of bases; found by a search by default.
        """
        known = law or prior_law(given, forms, seed)
        target = target or Target.of(known, request, general)
        every = prior_draws(known) if law is None else draws_of(law, given, target.plans)
        information, noise = [], ABSOLUTE * known.noise
        for worlds in every:
            slopes = worlds.slopes(worlds.points(given.params_by, *given.tokens))
            weight = target.weight(target.slopes(worlds), criterion)
            information.append(Information.of(slopes, worlds.covariance, given.group, noise, share, weight))
        return cls(given, every, target, tuple(information), noise, share)

    def worth(self, name: str, chosen: Any) -> Worth:
        """Value a set of cells, a boolean mask of shape (n,)."""
        spread, regret = [], []
        for worlds, one in zip(self.every, self.information, strict=True):
            slopes = self.target.slopes(worlds)
            after = one.of_parameters(one.covariance(chosen))
            spread.append(deviation(self.target, slopes, after) ** 2)
            regret.append(expected_regret(self.target.log_loss(worlds), slopes, worlds.covariance, after))
        return Worth(
            name, int(np.sum(chosen)), self.given.cost.total(chosen), 100 * float(np.sqrt(_mean(spread))), 100 * _mean(regret),
            mean_criterion(self.information, chosen),
        )  # fmt: skip


def affordable(setting: Setting, flops: float, laws: Sequence[Law], fitted: bool, **axes: Any) -> Candidates:
    """Return the candidates of a budget, if some of them can carry the laws.

    Args:
        setting: recipe, corpus and limits.
        flops: the budget.
        laws: what is to be measured.
        fitted: whether there are rows of a fit beside the new ones.
        axes: of `candidates`.

    Raises:
        DataError: the budget is too small, and the message says the least that works; or no budget helps.
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
    # Whole steps and real shapes make some budgets between two that do fail.
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
            return None, DataError(f"this design cannot carry the law {law.name}: {reason[0]}", remedy=reason[1])
        count, wanted = int(cheapest_first(given.cost, flops).sum()), 1 if fitted else rows_for(law)
        if count < wanted:
            return None, DataError(f"it pays at most {count} runs, and the law {law.name} needs {wanted}", remedy="give more FLOPs")
    return given, None


def rows_for(law: Law) -> int:
    """Return the fewest runs to which a law is fitted."""
    return ceil(ROWS_PER_PARAMETER * len(law.parameters))


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
        fitted: whether there is a fit whose rows will stand beside the new ones; if so, the new ones need not carry a law alone.
        progress: told of the steps.

    Raises:
        DataError: no set of the candidates, or none that the budget pays, can carry the law.
    """
    given = stakes.given
    refuse_collinear(given, stakes.every, stakes.noise, stakes.share)
    found = choose(stakes.information, given.cost, flops, progress)
    if not found.chosen.any():
        raise DataError(f"{flops:.3g} FLOPs pay none of {len(given)} candidates", remedy=f"give at least {float(given.cost.alone.min()):.2g} FLOPs")
    warnings = []
    chosen = given.subset(found.chosen)
    if fitted:
        reason = against_axes(chosen, stakes.every[0].law)
        if reason:
            warnings.append(f"fit these runs together with those of the law (plan fit … --with …): alone they could not carry it, since {reason[0]}")
    else:
        most = max(rows_for(worlds.law) for worlds in stakes.every)
        if len(chosen) < most:
            what = f"the best {len(chosen)} runs for {flops:.3g} FLOPs are fewer than the {most} that a fit of the law needs"
            raise DataError(what, remedy=f"give about {flops * most / len(chosen):.1e} FLOPs, or name a --form with fewer parameters")
        refuse_collinear(chosen, stakes.every, stakes.noise, stakes.share)
        warnings += _weak(stakes, chosen)
    naive = naive_grid(given, flops, stakes.information)
    return _report(stakes, found.chosen, stakes.worth("naive grid", naive.chosen), warnings)


def no_runs(stakes: Stakes) -> NextRuns | None:
    """Return a design of no runs where what is recommended now gives next to nothing away, so that none could save more; None where some may."""
    nothing = np.zeros(len(stakes.given), dtype=bool)
    before = stakes.worth("before", nothing)
    if before.regret_percent >= NOTHING:
        return None
    why = (
        f"no run would change this decision, as far as the law's form holds: over its refits the plan gives away less than {NOTHING:g} % on average "
        f"already, and no runs are proposed; those that would narrow its forecast, of a deviation of {before.deviation_percent:.2g} % now, are chosen by "
        "plan sweep design --criterion I"
    )
    return _report(stakes, nothing, None, [why])


def judge(stakes: Stakes) -> NextRuns:
    """Value all candidates as one design, such as a sweep's own grid.

    Raises:
        DataError: the cells cannot carry the law.
    """
    refuse_collinear(stakes.given, stakes.every, stakes.noise, stakes.share)
    return _report(stakes, np.ones(len(stakes.given), dtype=bool), None, _weak(stakes, stakes.given))


def _weak(stakes: Stakes, given: Candidates) -> list[str]:
    """Say which effects a design of two stages would hardly tell apart."""
    two_stage = any(worlds.law.stages == 2 for worlds in stakes.every)
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
