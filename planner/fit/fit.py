"""From a runs table to a fitted law."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, InputError, PlannerWarning
from planner.fit.data import FitData
from planner.fit.drift import drift
from planner.fit.extrapolation_probe import log_loss_there
from planner.fit.fitted import FittedLaw
from planner.fit.holdout import mean_absolute_percent, slices
from planner.fit.identify import check, check_losses, numberless, reason_against, trunks_alone
from planner.fit.member import Member
from planner.fit.parallel import run_tasks
from planner.fit.prior import draw_means
from planner.fit.profile import along, ridge
from planner.fit.resample import check_scheme, draw_weights, fit_weighted, scheme_for
from planner.fit.select import Progress, Score, candidates, check_suited, choose, score_laws, screen_others
from planner.fit.size_outlier import OFF_LEAST, OFF_NOISE, find_size_outlier
from planner.fit.support import Support
from planner.fit.trunk_variance import trunk_deviation
from planner.fit.unmeasured import opened, unmeasured
from planner.laws import Law, Reference, law_named, laws_named
from planner.units import format_count

RESAMPLES = 400
"""Resamples of each member by default."""
PIECE = 500
"""Fewest resamples of one law solved in one batch, where there are several laws: the slowest few of a batch are solved almost alone."""
WORST = 5
"""Number of runs farthest from the law that are named."""
UNEXPLAINED = 0.7
"""Residual over the standard deviation of ln L above which a law explains little: half of the variance is left."""


def fit(
    data: FitData, law: str = "auto", *, params_kinds: Sequence[str] = (), resamples: int = RESAMPLES, scheme: str = "auto", seed: int = 0,
    source: dict[str, Any] | None = None, progress: Progress | None = None, largest: bool = True, pool: Executor | None = None,
) -> FittedLaw:  # fmt: skip
    """Fit a law, or choose among several, with resamples by trunk.

    Args:
        data: the runs.
        law: name of a law, several names joined by commas, or "auto" to choose among all by held-out error; laws that the data cannot
            separate then forecast together.
        params_kinds: conventions of N to try; all that the table has by default.
        resamples: resamples of each law.
        scheme: how trunks are weighted in a resample, one of `resample.SCHEMES`.
        seed: seed of starts and resamples; the same seed gives the same law.
        source: where the runs are from, kept in the law's file.
        progress: called with the name of each step and the share of the work done.
        largest: whether to choose and fit once more without the largest size, and forecast it.
        pool: processes to share the work with; the result is the same.

    Raises:
        DataError: the runs cannot identify the law.
        InputError: no such law or scheme, or a law named twice.
    """
    tell = progress or (lambda what, share: None)
    check_scheme(scheme)
    check(data)
    tables = [data.under(kind) for kind in params_kinds or data.params_by]
    laws = candidates(data) if law == "auto" else [_suited(item, data) for item in laws_named(law)]
    check_losses(data)
    names = [law.name for law in laws]
    aside = pool.submit(_forecast_largest, tables, names, seed) if pool is not None and largest else None
    scores = score_laws(tables, laws, seed, lambda name, share: tell(f"fitting {name}", (0.4 if aside is None else 0.7) * share))
    chosen = choose(scores, tables[0])
    if not chosen[0].held:
        warnings.warn("too few runs to hold any out: the error outside the runs was not measured", PlannerWarning, stacklevel=2)
    scheme = scheme_for(data.params, data.cluster) if scheme == "auto" else scheme
    # The same weights for every member, so that resample k is the same draw of trunks in all of them.
    weights = draw_weights(data.cluster, resamples, scheme, np.random.default_rng([seed, 1]))
    pieces = max(len(weights) // PIECE, 2 if len(chosen) == 1 else 1)
    tasks = [(score.estimate.law.name, score.reference, score.estimate.theta, data.under(score.params_kind)) for score in chosen]
    ridges = run_tasks(pool, _ridge, tasks, lambda share: tell("ridges", 0.7 + 0.05 * share))
    parts = []
    for (name, reference, _, rows), (_, starts) in zip(tasks, ridges, strict=True):
        means = draw_means(law_named(name), resamples, np.random.default_rng([seed, 6]))
        each = [None] * pieces if means is None else np.array_split(means, pieces)
        parts += [(name, reference, starts, rows, *piece) for piece in zip(np.array_split(weights, pieces), each, strict=True)]
    # The last laws have most parameters and take longest: started first, they leave no process idle at the end.
    spread = run_tasks(pool, _resampled, parts[::-1], lambda share: tell("resampling by trunk", 0.75 + 0.25 * share))[::-1]
    draws = [np.concatenate(spread[number : number + pieces]) for number in range(0, len(spread), pieces)]
    members = [_member(score, found, names, data, seed) for score, found, (names, _) in zip(chosen, draws, ridges, strict=True)]
    if aside is not None:
        holdout = aside.result()
    elif largest:
        holdout = _forecast_largest(tables, names, seed, lambda name, share: tell(f"without the largest size: {name}", share))
    else:
        holdout = {}
    outliers = scores[0].outliers
    sound = data.rows(~outliers)
    noise = max(float(np.mean([score.rms_percent for score in chosen])) / 100, data.replicate_sd or 0.0, _trunk_deviation(chosen, sound))
    others = [] if law == "auto" else screen_others(sound, [score.estimate.law for score in scores], seed)
    about = {"rows": data.count, "replicate_sd": data.replicate_sd, "target": data.target, "resampling": scheme, **(source or {})}
    table = [_row(score, score in chosen) for score in scores]
    _warn_of(outliers, chosen, data)
    holdout = _without(holdout, [name for name, off in zip(data.run_ids, outliers, strict=True) if off])
    _check_learnt(chosen, sound, holdout)
    astray = drift(chosen, [*scores, *others], sound, noise)
    fitted = FittedLaw(tuple(members), noise, astray, Support.of(sound), float(np.exp(sound.log_loss.min())), table, holdout, about)
    about["farthest"] = _farthest(fitted, data)
    return fitted


def _resampled(name: str, reference: Reference, starts: Array, data: FitData, weights: Array, means: Array | None) -> Array:
    """Refit a law under every row of weights and of its priors' means; return the parameters. Arguments and result can be pickled."""
    law = law_named(name)
    return fit_weighted(law, data.points(reference), data.log_loss, weights, starts, each=True, means=means)[0]


