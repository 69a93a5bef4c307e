"""Fit the worth of early specialist text to the runs that have it in their general stage."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from planner.arrays import Array
from planner.errors import PlannerWarning
from planner.fit.data import PARAMS_KINDS, early
from planner.fit.early import Early
from planner.fit.fitted import FittedLaw
from planner.laws import Points
from planner.method import Method
from planner.runs import usable

if TYPE_CHECKING:
    from pandas import DataFrame

FARTHEST = 3.0
"""Distance of the runs from the law at their best worth [% of the loss] above which no worth is kept; or four times the noise, if that is more."""
LEAST_ROWS = 3
"""Fewest runs without a specialist stage to fit the worth to."""
WORTHS = np.exp(np.linspace(np.log(0.02), np.log(20.0), 139))
"""Values that are tried; between them the squared error is interpolated by a parabola."""


def with_early(law: FittedLaw, frame: DataFrame, keep: tuple[str, ...] = (), seed: int = 0) -> FittedLaw:
    """Return the law with the worth of early text, where its table has enough runs without a specialist stage to measure it.

    Args:
        law: fitted to the table's other runs.
        frame: the runs table.
        keep: flags that do not keep a row out.
        seed: of the resamples of the runs.
    """
    rows = usable(frame, keep)
    rows = rows[early(rows) & rows["loss_spec"].notna() & (rows["replay_fraction"].fillna(0) == 0)]
    # The method is that of the specialist stage, which a mixed run does not have.
    without_stage = rows["branch_kind"] == "mixed"
    method = str(law.source.get("method", "full"))
    mixed = rows[without_stage]
    rows = rows[without_stage | (rows["method"].astype(object).fillna("full") == method)]
    another = Method(method).both or any(member.law.stages != 2 or member.law.target != "spec" for member in law.members)
    if another or len(mixed) < LEAST_ROWS:
        if len(rows):
            left = f"{len(rows)} runs with specialist text in their general stage are left out of the fit"
            if not another:
                left += f": its worth is fitted to {LEAST_ROWS} or more runs without a specialist stage (tokens_spec = 0), and the table has {len(mixed)}"
            warnings.warn(left, PlannerWarning, stacklevel=2)
        return law
    at = _Rows(law, mixed)
    # Each trunk is a single run here, so runs are resampled one by one; with smooth weights, since they are few.
    random = np.random.default_rng([seed, 2])
    values, points = [], []
    for number, member in enumerate(law.members):
        grid = at.grid(number)
        weights = random.exponential(size=(len(member.resamples), len(mixed)))
        values.append(_least(member.law.log_loss(member.resamples, grid), at.measured, weights))
        points.append(float(_least(member.log_loss(grid)[None], at.measured, np.ones((1, len(mixed))))[0]))
    worth, shares = float(np.mean(points)), mixed["early_fraction"]
    off = at.off_percent(worth)
    if not WORTHS[1] < worth < WORTHS[-2] or off > max(FARTHEST, 400 * law.noise):
        warnings.warn(
            f"no worth of early specialist text fits the {len(mixed)} runs that have it: at best they scatter by {off:.2g} % around the law",
            PlannerWarning, stacklevel=2,
        )  # fmt: skip
        return law
    stages = rows[rows["branch_kind"] != "mixed"]
    off_stages = _Rows(law, stages).off_percent(worth) if len(stages) else None
    early_text = Early(worth, np.concatenate(values), off, len(mixed), float(shares.min()), float(shares.max()), off_stages)
    return replace(law, early=early_text)


class _Rows:
    """Runs with early text, as points of a law for a given worth."""

    def __init__(self, law: FittedLaw, rows: DataFrame) -> None:
        self._law = law
        self.measured = np.log(rows["loss_spec"].to_numpy(float))
        """ln L, shape (rows,)."""
        share = rows["early_fraction"].to_numpy(float)
        self._pt, self._unique = rows["tokens_pt"].to_numpy(float), rows["unique_spec"].to_numpy(float)
        self._early = self._pt * share / (1 - share)
        self._late = np.maximum(rows["tokens_spec"].to_numpy(float) - self._early, 0.0)
        self._late[rows["branch_kind"] == "mixed"] = 0.0
        self._params = {kind: rows[column].to_numpy(float) for kind, column in PARAMS_KINDS.items()}

    def off_percent(self, worth: float) -> float:
        """Return the root mean square distance from the law at one worth [% of the loss]."""
        points = self._law.points(self._params, self._pt, self._late + worth * self._early, self._unique)
        return 100 * float(np.sqrt(((self._law.log_loss(points) - self.measured) ** 2).mean()))

    def grid(self, member: int) -> Points:
        """Prepare the runs at all worths for one member, the worths on the outer axis."""
        count = len(WORTHS)
        params = {kind: np.tile(values, count) for kind, values in self._params.items()}
        spec = (self._late + WORTHS[:, None] * self._early).ravel()
        return self._law.points(params, np.tile(self._pt, count), spec, np.tile(self._unique, count))[member]


def _least(forecast: Array, measured: Array, weights: Array) -> Array:
    """Return the worth of the least weighted sum of squares, for each row of forecasts, shape (resamples,)."""
    off = forecast.reshape(len(forecast), len(WORTHS), -1) - measured
    squares = np.einsum("kwr,kr->kw", off**2, weights)
    middle = np.clip(squares.argmin(1), 1, len(WORTHS) - 2)
    before, here, after = (np.take_along_axis(squares, (middle + step)[:, None], 1)[:, 0] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(bend > 0, 0.5 * (before - after) / bend, 0.0)
    width = np.log(WORTHS[1] / WORTHS[0])
    result: Array = WORTHS[middle] * np.exp(width * np.clip(step, -1, 1))
    return result
