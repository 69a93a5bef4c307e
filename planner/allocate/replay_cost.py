"""What replayed general text costs the specialist loss: measured in one sweep, `computing/replay`, and added to every forecast of a plan that replays.

A law of the specialist loss knows no replay (`plan fit` refuses such runs), and counts replayed text like general text before the stage. Of runs of one
model, one trunk and one amount of specialist text, those with replay end higher than that says: by 0.14 % of the loss with 10 % of replay in the mean
(−0.23 to 0.31 over 14 pairs), 0.76 % with 30 % (0.25 to 1.25, 14 pairs), 2.3 % with 50 % (2.1 to 2.5, 3 pairs).

Assumption: other text, sizes and amounts pay the same. It rests on one text and 20k to 200k parameters, so that the interval of a forecast is widened by
all of it to both sides: nothing, and twice as much, are both inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.fitted import Forecast

SHARES = (0.0, 0.1, 0.3, 0.5)
"""Of general text in the specialist stage."""
COSTS = (0.0, 0.0014, 0.0076, 0.023)
"""Mean of ln L measured there, less what the law of `computing` says with replayed text counted as general text."""
NO_REPLAY = "no run of the general law replays general text: what replay would keep is not measured, and none is planned"


def cost(share: Any) -> Array:
    """Return what shares of replay add to ln L: linear between those measured, and on at the last slope beyond; not a number for such a share."""
    share = np.asarray(share, dtype=float)
    slope = (COSTS[-1] - COSTS[-2]) / (SHARES[-1] - SHARES[-2])
    result: Array = np.interp(share, SHARES, COSTS) + slope * np.maximum(share - SHARES[-1], 0.0)
    return result


def cost_on_top(share: Array, replayed: Array, bare: Array) -> Array:
    """Return what replay on top of a trunk that is there already adds to ln L, shape (plans,).

    By the law the replayed text lowers the loss as that much more general text before the stage would, after a short trunk by more than replay costs. So
    it was in some runs, by 0.26 % at the most, and not in the mean. It is taken to make up for the cost and no more: a tighter limit, which asks for more
    replay, is then never forecast better, and neither is any limit than none.

    Args:
        share: of replay.
        replayed: ln L by the law, with the replayed text counted as general text.
        bare: ln L by the law without it.
    """
    result: Array = np.where(share > 0, np.maximum(cost(share), bare - replayed), 0.0)
    return result


def dearer(forecast: Forecast, added: Any) -> Forecast:
    """Raise a forecast by what replay adds to ln L, and widen its interval by as much to both sides, one uncertainty beside the others."""
    ends = [np.hypot(np.log(end / forecast.loss), added) for end in (forecast.low, forecast.high)]
    middle = forecast.loss * np.exp(added)
    return Forecast(middle, middle * np.exp(-ends[0]), middle * np.exp(ends[1]))


def said_of(shares: Any) -> str:
    """Say what is assumed of the replay of a plan, or of several, whose shares are given."""
    least, most = (100 * np.expm1(cost(end(shares))) for end in (np.min, np.max))
    span = f"{most:.2g} %" if most - least < 0.005 else f"{least:.2g} to {most:.2g} %"
    return (
        f"the forecast counts replayed text like other general text, and {span} of the specialist loss for replaying it, as the one sweep that measured "
        f"it has it (0.14 % with 10 % of replay, 0.76 % with 30 %, 2.3 % with 50 %); the interval allows for none of that and for twice as much"
    )