def _ridge(name: str, reference: Reference, theta: Array, data: FitData) -> tuple[tuple[str, ...], Array]:
    """Name the parameters on a ridge, and find starts for resamples along it. Arguments and result can be pickled."""
    law, points = law_named(name), data.points(reference)
    names = ridge(law, points, data.log_loss, theta)
    return names, along(law, points, data.log_loss, theta, names)


def _trunk_deviation(chosen: Sequence[Score], data: FitData) -> float:
    """Return the standard deviation of ln L of runs on new trunks where the residual understates it, as each size's only trunk pulled the fit; else 0."""
    if not trunks_alone(data):
        return 0.0
    each = []
    for score in chosen:
        table = data.under(score.params_kind)
        points = table.points(score.reference)
        each.append(trunk_deviation(score.estimate.law, points, score.estimate.theta, data.log_loss, data.cluster))
    return float(np.mean(each))


def _member(score: Score, draws: Array, ridged: tuple[str, ...], data: FitData, seed: int) -> Member:
    found = score.estimate
    which = unmeasured(found.law, data.under(score.params_kind).points(score.reference), found.theta)
    theta, draws = opened(found.law, which, found.theta, draws, np.random.default_rng([seed, 4])) if which.any() else (found.theta, draws)
    names = tuple(parameter.name for parameter, nothing in zip(found.law.parameters, which, strict=True) if nothing)
    on_ridge = {*ridged, *found.diagnosis.flat} - {*names}
    return Member(
        found.law, score.params_kind, score.reference, theta, draws, found.status, found.starts, found.starts_agree, found.diagnosis.condition,
        tuple(name for name in found.diagnosis.at_bound if name not in names),
        tuple(parameter.name for parameter in found.law.parameters if parameter.name in on_ridge), found.objective, names,
    )  # fmt: skip


def _suited(law: Law, data: FitData) -> Law:
    """Refuse a law, asked for by name, that does not suit the table; warn where it ignores something."""
    check_suited(data)
    if law.stages == 2 and not data.two_stage:  # before the loss: no other --target would help
        raise DataError(f"the law {law.name} needs two stages, and the runs have one", remedy="choose a one-stage law (plan laws lists them)")
    if law.target != data.target:
        raise InputError(f"the law {law.name} describes the {law.target} loss", remedy=f"fit it with --target {law.target}")
    if law.repeats and not data.repeats:
        what = f"the law {law.name} describes one corpus and its repeats, and the runs have general tokens too"
        raise DataError(what, remedy="choose another law (plan laws lists them)")
    if law.stages == 1 and data.two_stage:
        warnings.warn(f"the law {law.name} does not distinguish general from specialist tokens", PlannerWarning, stacklevel=3)
    elif law.stages == 1 and data.repeated and not law.repeats:
        warnings.warn(f"the law {law.name} treats repeated text as fresh", PlannerWarning, stacklevel=3)
    if (reason := numberless(law, data)) is not None:
        remedy = "fix its formula, for instance a logarithm of general tokens where a run has none"
        raise InputError(f"the law {law.name} {reason}", remedy=remedy)
    if lack := reason_against(law, data):
        raise DataError(f"the runs cannot identify the law {law.name}: it has {lack}", remedy="choose a simpler law, or --law auto")
    return law


