"""Whether the runs identify a law's parameters: errors where they cannot, warnings where they do so poorly."""

from __future__ import annotations

import warnings
from math import ceil

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, PlannerWarning
from planner.fit.data import MIN_ROWS, FitData
from planner.fit.scale import Scale
from planner.laws import Law
from planner.units import format_count

MIN_SIZES = 3
"""A size term has an amplitude and an exponent, and E is the third unknown."""
MIN_TOKENS = 3
"""Values of general and of specialist tokens, zero among them: an amplitude, an exponent and an offset or factor."""
ROWS_PER_PARAMETER = 2.0
DECADE = 9.0
"""Factor between sizes below which a warning is due; realised shapes miss a round decade by a little."""
LEAST_SIZE = 5000.0
"""Median size [parameters] below which a table is probably in millions: two layers of width 16, without embeddings, have more."""
MANY_PASSES = 100.0
"""Median number of passes above which a unit is probably wrong: hardly anybody makes as many."""
TRUNK = 3
"""Runs off one trunk from which its noise shows in a fit."""
MANY_TRUNKS = 100
FEW_TRUNKS = 8
"""Trunks in all below which the spread of the resamples is known only to about a quarter."""
TRIED = 16
"""Draws from a law's start ranges, of which at least one must give a number for every run."""
SAME_LOSS = 1e-6
"""Range of ln L below which all losses count as equal."""
SAME = 0.05
"""Range of a logarithm below which values count as equal."""
NEARLY = 0.2
"""Range of a logarithm below which a quantity varies too little for its effect to be trusted."""
NEAR_RATIO = 0.35
"""The same for the tokens per parameter in one stage: a scatter of 10 % around one ratio is no better than none."""
ONE_BUDGET = float(np.log(2))
"""The same for the FLOPs, below which all runs lie on one iso-FLOP curve."""
MIDDLE = (0.1, 0.9)
"""Quantiles between which these ranges are taken, so that a few runs elsewhere do not hide a narrow one."""


def check(data: FitData) -> None:
    """Refuse rows that no law can be fitted to, and warn of what they determine poorly.

    Raises:
        DataError: no law can be fitted; the message says which axis and what to add.
    """
    if data.count < MIN_ROWS:
        rest = "the rest are flagged or have no loss"
        if data.replaying:
            rest = f"{data.replaying} more have replayed general text, which no law of the specialist loss describes; {rest}"
        raise DataError(f"only {data.count} run{'s' * (data.count != 1)} can be used for a fit ({rest})", remedy=f"train at least {MIN_ROWS}")
    sizes = levels(data.params_by["non_embedding"])
    if len(sizes) < MIN_SIZES:
        many = "sizes" if len(sizes) != 1 else "size"
        raise DataError(f"the runs have {len(sizes)} distinct model {many}, and a law in size needs {MIN_SIZES}", remedy="train more sizes, ideally five")
    if sizes[-1] / sizes[0] < DECADE:
        _warn(f"model sizes span a factor of only {sizes[-1] / sizes[0]:.1f}, under a decade: the size exponent is poorly determined")
    if (middle := float(np.median(data.params_by["non_embedding"]))) < LEAST_SIZE:
        _warn(
            f"half of the runs have {format_count(middle)} parameters or fewer: are sizes and tokens in thousands or millions? Write them in full, or as "
            "30M; budgets are in FLOPs, and plans in single parameters and tokens"
        )
    if data.two_stage:
        _check_two_stages(data)
    else:
        _check_one_stage(data)
    if data.repeats or data.two_stage:
        _check_repetition(data)
    _check_trunks(data)


def check_losses(data: FitData) -> None:
    """Refuse losses that are all the same.

    Raises:
        DataError: they are.
    """
    if np.ptp(data.log_loss) < SAME_LOSS:
        raise DataError(f"all losses are {np.exp(data.log_loss[0]):.4g}, and there is nothing to learn a law from", remedy="check the column of losses")


def levels(values: Array) -> Array:
    """Return distinct positive values; those up to 5 % above one count with it."""
    ordered = np.unique(values[values > 0])
    starts, at = [], 0
    while at < len(ordered):  # not each against its neighbour, by which a table without a grid would be one chain
        starts.append(at)
        at = int(np.searchsorted(ordered, ordered[at] * np.exp(SAME), side="right"))
    return ordered[starts]


