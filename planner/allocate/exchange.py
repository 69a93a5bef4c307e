"""What specialist text is worth in compute: how many times the compute would lower the loss as much as twice the text does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError
from planner.fit.level import ENDS
from planner.units import format_count, format_number

MORE_COMPUTE = 1.1
"""Factor whose gain gives the rate."""
LEAST_GAIN = 1e-6
"""Gain in ln L under which more compute buys nothing to compare with."""
LEAST_WORTH = 0.005
"""Share of the compute under which text is worth next to none."""
NOTHING = 5e-5
"""Share of the loss that a table of per cents shows as nothing."""
AT_RATE = 1.5
"""Factor in compute up to which the rate holds; further on each per cent of compute buys less than the one before."""
MOST_WORTH = 10.0
"""Factor beyond which a rate alone says no more, nor do the ends of its interval."""
MOST_POWER = 1000.0
"""Of the factor that gives the rate."""
FARTHEST = 1000.0
"""Factor beyond which no end of an interval is told."""
ROUNDING = 1e-9
"""Share by which an end that was cut off at the most may lie under it."""
SEARCHES = 5
"""At most."""
CLOSE = 0.01
"""In ln C, to which the factor is found."""
LEAST_SLOPE = 1e-6
"""Gain in ln L for a unit of ln C under which a resample is taken to gain nothing more."""


def exchange_of(
    budget: float, unique_spec: float, compute: Array, text: Array, gain: Callable[[float], Array] | None = None, most: float = 1.0,
    rounding: float = 0.0,
) -> str:  # fmt: skip
    """Say how much compute would lower the loss as much as twice the text does.

    Args:
        budget: [FLOPs].
        unique_spec: distinct specialist tokens there are.
        compute: by how much MORE_COMPUTE lowers ln L under each resample, shape (resamples,).
        text: the same of twice the text.
        gain: the same of a factor in compute, where that can be searched; else a large factor is told as the least that it is, by the rate.
        most: factor up to which it is searched.
        rounding: what whole steps of training take from the plan that these are gains over, in ln L: nothing else may be behind them.

    Returns:
        A sentence.
    """
    start = f"another {format_count(unique_spec)} distinct specialist tokens"
    by_text, by_compute = text - rounding, compute - rounding
    if by_text.mean() < 10 * LEAST_GAIN or -np.expm1(-text.mean()) < NOTHING:
        return f"{start} would buy nothing here"
    if by_compute.mean() < (NOTHING if gain is None else LEAST_GAIN):
        lower = -100 * float(np.expm1(-text.mean()))
        return f"{start} would lower the loss by {lower:.2g} %, and {100 * (MORE_COMPUTE - 1):.0f} % more compute hardly at all"
    middle = float(_rates(by_text.mean(), by_compute.mean()))
    low, high = (float(value) for value in np.quantile(_rates(by_text, by_compute), ENDS))
    low, high = min(low, middle), max(high, middle)
    if middle < 1 + LEAST_WORTH:
        return f"{start} would buy next to nothing here"
    at_rate = f"at the rate of the first {100 * (MORE_COMPUTE - 1):.0f} %"
    if middle <= AT_RATE:
        return f"{start} are worth about {budget * (middle - 1):.2g} FLOPs here: {_as_much(middle, low, high)[:-1]}, {at_rate})"
    if gain is not None and most > MORE_COMPUTE:
        factor, low, high = _searched(compute, text, min(middle, most), gain, most)
        if factor is not None:
            return f"{start} are worth about {budget * (factor - 1):.2g} FLOPs here: {_as_much(factor, low, high, most)}"
        return f"{start} are worth more than {budget * (low - 1):.2g} FLOPs here: {format_number(low)} times the compute would not lower the loss as much"
    least = min(middle, MOST_WORTH)
    return (
        f"{start} are worth at least {budget * (least - 1):.2g} FLOPs here: it takes {format_number(least)} times the compute or more to lower the loss "
        f"as much, {at_rate} (90 % interval {_ends(low, high, MOST_WORTH)}), and further on compute buys less"
    )


def _rates(text: Any, compute: Any) -> Any:
    """Return the factors in compute whose gain is that of the text, at the rate of MORE_COMPUTE."""
    return MORE_COMPUTE ** np.minimum(np.maximum(text, 0.0) / np.maximum(compute, LEAST_GAIN), MOST_POWER)


def _as_much(factor: float, low: float, high: float, most: float = FARTHEST) -> str:
    return f"{format_number(factor)} times the compute would lower the loss as much (90 % interval {_ends(low, high, most)})"


def _ends(low: float, high: float, most: float) -> str:
    cut = most * (1 - ROUNDING)
    if low >= cut:
        return f"over {format_number(most)} times"
    return f"{format_number(low)} to {format_number(high)} times" if high < cut else f"{format_number(low)} to over {format_number(most)} times"


def _searched(
    compute: Array, text: Array, first: float, gain: Callable[[float], Array], most: float
) -> tuple[float | None, float, float]:
    """Search for the factor in compute whose gain is that of the text, in the mean over the resamples.

    Args:
        compute: gain in ln L of MORE_COMPUTE under each resample, shape (resamples,).
        text: that of the text, of the same shape.
        first: factor to begin with.
        gain: that of a factor, as a function of it.
        most: factor to end at.

    Returns:
        The factor, and its interval over the resamples; where there is none so far, None and the largest factor that does less.
    """
    target, end = float(text.mean()), float(np.log(most))
    tried: list[tuple[float, Array]] = [(0.0, np.zeros_like(text)), (float(np.log(MORE_COMPUTE)), compute)]
    below, above, at = float(np.log(MORE_COMPUTE)), end, float(np.log(first))
    for _ in range(SEARCHES):
        try:
            tried.append((at, gain(float(np.exp(at)))))
        except DataError:  # no plan of the sizes asked for, or none that keeps a limit
            return None, max(first, float(np.exp(below))), np.inf
        reached = float(tried[-1][1].mean()) >= target
        if at >= end and not reached:
            return None, most, np.inf
        below, above = (below, at) if reached else (at, above)
        at = _between(tried, below, above, _aim(tried, target), target)
        if abs(at - tried[-1][0]) < CLOSE:
            break
    # No resample needs less than what was tried and did less than the text; one to which text is worth nothing, no more than there is.
    least = np.max([np.where(did < text, place, 0.0) for place, did in tried], axis=0)
    factors = np.exp(np.clip(_each(tried, text, at), least, end))
    low, high = (float(value) for value in np.quantile(factors, ENDS))
    factor = float(np.exp(at))
    return factor, min(low, factor), max(high, factor)


def _aim(tried: Sequence[tuple[float, Array]], target: float) -> float:
    """Return the ln C at which the mean gain would be the target, by the three places tried nearest to it."""
    places = sorted(((float(gain.mean()), at) for at, gain in tried), key=lambda pair: abs(pair[0] - target))[:3]
    gains, ats = (np.array(column) for column in zip(*places, strict=True))
    if (np.abs(np.subtract.outer(gains, gains)[np.triu_indices(len(gains), 1)]) < LEAST_GAIN).any():
        return float("inf")  # compute buys nothing more
    aimed = 0.0
    for number, at in enumerate(ats):
        others = np.delete(gains, number)
        aimed += at * float(np.prod((target - others) / (gains[number] - others)))
    return aimed


def _between(tried: Sequence[tuple[float, Array]], below: float, above: float, aimed: float, target: float) -> float:
    """Return where to try next: where was aimed, or, where that is not between the places about the target, on the line from one to the other."""
    if below < aimed < above:
        return aimed
    gains = {at: float(gain.mean()) for at, gain in tried}
    if above not in gains:
        return above if aimed >= above else (below + above) / 2
    return below + (above - below) * (target - gains[below]) / (gains[above] - gains[below])


def _each(tried: Sequence[tuple[float, Array]], text: Array, at: float) -> Any:
    """Return the ln C at which each resample gains what it does by the text, along its line through the two places tried nearest to that of the mean."""
    (near, gained), (other, there) = sorted(tried, key=lambda pair: abs(pair[0] - at))[:2]
    slope = (gained - there) / (near - other)
    return np.where(slope > LEAST_SLOPE, near + (text - gained) / np.maximum(slope, LEAST_SLOPE), np.where(text > gained, np.inf, near))