def _warn_of(outliers: Any, chosen: Sequence[Score], data: FitData) -> None:
    """Name the outliers: a fit hardly follows them, and they count neither as noise nor as support."""
    table = data.under(chosen[0].params_kind)
    residual = table.log_loss - chosen[0].estimate.log_loss(table.points(chosen[0].reference))
    most = 100 * float(np.median(np.abs(residual[~outliers])))
    for row in np.flatnonzero(outliers):
        warnings.warn(
            f"{data.run_ids[row]} lies {100 * np.expm1(residual[row]):+.3g} % off the law, where half of the other runs lie within {most:.2g} %: likely a "
            "data error. It stays in the fit, but not in the noise, the held-out errors or the support; correct or delete it, and refit",
            PlannerWarning, stacklevel=3,
        )  # fmt: skip


def _check_learnt(chosen: Sequence[Score], sound: FitData, holdout: dict[str, Any]) -> None:
    """Warn where a law explains hardly more than the mean of the losses, and where one size lies far off its forecast by the others."""
    left, spread = float(np.mean([score.rms_percent for score in chosen])), 100 * float(sound.log_loss.std())
    if left > UNEXPLAINED * spread:
        warnings.warn(
            f"the law leaves a residual of {left:.2g} % where the losses vary by {spread:.2g} %: size and tokens hardly explain the loss, and a plan "
            "from this law is a guess; check that every loss is in its own run's row",
            PlannerWarning, stacklevel=3,
        )  # fmt: skip
    if (size := find_size_outlier(chosen[0], sound)) is not None:
        luck = ", or is it noise of the one trunk that they share" if size.one_trunk else ""
        warnings.warn(
            f"the {size.runs} runs of {format_count(size.params)} parameters lie {size.off_percent:+.2g} % off a law fitted to all other sizes, which "
            f"scatter by {size.rest_percent:.2g} % around it: were they trained differently, as with a poor learning rate{luck}? "
            "Compare with plan sweep tune-lr or with another seed; any word in their flags column excludes them",
            PlannerWarning, stacklevel=3,
        )  # fmt: skip
    elif holdout and abs(off := holdout["bias_percent"]) > max(OFF_NOISE * left, OFF_LEAST):
        said = f"{abs(off):.2g} % {'above' if off < 0 else 'below'} their forecast from the smaller sizes, where runs scatter by {left:.2g} %"
        less = "it was" if off < 0 else "the smaller ones were"
        warnings.warn(
            f"the losses of the largest size lie {said}: either {less} trained less well, as with a poor learning rate, or the law fails there and "
            "beyond; compare with plan sweep tune-lr, or with another seed",
            PlannerWarning, stacklevel=3,
        )  # fmt: skip


def _farthest(law: FittedLaw, data: FitData) -> list[dict[str, Any]]:
    """Name the runs that lie farthest from the law; they stay in the fit."""
    off = data.log_loss - law.log_loss(law.points(data.params_by, data.tokens_pt, data.tokens_spec, data.unique_spec, data.replay_fraction))
    return [{"run_id": data.run_ids[row], "off_percent": 100 * float(np.expm1(off[row]))} for row in np.argsort(-np.abs(off))[:WORST]]


def _forecast_largest(tables: Sequence[FitData], names: Sequence[str], seed: int, progress: Progress | None = None) -> dict[str, Any]:
    """Choose and fit without the largest size, then forecast it: an error on unseen runs. Arguments and result can be pickled."""
    laws = [law_named(name) for name in names]
    piece = next((item for item in slices(tables[0]) if item.name == "largest params"), None)
    if piece is None:
        return {}
    rest = [data.rows(~piece.held) for data in tables]
    within = [law for law in laws if reason_against(law, rest[0]) is None and numberless(law, rest[0]) is None]
    if not within:
        return {}
    chosen: list[Score] = choose(score_laws(rest, within, seed, progress), rest[0])
    out = tables[0].rows(piece.held)
    forecast = np.mean([log_loss_there(score.estimate, out.under(score.params_kind).points(score.reference)) for score in chosen], axis=0)
    if not np.isfinite(forecast).all():  # a user's law that gives no number so far out
        return {}
    return {
        "laws": [f"{score.estimate.law.name} ({score.params_kind})" for score in chosen],
        "params": float(out.params.max()),
        "params_least": float(out.params.min()),
        "factor": piece.factor,
        "factor_most": float(out.params.max() / rest[0].params.max()),
        "run_ids": out.run_ids,
        "forecast": np.exp(forecast),
        "measured": np.exp(out.log_loss),
    }


def _without(holdout: dict[str, Any], mistaken: Sequence[str]) -> dict[str, Any]:
    """Summarise the errors of the forecast of the largest size, outliers left out; empty where no other run is left."""
    kept = np.array([name not in mistaken for name in holdout.get("run_ids", ())], dtype=bool)
    if not kept.any():
        return {}
    forecast, measured = holdout["forecast"][kept], holdout["measured"][kept]
    error = forecast / measured - 1
    return {
        **holdout,
        "rows": len(error),
        "run_ids": [name for name, good in zip(holdout["run_ids"], kept, strict=True) if good],
        "forecast": forecast,
        "measured": measured,
        "mean_absolute_percent": mean_absolute_percent(np.log(forecast), np.log(measured)),
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