def nearly_one(values: Array, spread: float = NEARLY) -> bool:
    """Tell whether all but a few of some positive values are nearly the same: their logarithms within a spread."""
    return len(values) > 0 and float(np.ptp(np.quantile(np.log(values), MIDDLE))) < spread


def reason_against(law: Law, data: FitData) -> str | None:
    """Return why these rows cannot identify a law, or None."""
    if data.count < (needed := rows_for(law)):
        free = " without a prior" if law.has_prior else ""
        return f"{data.count} runs for {_unknown(law)} parameters{free}, and needs at least {needed}"
    if "passes" in law.needs and len(levels(data.epochs[data.epochs > 1 + SAME])) < 2:
        return "a penalty that grows with passes, and the runs have fewer than two values of passes above one"
    if data.two_stage and "distinct" in law.needs and len(levels(data.unique_spec[data.epochs > 1 + SAME])) < 2:
        return "an exponent of the distinct tokens, and the runs with repeats have fewer than two amounts of them"
    if law.target == "general":
        if "replay" in law.needs and data.replay_fraction is None:
            return "an effect of replay, and no run replays general text"
        if "replay" not in law.needs and data.replay_fraction is not None:
            return "no effect of replay, and runs replay general text"
    return None


def rows_for(law: Law) -> int:
    """Return the fewest runs that a law is fitted to; a parameter with a prior needs none."""
    return ceil(ROWS_PER_PARAMETER * _unknown(law))


def _unknown(law: Law) -> int:
    return sum(parameter.prior is None for parameter in law.parameters)


def numberless(law: Law, data: FitData) -> str | None:
    """Return why a law gives no number for some run from any start, as a user's law may where tokens are zero; None where it gives one for all."""
    theta, points = Scale(law).draw(np.random.default_rng(0), TRIED), data.points(data.reference)
    try:
        with np.errstate(all="ignore"):
            sound = np.isfinite(law.log_loss(theta, points))
            law.log_loss_and_slopes(theta[:1], points)
    except Exception as error:  # a user's formula may raise anything
        said = " ".join(str(error).split())[:200]
        return f"cannot be computed for these runs ({type(error).__name__}: {said})"
    return None if sound.all(1).any() else f"gives no number for the run {data.run_ids[int(sound.sum(0).argmin())]}"


def _check_one_stage(data: FitData) -> None:
    tokens = data.tokens_pt + data.tokens_spec
    found = len(levels(tokens))
    if found < MIN_TOKENS:
        many = "counts" if found != 1 else "count"
        raise DataError(f"the runs have {found} distinct token {many}, and a law in tokens needs {MIN_TOKENS}", remedy="vary them, ideally five values")
    ratio = np.log(tokens / data.params_by["non_embedding"])
    if np.ptp(ratio) < SAME:
        raise DataError(
            f"every run has the same tokens per parameter ({np.exp(ratio.mean()):.3g}), so the effects of size and tokens cannot be separated",
            remedy="vary the ratio",
        )
    if nearly_one(np.exp(ratio), NEAR_RATIO):
        _warn(
            f"nearly every run has {np.exp(np.median(ratio)):.2g} tokens per parameter: the effects of size and of tokens can hardly be separated, and "
            "forecasts of other ratios are guesses; train some runs with half and with twice as many"
        )
    if nearly_one(data.flops, ONE_BUDGET):
        _warn(
            f"nearly every run costs {np.median(data.flops):.2g} FLOPs: tokens fall wherever size grows, the effect of both together is not measured, and "
            "forecasts of other budgets are guesses; train some runs with a quarter and with four times as many"
        )


