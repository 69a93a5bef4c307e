"""A budget as people have it, in GPU time or money, to FLOPs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.errors import InputError
from planner.units import parse_flops

PEAK_FLOPS = {
    "V100": 125e12, "A100": 312e12, "A10G": 70e12, "L4": 121e12, "L40S": 362e12, "RTX3090": 71e12, "RTX4090": 165e12, "A6000": 155e12,
    "H100": 989e12, "H100-PCIe": 756e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "MI250X": 383e12, "MI300X": 1307e12,
}  # fmt: skip
"""Dense bfloat16 (V100: float16) peak of one GPU [FLOP/s], without sparsity, as its maker states it."""
_KNOWN = {name.lower(): peak for name, peak in PEAK_FLOPS.items()}


@dataclass(frozen=True)
class Budget:
    """What there is to spend: GPU time, or money for it, on GPUs of one kind."""

    gpu_hours: float | None = None
    gpu_days: float | None = None
    usd: float | None = None
    usd_per_gpu_hour: float | None = None
    gpus: int | None = None
    """How many there are, for a limit in time."""
    hours: float | None = None
    """Limit in time [hours]."""

    def hours_of_gpu(self) -> dict[str, float]:
        """Return the GPU-hours that each limit allows, by the option that sets it; none where there is no limit.

        Raises:
            InputError: a limit is missing its other half, or is not positive.
        """
        given = {
            "--gpu-hours": self.gpu_hours, "--gpu-days": self.gpu_days, "--usd": self.usd, "--usd-per-gpu-hour": self.usd_per_gpu_hour,
            "--gpus": self.gpus, "--hours": self.hours,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value:g} is not a positive number", remedy="give a positive number")
        for one, other in (("--usd", "--usd-per-gpu-hour"), ("--gpus", "--hours")):
            if (given[one] is None) != (given[other] is None):
                there, missing = (one, other) if given[other] is None else (other, one)
                raise InputError(f"{there} says nothing without {missing}", remedy=f"add {missing}")
        limits = {}
        if self.gpu_hours is not None:
            limits["--gpu-hours"] = self.gpu_hours
        if self.gpu_days is not None:
            limits["--gpu-days"] = 24 * self.gpu_days
        if self.usd is not None and self.usd_per_gpu_hour is not None:
            limits["--usd"] = self.usd / self.usd_per_gpu_hour
        if self.gpus is not None and self.hours is not None:
            limits["--hours"] = self.gpus * self.hours
        return limits


def gpu_flops(gpu: str, mfu: float) -> float:
    """Return what one GPU really does [FLOP/s].

    Args:
        gpu: its name, one of `PEAK_FLOPS` in any case.
        mfu: model FLOPs utilisation, the share of the peak that training reaches, over 0 and up to 1.

    Raises:
        InputError: an unknown GPU, or a share that is none.
    """
    if gpu.lower() not in _KNOWN:
        raise InputError(f"the peak of {gpu!r} is not known", remedy=f"choose one of {', '.join(PEAK_FLOPS)}, or state --gpu-flops")
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu {mfu:g} is not a share of the peak", remedy="give a number over 0 and up to 1, such as 0.4")
    return _KNOWN[gpu.lower()] * mfu


def peak_flops(told: str) -> float:
    """Return a device's peak [FLOP/s] from the name of a GPU, in any case, or from the number itself.

    Raises:
        InputError: neither.
    """
    if told.lower() in _KNOWN:
        return _KNOWN[told.lower()]
    try:
        return parse_flops(told)
    except InputError as error:
        remedy = f"give its data sheet's value, such as 989e12, or one of {', '.join(PEAK_FLOPS)}"
        raise InputError(f"--peak-flops {told!r} is neither a GPU that is known nor FLOP/s", remedy=remedy) from error
