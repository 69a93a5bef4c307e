"""Backtest: at each compute cut-off fit the runs below, forecast those above, and compute the regret of the law's choices among them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.arrays import Array
from planner.artifacts import read_artifact, whole, write_artifact
from planner.decisions import HINDSIGHT, PLAN, Decision, decide
from planner.errors import DataError, InputError
from planner.fit.data import PARAMS_KINDS, FitData, early, fit_data, of_method
from planner.fit.fit import RESAMPLES, fit
from planner.fit.fitted import FittedLaw
from planner.fit.select import Progress
from planner.flags import judge_alone, judged_only
from planner.runs import flops_of, usable

if TYPE_CHECKING:
    from pandas import DataFrame

KIND = "backtest"
VERSION = 1
QUANTILES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Approximate shares of the runs below the default cut-offs."""
APART = 1.1
"""Least factor between default cut-offs."""
LEAST_ABOVE = 4
"""Fewest runs above a cut-off."""


@dataclass(frozen=True)
class Outcome:
    """One run above a cut-off against its forecast from below."""

    run_id: str
    factor: float
    """Its FLOPs over those of the most expensive run below."""
    forecast: float
    """[nats/token]"""
    low: float
    high: float
    measured: float
    flags: str = ""
    """Flags because of its loss, which would keep it out of a fit: the loss was unknown when choosing, so it counts here."""

    @property
    def error_percent(self) -> float:
        """Forecast minus outcome in per cent of the outcome."""
        return 100 * (self.forecast / self.measured - 1)

    @property
    def inside(self) -> bool:
        """Whether the outcome lies inside the interval."""
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class Cutoff:
    """How well a fit of the cheap runs forecasts the expensive ones."""

    flops: float
    """Runs that cost at most this are fitted, the others forecast."""
    rows_below: int
    laws: tuple[str, ...]
    """Laws that forecast together, each with its convention of N."""
    outcomes: tuple[Outcome, ...]
    """Runs above, the cheapest first."""
    decisions: tuple[Decision, ...]
    """Choices among runs above; none where too few of them cost the same."""
    notes: tuple[str, ...] = ()
    """Warnings of the fit."""

    @property
    def factor(self) -> float:
        """FLOPs of the most expensive run over those of the most expensive one fitted."""
        return max(item.factor for item in self.outcomes)

    @property
    def coverage(self) -> float:
        """Share of the runs above that lie inside their 90 % interval."""
        return float(np.mean([item.inside for item in self.outcomes]))

    @property
    def flagged(self) -> int:
        """Number of runs above that a fit would leave out because of their loss."""
        return sum(bool(item.flags) for item in self.outcomes)

    @property
    def errors_percent(self) -> Array:
        """Forecast minus outcome in per cent of the outcome, shape (runs above,)."""
        return np.array([item.error_percent for item in self.outcomes])

    @property
    def regret_percent(self) -> Mapping[str, float]:
        """Mean regret by way to choose, the law's first; empty without decisions."""
        ways = self.decisions[0].regret_percent if self.decisions else {}
        return {way: float(np.mean([item.regret_percent[way] for item in self.decisions])) for way in ways}

    @property
    def worst_regret_percent(self) -> Mapping[str, float]:
        """Greatest regret by way to choose."""
        ways = self.decisions[0].regret_percent if self.decisions else {}
        return {way: max(item.regret_percent[way] for item in self.decisions) for way in ways}

    def summary(self) -> dict[str, Any]:
        """Return the row of the table, for programs."""
        errors = np.abs(self.errors_percent)
        sound = errors[[not item.flags for item in self.outcomes]]
        return {
            "factor": self.factor,
            "rows_above": len(self.outcomes),
            "rows_flagged": self.flagged,
            "unflagged_mean_absolute_percent": float(sound.mean()) if len(sound) else None,
            "mean_absolute_percent": float(errors.mean()),
            "median_absolute_percent": float(np.median(errors)),
            "worst_percent": float(errors.max()),
            "bias_percent": float(self.errors_percent.mean()),
            "coverage": self.coverage,
            "regret_percent": self.regret_percent,
            "worst_regret_percent": self.worst_regret_percent,
        }


@dataclass(frozen=True)
class Skipped:
    """A cut-off that could not be replayed."""

    flops: float
    rows_below: int
    reason: str