def _check_two_stages(data: FitData) -> None:
    general, special = levels(data.tokens_pt), levels(data.tokens_spec)
    for name, found, zero in (("tokens_pt", general, data.tokens_pt == 0), ("tokens_spec", special, data.tokens_spec == 0)):
        count = len(found) + bool(zero.any())
        if len(found) < 2 and count < 3:
            values = "no value" if not len(found) else "one value"
            raise DataError(f"the runs have {values} of {name}" + (" other than zero" if zero.any() else ""), remedy="vary both stages")
        if count < MIN_TOKENS:
            _warn(f"the runs have {count} values of {name}: its exponent and its offset cannot both be determined")
    params = data.params_by["non_embedding"]
    both = (data.tokens_pt > 0) & (data.tokens_spec > 0)
    share = data.tokens_spec[both] / data.tokens_pt[both]
    if both.all() and np.ptp(np.log(share)) < SAME:
        raise DataError(
            f"every run has the same tokens_spec / tokens_pt ({share.mean():.3g}), so their effects cannot be separated",
            remedy="vary the ratio, or add runs without specialist tokens",
        )
    for text in hardly_apart(params, data.tokens_pt, data.tokens_spec):
        _warn(text)


def hardly_apart(params: Array, general: Array, special: Array) -> list[str]:
    """Describe which effects two-stage runs can hardly separate.

    Args:
        params: non-embedding parameters, shape (runs,).
        general: general tokens, shape (runs,).
        special: specialist tokens, shape (runs,).
    """
    found = []
    ratio = (general / params)[general > 0]
    if nearly_one(ratio):
        found.append(
            f"nearly every run has {np.median(ratio):.2g} general tokens per parameter: the effects of size and of general tokens can hardly be "
            "separated, and forecasts of other ratios are guesses; train some runs with half and with twice as many"
        )
    both = (general > 0) & (special > 0)
    share = special[both] / general[both]
    if nearly_one(share):
        found.append(
            f"nearly every run with both stages has tokens_spec / tokens_pt = {np.median(share):.2g}: the effects of the stages can hardly be separated, "
            "and forecasts of other splits are guesses; vary the ratio"
        )
    total = general + special
    if nearly_one(total) and not nearly_one(general[general > 0]):
        found.append(
            f"nearly every run has {np.median(total):.2g} tokens in both stages together: the effect of their total is hardly measured, and forecasts of "
            "other totals are guesses; train some runs with half and with twice as many"
        )
    return found


def _check_repetition(data: FitData) -> None:
    passes = data.epochs[data.tokens_spec > 0]
    if np.median(passes) > MANY_PASSES:
        _warn(f"half of the runs make over {np.median(passes):.3g} passes over their specialist text: is unique_spec in another unit than tokens_spec?")
    if data.epochs.max() < 1 + SAME:
        _warn("no run repeats its specialist text: the effect of more than one epoch is not measured")
    elif passes.min() > 1 + SAME and np.ptp(np.log(passes)) < NEARLY:
        _warn(
            f"every run with specialist text makes {np.median(passes):.2g} passes over it: the worth of repeated against fresh text is not measured, and "
            "a forecast of fewer or more passes is a guess; train some runs with one pass"
        )
    elif len(levels(data.unique_spec[data.tokens_spec > 0])) < 2:
        _warn("all runs have the same amount of distinct specialist text: the effects of epochs and of specialist tokens cannot be separated")


def trunks_alone(data: FitData) -> bool:
    """Tell whether nothing measures the between-trunk variance: no size has two trunks with three runs or more, and seeds are repeated too seldom.

    Where many sizes have a trunk each, a law absorbs next to nothing of the trunks' noise, and its residual holds it.
    """
    rows = np.unique(data.cluster, return_counts=True)[1][data.cluster]
    sizes, trunks = (values[rows >= TRUNK] for values in (data.params_by["non_embedding"], data.cluster))
    pairs = np.unique(np.stack([sizes, trunks]), axis=1)
    few = len(levels(sizes)) > 1 and len(pairs[0]) < MANY_TRUNKS
    return data.replicate_sd is None and few and len(pairs[0]) == len(np.unique(pairs[0]))


def _check_trunks(data: FitData) -> None:
    trunks = len(np.unique(data.cluster))
    if trunks < FEW_TRUNKS:
        _warn(
            f"all {data.count} runs branch off only {trunks} trunks: intervals and regrets may well be too narrow; train more trunks, or if these runs "
            "shared none, leave trunk_id empty or give each its own"
        )
    if trunks_alone(data):
        _warn(
            "no size has two trunks with three runs or more, and seeds are repeated too seldom: the between-trunk variance is not measured, only guessed "
            "from how far the sizes lie off the law; repeat the trunk of one size with two more seeds"
        )


def _warn(text: str) -> None:
    warnings.warn(text, PlannerWarning, stacklevel=4)
