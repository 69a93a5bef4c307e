"""Keep libraries from downloading native code: with the package `kernels` installed, bitsandbytes does so on import, and transformers may later."""

from __future__ import annotations

import logging
import sys
from typing import Any


def refuse_fetched() -> None:
    """Hide the package `kernels` from this process, so that libraries use their own code. Call it before they are imported."""
    modules: dict[str, Any] = sys.modules
    modules["kernels"] = None
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns that it could not download
