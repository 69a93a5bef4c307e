"""The budget of `plan allocate`: from FLOPs, GPU time, money, or GPUs and hours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.cli.console import say
from planner.errors import InputError
from planner.units import parse_count, parse_flops, parse_share

if TYPE_CHECKING:
    from planner.allocate.budget import Budget


def read_throughput(gpu: str | None, mfu: str | None, stated: str | None) -> float | None:
    """Return the FLOP/s that one GPU really reaches; None where they are not stated."""
    from planner.allocate.budget import gpu_flops

    if stated is not None:
        if gpu is not None or mfu is not None:
            raise InputError("--gpu-flops and --gpu with --mfu state the same thing", remedy="give one or the other")
        if (rate := parse_count(stated)) <= 0:
            raise InputError(f"--gpu-flops {stated} is not a positive number", remedy="give the FLOP/s that one GPU really reaches, such as 4e14")
        return rate
    if gpu is None and mfu is None:
        return None
    if gpu is None or mfu is None:
        missing = "--mfu" if gpu is not None else "--gpu"
        raise InputError(f"{missing} is missing: a GPU's speed is its peak (--gpu) times the share that training reaches (--mfu)", remedy=f"add {missing}")
    return gpu_flops(gpu, parse_share(mfu))


def read_budget(flops: str | None, budget: Budget, throughput: float | None, serves: bool) -> tuple[float, float | None]:
    """Return the least of the budgets given [FLOPs], and what --hours allows for training, None without it.

    Prints which of several limits binds. --hours alone is a budget too, unless inference is paid for: that comes after the run.
    """
    hours = budget.hours_of_gpu()
    if hours and throughput is None:
        least = min(hours.values())
        what = f"{least:,.4g} GPU-hours cannot be converted to FLOPs without a GPU speed"
        raise InputError(what, remedy="add --gpu with --mfu, such as --gpu H100 --mfu 0.4, or --gpu-flops")
    limits = {name: value * 3600 * (throughput or math.nan) for name, value in hours.items()}
    if flops is not None:
        limits["--flops"] = parse_flops(flops, flops_per_gpu_second=throughput, timed=True)
    if not limits:
        raise InputError("no budget is given", remedy="give --flops, --gpu-hours, --gpu-days, --usd with --usd-per-gpu-hour, or --gpus with --hours")
    within = limits.pop("--hours", None) if serves else limits.get("--hours")
    if not limits:
        what = "--hours limits training only, and --inference-tokens must be paid from a budget"
        raise InputError(what, remedy="give one too: --flops, --gpu-hours or --usd with --usd-per-gpu-hour")
    binding = min(limits, key=lambda name: limits[name])
    if serves and within is not None and within < limits[binding]:
        say(f"--hours limits training to {within:.3g} FLOPs, whatever the budget")
    if len(limits) > 1:
        others = ", ".join(f"{name} would allow {value:.3g}" for name, value in limits.items() if name != binding)
        say(f"{binding} binds{' the budget' * (binding != '--hours')}: {limits[binding]:.3g} FLOPs; {others}")
    return min((value for name, value in limits.items() if name != "--hours"), default=limits[binding]), within
