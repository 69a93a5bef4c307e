"""From a runs table to a fitted law."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.errors import PlannerWarning
from planner.fit.data import FitData
from planner.fit.estimate import resample
from planner.fit.fitted import FittedLaw, Member
from planner.fit.holdout import mean_absolute_percent, slices
from planner.fit.select import ROWS_PER_PARAMETER, Score, candidates, choose, score_laws
from planner.fit.support import Support
from planner.laws import Law, law_named

RESAMPLES = 200
"""Resamples of each member by default."""
WARM_STARTS = 2
"""Solutions on all rows that each resample starts from."""

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""


def fit(
    data: FitData, law: str = "auto", *, params_kinds: Sequence[str] = (), resamples: int = RESAMPLES, seed: int = 0,
    source: dict[str, Any] | None = None, progress: Progress | None = None,
) -> FittedLaw:  # fmt: skip
    """Fit a law, or choose among all, with resamples by trunk.

    Args:
        data: the runs.
        law: name of a law, or "auto" to choose by held-out error; laws that the data do not tell apart then forecast together.
        params_kinds: conventions of N to try; all that the table has by default.
        resamples: resamples of each law.
        seed: seed of starts and resamples; the same seed gives the same law.
        source: where the runs are from, kept in the law's file.
        progress: told of the steps.

    Raises:
        DataError: the runs cannot carry the law.
        InputError: no such law.
    """
    tell = progress or (lambda what, share: None)
    tables = [data.under(kind) for kind in params_kinds or data.params_by]
    laws = candidates(tables[0]) if law == "auto" else [law_named(law)]
    _check_stage(tables[0], laws)
    scores = score_laws(tables, laws, seed, lambda name, share: tell(f"fitting {name}", 0.45 * share))
    chosen = choose(scores)
    holdout = _forecast_largest(tables, laws, seed, lambda name, share: tell(f"without the largest size: {name}", 0.45 + 0.45 * share))
    members = []
    for number, score in enumerate(chosen):
        tell("resampling by trunk", 0.9 + 0.1 * number / len(chosen))
        found = score.estimate
        random = np.random.default_rng([seed, 1])  # the same weights for every member, so that resample k is one world
        points = data.under(score.params_kind).points(score.reference)
        draws = resample(found.law, points, data.log_loss, data.cluster, found.solutions[:WARM_STARTS], resamples, random)
        members.append(
            Member(
                found.law, score.params_kind, score.reference, found.theta, draws, found.status, found.starts, found.starts_agree, found.condition,
                found.at_bound, found.objective,
            )
        )  # fmt: skip
    noise = max(float(np.mean([score.rms_percent for score in chosen])) / 100, data.replicate_sd or 0.0)
    drift = float(np.mean([score.drift for score in chosen]))
    table = [_row(score, score in chosen) for score in scores]
    about = {"rows": data.count, "replicate_sd": data.replicate_sd, **(source or {})}
    return FittedLaw(tuple(members), noise, drift, Support.of(data), table, holdout, about)


def _check_stage(data: FitData, laws: Sequence[Law]) -> None:
    if data.two_stage and laws[0].stages == 1:
        warnings.warn(f"the law {laws[0].name} is blind to the difference between general and specialist tokens", PlannerWarning, stacklevel=3)


def _forecast_largest(tables: Sequence[FitData], laws: Sequence[Law], seed: int, progress: Progress) -> dict[str, Any]:
    """Choose and fit without the largest size, then forecast it: an error that no choice has seen."""
    piece = next((item for item in slices(tables[0]) if item.name == "largest params"), None)
    if piece is None:
        return {}
    rest = [data.rows(~piece.held) for data in tables]
    within = [law for law in laws if rest[0].count >= ROWS_PER_PARAMETER * len(law.parameters)]
    if not within:
        return {}
    chosen: list[Score] = choose(score_laws(rest, within, seed, progress))
    out = tables[0].rows(piece.held)
    forecasts = [
        score.estimate.law.log_loss(score.estimate.theta[None], out.under(score.params_kind).points(score.reference))[0] for score in chosen
    ]
    forecast = np.mean(forecasts, axis=0)
    error = np.exp(forecast - out.log_loss) - 1
    return {
        "laws": [f"{score.estimate.law.name} ({score.params_kind})" for score in chosen],
        "params": float(out.params.max()),
        "factor": piece.factor,
        "rows": out.count,
        "run_ids": out.run_ids,
        "forecast": np.exp(forecast),
        "measured": np.exp(out.log_loss),
        "mean_absolute_percent": mean_absolute_percent(forecast, out.log_loss),
        "bias_percent": float(100 * error.mean()),
        "worst_percent": float(100 * np.abs(error).max()),
    }


def _row(score: Score, chosen: bool) -> dict[str, Any]:
    law = score.estimate.law
    return {
        "law": law.name,
        "params_kind": score.params_kind,
        "parameters": len(law.parameters),
        "chosen": chosen,
        "status": score.estimate.status,
        "rms_percent": score.rms_percent,
        "held": score.held,
        "mean": score.mean if score.held else None,
    }
