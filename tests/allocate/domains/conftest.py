"""Fixtures of the tests of many domains."""

import pytest

from planner.allocate.domains import allocate
from planner.allocate.domains.sensitivity import Sensitivity


@pytest.fixture
def plans_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what more of something would buy and what lies around a recommendation: up to two thirds of an answer's time."""
    monkeypatch.setattr(allocate, "prices", lambda *_: ([], ""))
    monkeypatch.setattr(allocate, "sensitivity", lambda *_: Sensitivity(None, None, None, None, None, None))
