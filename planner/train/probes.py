"""What torch.compile asks of a machine in every process anew, remembered beside what it built.

Before it takes what is cached it starts an interpreter for each instruction set of the processor, to see whether a library built for that can be loaded:
more than a third of a warm start. The libraries stay in its cache, and so does now that they were loaded; one that was not is tried again.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path


@lru_cache
def remember_probes() -> None:
    """Have torch.compile try a library once for all processes that share its cache; a torch that does this otherwise is left as it is."""
    try:
        from torch._inductor.cpu_vec_isa import VecISA

        probe = VecISA._probe_load
    except (ImportError, AttributeError):
        return

    def remembered(self: VecISA, output_path: str) -> bool:
        mark = Path(f"{output_path}.loads")
        if mark.exists():
            return True
        found = bool(probe(self, output_path))
        if found:
            with suppress(OSError):  # a cache that cannot be written is as before
                mark.touch()
        return found

    VecISA._probe_load = remembered  # type: ignore[method-assign]
