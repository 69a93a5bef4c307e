"""No native code from a hub: where the package `kernels` is installed, bitsandbytes fetches binaries at its import, and transformers may later."""

from __future__ import annotations

import logging
import sys
from typing import Any


def refuse_fetched() -> None:
    """Make `kernels` a package that is not there, in this process; libraries then use what they bring. Must come before they are imported."""
    modules: dict[str, Any] = sys.modules
    modules["kernels"] = None
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # it warns of what it could not fetch