@dataclass(frozen=True)
class Backtest:
    """The result of `plan backtest`."""

    law: str
    """As it was asked for: a name, or "auto"."""
    cutoffs: tuple[Cutoff, ...]
    """The lowest first."""
    skipped: tuple[Skipped, ...]
    seed_percent: float | None
    """Standard deviation of the loss between seeds [%]: regrets of this size are noise. None without replicates."""

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write backtest.json."""
        cutoffs = [{**asdict(item), **item.summary()} for item in self.cutoffs]
        write_artifact(path, KIND, VERSION, {**asdict(self), "cutoffs": cutoffs}, inputs)

    @classmethod
    def load(cls, path: Path | str) -> Backtest:
        """Read backtest.json.

        Raises:
            InputError: no such file, or another kind of file.
            StateError: written by another version.
        """
        body = read_artifact(path, KIND, VERSION)
        with whole(path):
            cutoffs = tuple(
                Cutoff(
                    item["flops"], item["rows_below"], tuple(item["laws"]), tuple(Outcome(**one) for one in item["outcomes"]),
                    tuple(Decision(**{**one, "runs": tuple(one["runs"])}) for one in item["decisions"]), tuple(item["notes"]),
                )
                for item in body["cutoffs"]
            )  # fmt: skip
            return cls(body["law"], cutoffs, tuple(Skipped(**item) for item in body["skipped"]), body["seed_percent"])


def backtest(
    frame: DataFrame, law: str = "auto", *, params_kinds: Sequence[str] = (), cutoffs: Sequence[float] = (), keep: tuple[str, ...] = (),
    resamples: int = RESAMPLES, seed: int = 0, progress: Progress | None = None,
) -> Backtest:  # fmt: skip
    """Replay a runs table at compute cut-offs.

    Only unflagged runs are fitted, as by `fit`. Above a cut-off, runs that are flagged because of their loss count too, since that loss was unknown when
    choosing. Runs that diverged, were too short or ran at another learning rate count nowhere.

    Args:
        frame: a runs table as `read_runs` returns it.
        law: name of a law, or "auto" to choose at each cut-off by what lies below it, as for `fit`.
        params_kinds: conventions of N to try; all that the table has by default.
        cutoffs: in FLOPs; by default those at the widest gaps near `QUANTILES` of the runs.
        keep: flags that do not keep a row out.
        resamples: resamples of each law.
        seed: seed of starts and resamples.
        progress: called with the name of each step and the share of the work done.

    Raises:
        DataError: no cut-off leaves enough runs for a fit.
        InputError: no such law, flag or convention of N.
    """
    rows = _plain(usable(frame, keep))
    data = fit_data(frame, keep) if rows.empty else fit_data(rows)  # the first raises an error that names the flags
    choices = frame.assign(flags=frame["flags"].map(lambda text: ";".join(item for item in str(text).split(";") if item not in keep)))
    # A run flagged by its loss that lacks a column of the others cannot be forecast.
    judged = judged_only(choices) & choices[[PARAMS_KINDS[kind] for kind in data.params_by]].notna().all(axis=1)
    flags = dict(zip(choices["run_id"].astype(str)[judged], choices["flags"][judged], strict=True))
    everything = fit_data(_plain(usable(choices.assign(flags=choices["flags"].mask(judged, "")))))
    known = set(data.params_by)
    if not set(params_kinds) <= known:
        lacking = ", ".join(sorted(set(params_kinds) - known))
        raise InputError(f"N cannot be {lacking} here: that column is missing or has gaps", remedy="fill it, or choose the other --params-kind")
    if data.count < 2 * LEAST_ABOVE:
        raise DataError(f"only {data.count} runs can be used, too few for a backtest", remedy="train more runs, or fit flagged ones with --keep FLAG")
    limits = sorted(set(cutoffs)) or default_cutoffs(data.flops)
    tell = progress or (lambda what, share: None)
    steps = len(limits) + 1

    def fit_rows(some: FitData, number: int, which: str) -> FittedLaw:
        return fit(
            some, law, params_kinds=params_kinds, resamples=resamples, seed=seed, largest=False,
            progress=lambda what, share: tell(f"{which}: {what}", (number + share) / steps),
        )  # fmt: skip

    hindsight = _expected(fit_rows(data, 0, "all runs"), everything)
    done: list[Cutoff] = []
    skipped: list[Skipped] = []
    for number, limit in enumerate(limits, 1):
        try:
            fit_below = partial(fit_rows, number=number, which=f"below {limit:.3g} FLOPs")
            done.append(_replay(partial(_known, frame, keep), everything, limit, fit_below, hindsight, flags))
        except DataError as error:
            skipped.append(Skipped(limit, int((data.flops <= limit).sum()), error.message))
    if not done:
        reasons = "; ".join(f"{item.flops:.3g} FLOPs: {item.reason}" for item in skipped)
        remedy = "give other --cutoffs or a law with fewer parameters, or train more runs"
        raise DataError(f"no cut-off leaves enough on both sides ({reasons})", remedy=remedy)
    return Backtest(law, tuple(done), tuple(skipped), 100 * data.replicate_sd if data.replicate_sd is not None else None)


def default_cutoffs(flops: Array) -> list[float]:
    """Choose cut-offs near `QUANTILES` of the runs, each at the widest gap around: a cut through runs of equal compute forecasts nothing new.

    Args:
        flops: shape (runs,).
    """
    ordered, half = np.sort(flops), 0.05
    found: list[float] = []
    for quantile in QUANTILES:
        first, last = (round((quantile + side) * (len(ordered) - 1)) for side in (-half, half))
        gaps = np.diff(np.log(ordered[first : last + 2]))
        limit = float(ordered[first + int(gaps.argmax())])
        if not found or limit > found[-1] * APART:
            found.append(limit)
    return found


def _expected(law: FittedLaw, data: FitData) -> Array:
    """Return what `plan allocate` ranks plans by, shape (runs,): the mean of ln L over resamples is least where the expected regret is."""
    result: Array = law.log_loss_resamples(law.points(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec)).mean(0)
    return result


def _known(frame: DataFrame, keep: tuple[str, ...], most: float) -> FitData:
    """Return the runs of at most `most` FLOPs as they were known then: their flags, too, come from no run above."""
    rows = judge_alone(frame[flops_of(frame) <= most])
    held = {flag for text in rows["flags"] for flag in text.split(";")}
    return fit_data(_plain(usable(rows, tuple(flag for flag in keep if flag in held))))


def _plain(rows: DataFrame) -> DataFrame:
    """Return the full-parameter runs without specialist text in their general stage, and remove their flags."""
    rows = of_method(rows.assign(flags=""), "full")
    return rows[~early(rows)].reset_index(drop=True)  # fit_data leaves the others out too: so rows and arrays stay aligned


def _replay(
    known: Callable[[float], FitData], data: FitData, limit: float, fit_rows: Callable[[FitData], FittedLaw], hindsight: Array, flags: Mapping[str, str]
) -> Cutoff:  # fmt: skip
    """Fit the rows up to a limit and compare the forecasts of the others, flagged because of their loss or not, with their outcomes."""
    cheap = data.flops <= limit
    above = data.rows(~cheap)
    if above.count < LEAST_ABOVE:
        raise DataError(f"{above.count} runs lie above, and a backtest needs {LEAST_ABOVE}", remedy="lower the cut-off")
    if not cheap.any():
        raise DataError("no run lies below", remedy="raise the cut-off")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Read from the table again, not selected from all rows: nothing of the runs above may enter, not even their noise.
        below = known(limit)
        if data.two_stage and not below.two_stage:
            raise DataError("the runs below are of one stage, those above of two", remedy="raise the cut-off")
        fitted = fit_rows(below)
        forecast = fitted.forecast(above.params_by, above.tokens_pt, above.tokens_spec, above.unique_spec)
    measured, factor = np.exp(above.log_loss), above.flops / below.flops.max()
    columns = (factor, forecast.loss, forecast.low, forecast.high, measured)
    outcomes = []
    for row in np.argsort(factor, kind="stable"):
        far, middle, low, high, found = (float(values[row]) for values in columns)
        outcomes.append(Outcome(above.run_ids[row], far, middle, low, high, found, flags.get(above.run_ids[row], "")))
    decisions = decide(above, {PLAN: _expected(fitted, above), HINDSIGHT: hindsight[~cheap]}, below)
    laws = tuple(f"{member.law.name} ({member.params_kind})" for member in fitted.members)
    return Cutoff(limit, below.count, laws, tuple(outcomes), decisions, tuple(sorted({str(item.message) for item in caught})))
