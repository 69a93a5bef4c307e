"""Bisection in the logarithm."""

import pytest

from planner.allocate.bisection import bisect_log


def test_the_ends_bracket_where_the_condition_begins_to_hold() -> None:
    tried: list[float] = []

    def holds(value: float) -> bool:
        tried.append(value)
        return value >= 3e4

    low, high = bisect_log(1.0, 1e9, holds, 12)
    assert low < 3e4 <= high and high / low == pytest.approx(1e9 ** (1 / 2**12)) and len(tried) == 12
    assert bisect_log(1.0, 1e9, holds, 0) == (1.0, 1e9)
