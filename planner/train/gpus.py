"""Which GPUs there are."""

from __future__ import annotations

import os

from planner.errors import InputError


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


def check_device(device: str) -> None:
    """Refuse a device that is unknown or unavailable.

    Raises:
        InputError: neither "cpu" nor "cuda", or "cuda" without a GPU.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device!r} is not known", remedy="choose cpu or cuda")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError("--device cuda was given, but torch finds no GPU", remedy="use --device cpu, or a machine and a build of torch with CUDA")
