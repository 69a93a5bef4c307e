"""Make the allocator keep memory between arrays.

glibc returns a large block to the system when its array is freed, and faults the next one in page by page: on the recorded sweep 1.4 million page
faults and a third of the time of a fit. Told to keep them, it faults each page in once.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_LARGEST = 1 << 30
_PAD = 1 << 26


@cache
def keep_memory() -> bool:
    """Set the allocator's options, once; return whether it accepted them. Does nothing except on Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(option, value) == 1 for option, value in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _PAD))])
