"""Which GPUs there are."""

from __future__ import annotations

import os


def visible_gpus() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where torch is not installed, or sees none."""
    try:
        import torch
    except ModuleNotFoundError:
        return ()
    count = torch.cuda.device_count()  # of those that the variable leaves visible
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if stated is None else map(str.strip, stated.split(","))
    return tuple(names)[:count]
