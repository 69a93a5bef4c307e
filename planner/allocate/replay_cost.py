"""By how much replay raises the specialist loss: measured in one sweep, `computing/replay`, and added to every forecast of a plan with replay.

A law of the specialist loss knows no replay (`plan fit` refuses such runs) and counts replayed text as general text before the stage. Among runs with the
same model, trunk and specialist text, those with replay reach a higher loss than this forecast: by 0.14 % of the loss with 10 % of replay on average
(−0.23 to 0.31 over 14 pairs), 0.76 % with 30 % (0.25 to 1.25, 14 pairs), 2.3 % with 50 % (2.1 to 2.5, 3 pairs).

Assumption: the cost is the same for other text, sizes and amounts. It was measured on one text at 20k to 200k parameters, so the interval of a forecast
is widened by the whole cost to both sides: no cost and twice the cost are both inside.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.arrays import Array
from planner.fit.fitted import Forecast

SHARES = (0.0, 0.1, 0.3, 0.5)
"""Of general text in the specialist stage."""
COSTS = (0.0, 0.0014, 0.0076, 0.023)
"""Mean of ln L measured at these shares, minus the forecast of the law of `computing` with replayed text counted as general text."""
NO_REPLAY = "the general law has no runs with replay: its effect on the general loss is not measured, and none is planned"


def cost(share: Any) -> Array:
    """Return what shares of replay add to ln L: linear between those measured, extrapolated with the last slope; NaN for a share of NaN."""
    share = np.asarray(share, dtype=float)
    slope = (COSTS[-1] - COSTS[-2]) / (SHARES[-1] - SHARES[-2])
    result: Array = np.interp(share, SHARES, COSTS) + slope * np.maximum(share - SHARES[-1], 0.0)
    return result


def cost_on_top(share: Array, replayed: Array, bare: Array) -> Array:
    """Return what replay on top of an existing trunk adds to ln L, shape (plans,).

    By the law replayed text lowers the loss as much as additional general text before the stage; after a short trunk that exceeds the cost of replay.
    This happened in some runs, by at most 0.26 %, but not on average. The gain is therefore capped at the cost: otherwise a tighter limit, which needs
    more replay, could be forecast better than a looser one or none.

    Args:
        share: of replay.
        replayed: ln L by the law, with the replayed text counted as general text.
        bare: ln L by the law without it.
    """
    result: Array = np.where(share > 0, np.maximum(cost(share), bare - replayed), 0.0)
    return result


def dearer(forecast: Forecast, added: Any) -> Forecast:
    """Raise a forecast by what replay adds to ln L, and widen its interval by as much to both sides, as an independent uncertainty."""
    ends = [np.hypot(np.log(end / forecast.loss), added) for end in (forecast.low, forecast.high)]
    middle = forecast.loss * np.exp(added)
    return Forecast(middle, middle * np.exp(-ends[0]), middle * np.exp(ends[1]))


def said_of(shares: Any) -> str:
    """State the assumption about replay for given shares, of one plan or several."""
    least, most = (100 * np.expm1(cost(end(shares))) for end in (np.min, np.max))
    span = f"{most:.2g} %" if most - least < 0.005 else f"{least:.2g} to {most:.2g} %"
    return (
        f"the forecast counts replayed text as general text and adds {span} to the specialist loss for replaying it, as measured in one sweep "
        f"(0.14 % with 10 % of replay, 0.76 % with 30 %, 2.3 % with 50 %); the interval allows for no such cost and for twice as much"
    )
