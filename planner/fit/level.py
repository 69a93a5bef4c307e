"""The level of every interval."""

from __future__ import annotations

from typing import Any

import numpy as np

LEVEL = 0.9
"""Probability that an interval is to cover."""
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
"""Quantiles that it lies between."""
Z = 1.6448536269514722
"""Normal quantile of (1 + LEVEL) / 2."""


def interval_of(values: Any) -> tuple[float, float]:
    """Return the interval of a quantity from its values under the resamples."""
    low, high = np.quantile(values, ENDS)
    return float(low), float(high)
