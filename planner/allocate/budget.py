"""Budgets in GPU time or money, converted to FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from planner.artifacts import check_numbers
from planner.errors import InputError
from planner.units import format_number, format_seconds, parse_flops

if TYPE_CHECKING:
    from planner.allocate.domains.request import DomainsRequest
    from planner.allocate.request import Request

PEAK_FLOPS = {
    "V100": 125e12, "A100": 312e12, "A10G": 70e12, "L4": 121e12, "L40S": 362e12, "RTX3090": 71e12, "RTX4090": 165e12, "A6000": 155e12,
    "H100": 989e12, "H100-PCIe": 756e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12, "MI250X": 383e12, "MI300X": 1307e12,
}  # fmt: skip
"""Dense bfloat16 (V100: float16) peak of one GPU [FLOP/s], without sparsity, as its maker states it."""
_KNOWN = {name.lower(): peak for name, peak in PEAK_FLOPS.items()}


@dataclass(frozen=True)
class Budget:
    """GPU time, or money for it, on GPUs of one kind."""

    gpu_hours: float | None = None
    gpu_days: float | None = None
    usd: float | None = None
    usd_per_gpu_hour: float | None = None
    gpus: int | None = None
    """Number of GPUs, for the time limit."""
    hours: float | None = None
    """Time limit [hours]."""

    def hours_of_gpu(self) -> dict[str, float]:
        """Return the GPU-hours that each limit allows, by the option that sets it; empty if there is no limit.

        Raises:
            InputError: an option lacks its counterpart, or is not positive.
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
                priced = ", or the speed of a GPU (--gpu with --mfu) for the cost of the plan" if there == "--usd-per-gpu-hour" else ""
                raise InputError(f"{there} has no effect without {missing}", remedy=f"add {missing}{priced}")
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


@dataclass(frozen=True)
class Cost:
    """Cost of a plan, if the speed of a GPU was given."""

    gpu_hours: float
    """GPU-hours of training."""
    gpu_hours_inference: float
    """GPU-hours of inference, if counted, at the speed of training, which token-by-token generation does not reach."""
    hours: float
    """Hours of training on the GPUs of the request, all of them busy until its end."""
    usd: float | None
    """Dollars for training and inference together; None if no price was given."""


def cost_of(request: Request | DomainsRequest, training: float, inference: float) -> dict[str, Any] | None:
    """Return the fields of a plan's `Cost` from its FLOPs; None if the request has no speed of a GPU."""
    if request.flops_per_gpu_second is None:
        return None
    trained, served = (flops / request.flops_per_gpu_second / 3600 for flops in (training, inference))
    price = request.usd_per_gpu_hour
    return asdict(Cost(trained, served, trained / request.gpus, None if price is None else price * (trained + served)))


def check_cost(body: Mapping[str, Any] | None) -> None:
    """Check a cost that was read; for use inside `artifacts.whole`.

    Raises:
        KeyError: a number is missing.
        ValueError: a number that no cost is.
    """
    if body is not None:
        check_numbers(body, ("gpu_hours", "gpu_hours_inference", "hours"), low=0.0, what="the cost")
        check_numbers(body, ("usd",), low=0.0, optional=True, what="the cost")


def say_cost(cost: Mapping[str, Any] | None, gpus: float) -> str:
    """State the cost of a plan; empty if unknown."""
    if cost is None:
        return ""
    served = cost["gpu_hours_inference"]
    parts = [f"{format_number(cost['gpu_hours'])} GPU-hours of training"]
    slower = "counted at the speed of training, which token-by-token generation does not reach"
    parts += [f"{format_number(served)} of inference ({slower})"] if served else []
    of = "" if cost["usd"] is None else f"; {format_number(cost['usd'])} dollars" + (" together" if served else "")
    seconds = 3600 * cost["hours"]
    time = format_seconds(seconds) if seconds >= 1 else f"{format_number(seconds)} s"
    return f"cost: {' and '.join(parts)}; training takes {time} on {gpus} GPU{'s' * (gpus > 1)}{of}"


def gpu_flops(gpu: str, mfu: float) -> float:
    """Return the training speed of one GPU [FLOP/s].

    Args:
        gpu: its name, one of `PEAK_FLOPS` in any case.
        mfu: model FLOPs utilisation, the share of the peak that training reaches, above 0 and up to 1.

    Raises:
        InputError: an unknown GPU, or an invalid share.
    """
    if gpu.lower() not in _KNOWN:
        raise InputError(f"the peak of {gpu!r} is not known", remedy=f"choose one of {', '.join(PEAK_FLOPS)}, or give --gpu-flops")
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu {mfu:g} is not a share of the peak", remedy="give a number above 0 and up to 1, such as 0.4")
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
        remedy = f"give the value from its data sheet, such as 989e12, or one of {', '.join(PEAK_FLOPS)}"
        raise InputError(f"--peak-flops {told!r} is neither a known GPU nor a number of FLOP/s", remedy=remedy) from error
