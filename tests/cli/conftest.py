"""What commands are tried on."""

from pathlib import Path

import pytest

from planner.fit.fitted import FittedLaw


@pytest.fixture
def law(fitted: FittedLaw, tmp_path: Path) -> Path:
    """A law in a file of its own."""
    path = tmp_path / "law.json"
    fitted.save(path, {})
    return path
