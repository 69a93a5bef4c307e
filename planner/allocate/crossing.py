"""Two training methods, each with its own law: where one becomes better than the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.fit.level import interval_of
from planner.recipe import Recipe
from planner.shapes import ModelShape

POINTS = 240
"""Amounts of specialist text at which the laws are compared."""
MOST_RESAMPLES = 400


@dataclass(frozen=True)
class Crossing:
    """One model after some general tokens, specialised in two ways."""

    names: tuple[str, str]
    """The methods."""
    params_non_embedding: int
    tokens_pt: float
    unique_spec: float
    tokens: Array
    """Specialist tokens of the first method, shape (points,)."""
    tokens_other: Array
    """Those of the second: the same number, or the number that costs the same FLOPs."""
    loss: Array
    """Fitted loss and the ends of its interval by method [nats/token], shape (2, 3, points)."""
    better: Array
    """Share of the resamples in which the second method is better, shape (points,)."""
    crossing: float | None
    """Specialist tokens of the first method at which the fitted laws cross; None if one is better everywhere."""
    low: float | None
    high: float | None
    """90 % interval over the resamples that cross; None if fewer than half do."""
    crossed: float
    """Share of the resamples that cross."""
    equal_flops: bool


def crossing(
    law: FittedLaw, other: FittedLaw, shape: ModelShape, *, tokens_pt: float, unique_spec: float, most: float, least: float, equal_flops: bool = False
) -> Crossing:
    """Compare two laws along the specialist tokens.

    The two tables were resampled independently, so the resamples of one are paired at random with those of the other.

    Args:
        law: of the first method.
        other: of the second.
        shape: of the model.
        tokens_pt: general tokens before.
        unique_spec: distinct specialist tokens.
        most: largest number of specialist tokens of the first method.
        least: smallest number.
        equal_flops: whether the second method gets as many specialist tokens as make both stages cost the same FLOPs, instead of the same tokens.

    Raises:
        InputError: the range is empty, or both laws are of one method.
        DataError: the laws are of different recipes or text, a recipe is unknown, or the general stage takes all FLOPs.
    """
    names = (str(law.source.get("method", "full")), str(other.source.get("method", "full")))
    if names[0] == names[1]:
        raise InputError(f"both laws are of method {names[0]}", remedy="fit the other one with plan fit --method")
    if not 0 < least < most:
        raise InputError(f"specialist tokens from {least:g} to {most:g}", remedy="give a range")
    for key in ("recipe", "corpus"):
        if not law.source.get(key) or law.source.get(key) != other.source.get(key):
            raise DataError(f"the two laws differ in {key}", remedy="fit both to the table of one sweep")
    recipe = Recipe.from_mapping(law.source["recipe"])
    ways = [recipe.method(name) for name in names]
    cost, before = ([way.flops_per_token(shape, recipe.seq_len) for way in stage] for stage in (ways, [way.general for way in ways]))
    tokens = np.geomspace(least, most, POINTS)
    theirs = tokens * (cost[0] / cost[1]) + tokens_pt * ((before[0] - before[1]) / cost[1]) if equal_flops else tokens
    if theirs[0] <= 0:
        raise DataError(
            f"{tokens_pt:g} general tokens cost more with {names[1]} than both stages with {names[0]} and {least:g} specialist tokens",
            remedy="give fewer --general-tokens, or swap the laws",
        )
    size = {"non_embedding": np.full(POINTS, shape.params_non_embedding), "total": np.full(POINTS, shape.params_total)}
    losses, draws = [], []
    for each, at in ((law, tokens), (other, theirs)):
        place = np.full(POINTS, tokens_pt), at, np.full(POINTS, unique_spec)
        forecast = each.forecast(size, *place)
        losses.append([forecast.loss, forecast.low, forecast.high])
        drawn = each.log_loss_resamples(each.points(size, *place))
        draws.append(drawn[np.linspace(0, len(drawn) - 1, min(len(drawn), MOST_RESAMPLES)).astype(int)])
    count = min(len(drawn) for drawn in draws)
    # Resamples of the two tables are independent: pair them in random order.
    difference = draws[1][:count][np.random.default_rng(0).permutation(count)] - draws[0][:count]
    found = [value for row in difference if (value := _zero(tokens, row)) is not None]
    low, high = interval_of(found) if 2 * len(found) >= count else (None, None)
    return Crossing(
        names, shape.params_non_embedding, tokens_pt, unique_spec, tokens, theirs, np.array(losses), (difference < 0).mean(0),
        _zero(tokens, np.log(losses[1][0]) - np.log(losses[0][0])), low, high, len(found) / count, equal_flops,
    )  # fmt: skip


def _zero(tokens: Array, difference: Array) -> float | None:
    """Return where the difference last changes sign, interpolated linearly in the logarithm of the tokens."""
    change = np.flatnonzero(np.signbit(difference[1:]) != np.signbit(difference[:-1]))
    if not len(change):
        return None
    at = int(change[-1])
    share = difference[at] / (difference[at] - difference[at + 1])
    return float(np.exp(np.log(tokens[at]) + share * np.log(tokens[at + 1] / tokens[at])))
