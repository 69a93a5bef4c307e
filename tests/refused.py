"""A file that the system does not hand out, for tests that may run as a user whom no permission stops."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def refuse_reading(monkeypatch: pytest.MonkeyPatch, refused: Path, number: int = errno.EACCES) -> None:
    """Have every attempt to read a file fail."""
    for name in ("open", "read_text"):
        monkeypatch.setattr(Path, name, _refusing(getattr(Path, name), refused, number))


def _refusing(method: Any, refused: Path, number: int) -> Any:
    def refuse(path: Path, *given: Any, **named: Any) -> Any:
        if path == refused:
            raise OSError(number, os.strerror(number), str(path))
        return method(path, *given, **named)

    return refuse
