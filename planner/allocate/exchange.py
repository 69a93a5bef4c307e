"""What specialist text is worth in compute: the factor in compute that lowers the loss as much as twice the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError
from planner.fit.level import ENDS
from planner.units import format_count, format_number

MORE_COMPUTE = 1.1
"""Factor in compute whose gain defines the rate."""
LEAST_GAIN = 1e-6
"""Gain in ln L below which more compute gains too little to compare with."""
LEAST_WORTH = 0.005
"""Share of the compute below which text is worth almost nothing."""
NOTHING = 5e-5
"""Share of the loss that a table in per cent shows as zero."""
AT_RATE = 1.5
"""Factor in compute up to which the rate holds; beyond it returns diminish."""
MOST_WORTH = 10.0
"""Largest factor reported from the rate alone, and end of its interval."""
MOST_POWER = 1000.0
"""Largest power of MORE_COMPUTE that the rate may give."""
FARTHEST = 1000.0
"""Largest end of an interval that is reported."""
ROUNDING = 1e-9
"""Share below the maximum within which an end counts as cut off there."""
SEARCHES = 5
"""Searches at most."""
CLOSE = 0.01
"""Precision of the factor, in ln C."""
LEAST_SLOPE = 1e-6
"""Gain in ln L per unit of ln C below which a resample counts as gaining nothing more."""


def exchange_of(
    budget: float, unique_spec: float, compute: Array, text: Array, gain: Callable[[float], Array] | None = None, most: float = 1.0,
    rounding: float = 0.0,
) -> str:  # fmt: skip
    """Say how much compute would lower the loss as much as twice the text.

    Args:
        budget: [FLOPs].
        unique_spec: distinct specialist tokens available.
        compute: by how much MORE_COMPUTE lowers ln L under each resample, shape (resamples,).
        text: the same of twice the text.
        gain: returns the same for a factor in compute, if that can be searched; otherwise a large factor is reported as a lower bound from the rate.
        most: largest factor to search.
        rounding: loss in ln L of the reference plan through rounding to whole steps, which may explain as much of the gains.

    Returns:
        A sentence.
    """
    start = f"another {format_count(unique_spec)} distinct specialist tokens"
    by_text, by_compute = text - rounding, compute - rounding
    if by_text.mean() < 10 * LEAST_GAIN or -np.expm1(-text.mean()) < NOTHING:
        return f"{start} would gain nothing here"
    if by_compute.mean() < (NOTHING if gain is None else LEAST_GAIN):
        lower = -100 * float(np.expm1(-text.mean()))
        return f"{start} would lower the loss by {lower:.2g} %, and {100 * (MORE_COMPUTE - 1):.0f} % more compute hardly at all"
    middle = float(_rates(by_text.mean(), by_compute.mean()))
    low, high = (float(value) for value in np.quantile(_rates(by_text, by_compute), ENDS))
    low, high = min(low, middle), max(high, middle)
    if middle < 1 + LEAST_WORTH:
        return f"{start} would gain next to nothing here"
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
        f"as much, {at_rate} (90 % interval {_ends(low, high, MOST_WORTH)}), with diminishing returns beyond"
    )


def _rates(text: Any, compute: Any) -> Any:
    """Return the factors in compute that gain as much as the text, at the rate of MORE_COMPUTE."""
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
    """Search for the factor in compute that gains as much as the text, on average over the resamples.

    Args:
        compute: gain in ln L of MORE_COMPUTE under each resample, shape (resamples,).
        text: that of the text, of the same shape.
        first: factor to begin with.
        gain: gain as a function of the factor.
        most: largest factor.

    Returns:
        The factor and its interval over the resamples; if none is large enough, None and the largest factor known to gain less.
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
    # No resample needs less than a factor that gained less than the text; one to which the text is worth nothing needs no more compute.
    least = np.max([np.where(did < text, place, 0.0) for place, did in tried], axis=0)
    factors = np.exp(np.clip(_each(tried, text, at), least, end))
    low, high = (float(value) for value in np.quantile(factors, ENDS))
    factor = float(np.exp(at))
    return factor, min(low, factor), max(high, factor)


def _aim(tried: Sequence[tuple[float, Array]], target: float) -> float:
    """Return the ln C at which the mean gain would be the target, interpolated from the three nearest points."""
    places = sorted(((float(gain.mean()), at) for at, gain in tried), key=lambda pair: abs(pair[0] - target))[:3]
    gains, ats = (np.array(column) for column in zip(*places, strict=True))
    if (np.abs(np.subtract.outer(gains, gains)[np.triu_indices(len(gains), 1)]) < LEAST_GAIN).any():
        return float("inf")  # more compute gains nothing
    aimed = 0.0
    for number, at in enumerate(ats):
        others = np.delete(gains, number)
        aimed += at * float(np.prod((target - others) / (gains[number] - others)))
    return aimed


def _between(tried: Sequence[tuple[float, Array]], below: float, above: float, aimed: float, target: float) -> float:
    """Return where to try next: the aim if it lies between the points that bracket the target, else on the line between them."""
    if below < aimed < above:
        return aimed
    gains = {at: float(gain.mean()) for at, gain in tried}
    if above not in gains:
        return above if aimed >= above else (below + above) / 2
    return below + (above - below) * (target - gains[below]) / (gains[above] - gains[below])


def _each(tried: Sequence[tuple[float, Array]], text: Array, at: float) -> Any:
    """Return the ln C at which each resample gains as much as by the text, on its line through the two points nearest to that of the mean."""
    (near, gained), (other, there) = sorted(tried, key=lambda pair: abs(pair[0] - at))[:2]
    slope = (gained - there) / (near - other)
    return np.where(slope > LEAST_SLOPE, near + (text - gained) / np.maximum(slope, LEAST_SLOPE), np.where(text > gained, np.inf, near))
