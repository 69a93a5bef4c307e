"""Runs as the arrays that a fit works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, InputError
from planner.flags import ONE_PASS, flagged
from planner.laws import Law, Points, Reference
from planner.method import METHODS, Method
from planner.runs import flops_of, one_recipe, usable

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TARGETS = {"spec": "loss_spec", "general": "loss_general"}
"""Held-out losses that a law can describe, and their columns."""
SCARCE = 0.01
"""Ratio of specialist to all tokens (geometric means) below which specialist tokens have a unit of their own; 0.03 to 0.4 in recorded sweeps."""
MIN_ROWS = 8
"""Fewest rows for any fit."""
PARAMS_KINDS = {"non_embedding": "params_non_embedding", "total": "params_total"}
"""Conventions of N, and their columns; messages state sizes in the first."""


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
    """Standard deviation of ln L between seeds of the same cell; None without replicates."""
    params_kind: str = "non_embedding"
    """The convention that N follows."""
    target: str = "spec"
    """Which loss it is, a key of `TARGETS`."""
    replay_fraction: Array | None = None
    """Share of general tokens in the specialist stage; None where no run replays."""
    replaying: int = 0
    """Number of runs left out because they replay general text, which no law of the specialist loss describes."""
    of_others: int = 0
    """Number of runs left out because another method trained them: a law describes one method."""
    guessed_trunks: bool = False
    """Whether some two-stage rows name no trunk, so that rows of equal size, general tokens and seed are taken as branches of one."""

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
        """Whether there are both general and specialist tokens."""
        return bool((self.tokens_spec > 0).any() and (self.tokens_pt > 0).any())

    @property
    def repeats(self) -> bool:
        """Whether this is a one-stage table with distinct tokens and passes: specialist tokens only."""
        return bool((self.tokens_spec > 0).any() and not (self.tokens_pt > 0).any())

    @property
    def repeated(self) -> bool:
        """Whether some run passes over its distinct text more than once."""
        return bool((self.epochs > ONE_PASS).any())

    def suits(self, law: Law) -> bool:
        """Tell whether a law is made for this kind of table and for this loss."""
        if law.target != self.target:
            return False
        if self.two_stage or law.stages == 2:
            return self.two_stage and law.stages == 2
        # Where no run repeats its corpus, a law without repetition describes the runs too.
        return law.repeats == self.repeats or (self.repeats and not self.repeated)

    @property
    def epochs(self) -> Array:
        """Passes over the distinct specialist text; 0 where there is none."""
        result: Array = np.where(self.tokens_spec > 0, self.tokens_spec / np.where(self.tokens_spec > 0, self.unique_spec, 1.0), 0.0)
        return result

    def points(self, reference: Reference) -> Points:
        """Return the rows as points of a law."""
        replay = 0.0 if self.replay_fraction is None else self.replay_fraction
        return Points(reference, self.params, self.tokens_pt, self.tokens_spec, self.unique_spec, replay)

    @property
    def reference(self) -> Reference:
        """N0 and D0: geometric means, to two digits; where specialist tokens are scarce also S0: four times their geometric mean."""
        tokens = _round(np.exp(np.log(self.tokens_pt + self.tokens_spec).mean()))
        special = float(np.exp(np.log(self.tokens_spec[self.tokens_spec > 0]).mean())) if self.two_stage else tokens
        return Reference(_round(np.exp(np.log(self.params).mean())), tokens, _round(4 * special) if special < SCARCE * tokens else None)

    def rows(self, chosen: Any) -> FitData:
        """Return the rows that a boolean mask selects."""
        ids = [name for name, keep in zip(self.run_ids, chosen, strict=True) if keep]
        return replace(
            self, run_ids=ids, params_by={kind: values[chosen] for kind, values in self.params_by.items()}, tokens_pt=self.tokens_pt[chosen],
            tokens_spec=self.tokens_spec[chosen], unique_spec=self.unique_spec[chosen], log_loss=self.log_loss[chosen], flops=self.flops[chosen],
            cluster=np.unique(self.cluster[chosen], return_inverse=True)[1],
            replay_fraction=None if self.replay_fraction is None else self.replay_fraction[chosen],
        )  # fmt: skip


def fit_data(frame: DataFrame, keep: tuple[str, ...] = (), target: str = "spec", method: str = "full") -> FitData:
    """Collect the rows without a flag.

    Args:
        frame: a runs table as `read_runs` returns it.
        keep: flags that do not keep a row out.
        target: "spec" or "general": which held-out loss to fit.
        method: how the runs were trained; those of other methods are left out. A run without a specialist stage counts for each method with its general
            stage.

    Raises:
        DataError: no rows, none of the method, mixed recipes, annealed and stable parents mixed, or replay in every specialist stage.
        InputError: no such target.
    """
    import pandas as pd

    if target not in TARGETS:
        raise InputError(f"--target {target!r} is not a loss of the table", remedy=f"choose one of {', '.join(TARGETS)}")
    rows = usable(frame, keep)
    unflagged = len(rows)
    rows = rows[rows[TARGETS[target]].notna()]
    if len(rows) and early(rows).all():
        what = f"all {len(rows)} unflagged runs have specialist text in their general stage (early_fraction), and no law can be fitted to such runs alone"
        raise DataError(what, remedy="train some runs without it, or leave early_fraction empty if the column means something else")
    rows = rows[~early(rows)].reset_index(drop=True)
    every, rows = len(rows), of_method(rows, method)
    if rows.empty and (frame["status"] == "diverged").all():
        raise DataError(f"all {len(frame)} runs diverged, and none has a loss to fit", remedy="fix the recipe, the learning rate first, and run again")
    if rows.empty or (len(rows) < MIN_ROWS and 2 * unflagged <= len(frame)):  # it is the flags that leave too few
        named = flagged(frame)
        said = ", ".join(f"{len(runs)} {flag}" for flag, runs in named.items()) or "none is flagged"
        held = {flag for text in frame["flags"][frame[TARGETS[target]].notna()] for flag in str(text).split(";")}
        flag = next((name for name in named if name != "diverged" and name in held), None)
        remedy = f"if the flagged rows are sound, fit them with --keep {flag}" if flag else f"give rows with a {TARGETS[target]}"
        if flag == "under_2_tokens_per_parameter":
            remedy = f"if tokens are in thousands, millions or billions, write them in full, or as 30B; {remedy}"
        few = "none" if rows.empty else f"only {len(rows)}"
        raise DataError(f"{few} of {len(frame)} runs {'has' if len(rows) < 2 else 'have'} a {TARGETS[target]} and no flag: {said}", remedy=remedy)
    one_recipe(rows)
    if (rows["branch_kind"] == "annealed").any() and (rows["branch_kind"] == "stable").any():
        raise DataError("the runs mix branches off annealed and off stable models", remedy="fit one kind at a time")
    of_others = every - len(rows)
    replays, replaying = (rows["replay_fraction"] > 0) & (rows["tokens_spec"] > 0), 0
    if target == "spec" and replays.any():
        if (replaying := int(replays.sum())) == (rows["tokens_spec"] > 0).sum():
            what = f"all {replaying} runs with a specialist stage replay general text in it, which no law of the specialist loss describes"
            raise DataError(what, remedy="train some without replay, or fit the general loss with --target general")
        rows = rows[~replays].reset_index(drop=True)
    replay = rows["replay_fraction"].fillna(0).to_numpy(float)
    known = {kind: rows[column].to_numpy(float) for kind, column in PARAMS_KINDS.items() if not rows[column].isna().any()}
    pt, spec = rows["tokens_pt"].to_numpy(float), rows["tokens_spec"].to_numpy(float)
    keys, guessed = _trunks(rows)
    log_loss = np.log(rows[TARGETS[target]].to_numpy(float))
    return FitData(
        list(rows["run_id"].astype(str)), known, pt, spec, rows["unique_spec"].to_numpy(float), log_loss, flops_of(rows).to_numpy(float),
        pd.factorize(keys)[0], _replicate_sd(rows, log_loss), target=target, replay_fraction=replay if target != "spec" and (replay > 0).any() else None,
        replaying=replaying, of_others=of_others, guessed_trunks=guessed,
    )  # fmt: skip


def _trunks(rows: DataFrame) -> tuple[Series, bool]:
    """Return a key of trunk, size and seed for each row, and whether some trunks are guessed.

    A trunk has one size: where a table gives all rows one trunk name, such as that of a branch, each size still counts as a trunk of its own.
    Rows that name no trunk, agree in size, general tokens and seed, and include one with a specialist stage are taken as branches of one trunk: taken as
    independent, they would make intervals too narrow, since they share the trunk's noise. One-stage rows are trunks of their own.
    """
    import pandas as pd

    trunk = rows["trunk_id"].map(lambda name: "" if pd.isna(name) else str(name))
    # A missing seed becomes an empty string: left missing, it would make the whole key missing, and all such rows one trunk.
    seed = rows["seed"].map(lambda value: "" if pd.isna(value) else str(value))
    size = rows["params_non_embedding"].map(repr)
    cell = size + "|" + rows["tokens_pt"].map(repr) + "|" + seed
    unnamed = (trunk == "") & (rows["tokens_pt"] > 0)
    branching = set(cell[unnamed & (rows["tokens_spec"] > 0)])
    shared = unnamed & cell.isin(branching)
    keys = (trunk + "|" + size + "|" + seed).where(trunk != "", rows["run_id"].astype(str)).mask(shared, "of|" + cell)
    return keys, bool(cell[shared].duplicated().any())


def of_method(frame: DataFrame, method: str) -> DataFrame:
    """Return the runs of one method, and the runs without a specialist stage that share its general stage; a law describes one method.

    Raises:
        InputError: no such method.
        DataError: the table has runs of other methods only.
    """
    if method not in METHODS:
        raise InputError(f"--method {method!r} is not known", remedy=f"choose one of {', '.join(METHODS)}")
    names, special = frame["method"].astype(object).fillna("full"), frame["tokens_spec"] > 0
    # A foreign table may name a method for a run without a specialist stage, or an unknown one: its general stage then counts as full.
    general = names.map(lambda name: name if name in METHODS and Method(name).both else "full")
    kept = frame[(names == method) | (~special & (general == Method(method).general.name))].reset_index(drop=True)
    found, stage = (sorted(set(names[special])), "specialist") if special.any() else (sorted(set(general)), "general")
    if len(frame) and (kept.empty or method not in found):
        known = next((name for name in found if name in METHODS), None)
        remedy = f"fit with --method {known}" if known else f"name it in the table as one of {', '.join(METHODS)}"
        raise DataError(f"no run trained its {stage} stage with method {method}; the table has {', '.join(found)}", remedy=remedy)
    return kept


def early(frame: DataFrame) -> Series:
    """Tell which runs mix specialist text into the general stage; laws are fitted to the others."""
    return frame["early_fraction"].fillna(0) > 0


def _replicate_sd(rows: DataFrame, log_loss: Array) -> float | None:
    """Pool the standard deviation of ln L over groups of runs that differ in the seed only."""
    # Distinct tokens are whole documents, so equal caps give equal counts.
    names = ["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "replay_fraction", "learning_rate", "recipe"]
    cells = rows.assign(_log=log_loss).groupby(names, dropna=False)
    cells = cells.agg(seeds=("seed", "nunique"), size=("_log", "size"), variance=("_log", "var"))
    cells = cells[cells["seeds"] > 1]
    freedom = cells["size"] - 1
    return float(np.sqrt((cells["variance"] * freedom).sum() / freedom.sum())) if freedom.sum() >= 3 else None


def _round(value: float) -> float:
    return float(f"{value:.2g}")
