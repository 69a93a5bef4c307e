"""Runs as the arrays that a fit works on, and the refusals of tables that cannot carry one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.errors import DataError, PlannerWarning
from planner.laws import Points, Reference
from planner.laws.dual import Array
from planner.runs import one_recipe, usable

if TYPE_CHECKING:
    from pandas import DataFrame

PARAMS_KINDS = {"non_embedding": "params_non_embedding", "total": "params_total"}
"""What N may be, and the column it is read from; the first is what people are told."""
MIN_SIZES = 3
MIN_ROWS = 8


@dataclass(frozen=True)
class FitData:
    """The rows of a fit; every array has shape (runs,)."""

    run_ids: list[str]
    params_by: Mapping[str, Array]
    """Parameters by convention: "non_embedding", and "total" where the table has it."""
    tokens_pt: Array
    tokens_spec: Array
    unique_spec: Array
    """NaN where tokens_spec is zero."""
    log_loss: Array
    flops: Array
    """Exact where the table has it, else 6·N·D."""
    cluster: Any
    """Number of the trunk a row belongs to, shape (runs,); rows of one trunk are resampled together."""
    replicate_sd: float | None
    """Deviation of ln L between seeds of the same cell; None without replicates."""
    params_kind: str = "non_embedding"
    """The convention that N follows."""

    @property
    def params(self) -> Array:
        """N [parameters], as `params_kind` says."""
        return self.params_by[self.params_kind]

    def under(self, params_kind: str) -> FitData:
        """Return the same rows under another convention of N."""
        return replace(self, params_kind=params_kind)

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.params)

    @property
    def two_stage(self) -> bool:
        """Whether there is any specialist training."""
        return bool((self.tokens_spec > 0).any())

    @property
    def epochs(self) -> Array:
        """Passes over the distinct specialist text; 0 where there is none."""
        result: Array = np.where(self.tokens_spec > 0, self.tokens_spec / np.where(self.tokens_spec > 0, self.unique_spec, 1.0), 0.0)
        return result

    def points(self, reference: Reference) -> Points:
        """Return the rows as points of a law."""
        return Points(reference, self.params, self.tokens_pt, self.tokens_spec, self.unique_spec)

    @property
    def reference(self) -> Reference:
        """N0 and D0: geometric means, to two digits."""
        return Reference(_round(np.exp(np.log(self.params).mean())), _round(np.exp(np.log(self.tokens_pt + self.tokens_spec).mean())))

    def rows(self, chosen: Any) -> FitData:
        """Return the rows of a boolean mask."""
        ids = [name for name, keep in zip(self.run_ids, chosen, strict=True) if keep]
        return FitData(
            ids, {kind: values[chosen] for kind, values in self.params_by.items()},
            self.tokens_pt[chosen], self.tokens_spec[chosen], self.unique_spec[chosen], self.log_loss[chosen],
            self.flops[chosen], self.cluster[chosen], self.replicate_sd, self.params_kind,
        )  # fmt: skip


def fit_data(frame: DataFrame, keep: tuple[str, ...] = ()) -> FitData:
    """Take the rows without a flag.

    Args:
        frame: a runs table as `read_runs` returns it.
        keep: flags that do not keep a row out.

    Raises:
        DataError: too few rows or sizes, mixed recipes or kinds of branch, or annealed and stable parents.
    """
    import pandas as pd

    rows = usable(frame, keep)
    one_recipe(rows)
    if len(rows) < MIN_ROWS:
        raise DataError(f"only {len(rows)} of {len(frame)} runs can be used for a fit (the rest are flagged)", remedy=f"train at least {MIN_ROWS}")
    if (rows["branch_kind"] == "annealed").any() and (rows["branch_kind"] == "stable").any():
        raise DataError("the runs mix branches off annealed and off stable models", remedy="fit one kind at a time")
    if (rows["replay_fraction"].fillna(0) > 0).any():
        raise DataError("some runs replay general text in the specialist stage, which no law here describes", remedy="fit the rows with replay_fraction 0")
    known = {kind: rows[column].to_numpy(float) for kind, column in PARAMS_KINDS.items() if not rows[column].isna().any()}
    params = known["non_embedding"]
    sizes = len(np.unique(np.round(np.log(params), 2)))
    if sizes < MIN_SIZES:
        raise DataError(f"the runs have {sizes} distinct model sizes, and a law in size needs {MIN_SIZES}", remedy="train more sizes, best five")
    if params.max() / params.min() < 9:
        warnings.warn(
            f"model sizes span a factor of only {params.max() / params.min():.1f}: the size exponent is poorly determined", PlannerWarning, stacklevel=2
        )
    pt, spec = rows["tokens_pt"].to_numpy(float), rows["tokens_spec"].to_numpy(float)
    epochs = rows["epochs_spec"].fillna(0).to_numpy(float)
    if (spec > 0).any():
        _check_two_stages(pt, spec, epochs)
    keys = rows["trunk_id"].fillna("").astype(str) + "|" + rows["seed"].astype(str)
    keys = keys.where(rows["trunk_id"].fillna("") != "", rows["run_id"].astype(str))
    flops = rows["flops"].fillna(6.0 * rows["params_non_embedding"] * (pt + spec)).to_numpy(float)
    log_loss = np.log(rows["loss_spec"].to_numpy(float))
    return FitData(
        list(rows["run_id"].astype(str)), known, pt, spec, rows["unique_spec"].to_numpy(float), log_loss, flops, pd.factorize(keys)[0],
        _replicate_sd(rows, log_loss),
    )  # fmt: skip


def _check_two_stages(pt: Array, spec: Array, epochs: Array) -> None:
    both = (pt > 0) & (spec > 0)
    if len(np.unique(np.round(np.log(spec[spec > 0]), 2))) < 2 or len(np.unique(pt)) < 2:
        raise DataError("the runs have one value of tokens_pt or of tokens_spec", remedy="vary both, best five values each")
    if both.sum() > 2 and np.ptp(np.log(spec[both] / pt[both])) < 0.05 and both.sum() == (spec > 0).sum():
        raise DataError("every run has the same tokens_spec / tokens_pt, so their effects cannot be told apart", remedy="vary the ratio")
    if epochs.max() < 1.05:
        warnings.warn("no run repeats its specialist text: what more than one epoch does is not measured", PlannerWarning, stacklevel=3)


def _replicate_sd(rows: DataFrame, log_loss: Array) -> float | None:
    """Pool the deviation of ln L over groups that differ in the seed only."""
    # Distinct tokens are whole documents, so equal caps give equal counts.
    names = ["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "recipe"]
    groups = rows.assign(_log=log_loss).groupby(names, dropna=False)
    total = freedom = 0.0
    for _, group in groups:
        if group["seed"].nunique() > 1:
            total += float(((group["_log"] - group["_log"].mean()) ** 2).sum())
            freedom += len(group) - 1
    return float(np.sqrt(total / freedom)) if freedom >= 3 else None


def _round(value: float) -> float:
    return float(f"{value:.2g}")
