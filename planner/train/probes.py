"""Cache torch.compile's probes of the machine, which it would repeat in every process.

Before it uses its cache it starts an interpreter for each instruction set of the processor, to see whether a library built for that set can be loaded:
more than a third of a warm start. The libraries stay in its cache; now a mark that they loaded does too. One that did not load is tried again.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path


@lru_cache
def remember_probes() -> None:
    """Have torch.compile probe a library once for all processes that share its cache; a version of torch that probes differently is left alone."""
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
            with suppress(OSError):  # if the cache cannot be written, it is probed again
                mark.touch()
        return found

    VecISA._probe_load = remembered  # type: ignore[method-assign]
