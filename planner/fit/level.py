"""The level of every interval."""

from __future__ import annotations

LEVEL = 0.9
"""Probability that an interval is to cover."""
Z = 1.6448536269514722
"""Normal quantile of (1 + LEVEL) / 2."""
