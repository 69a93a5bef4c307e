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
    """Return what one GPU really does [FLOP/s]; None where nothing is said of it."""
    from planner.allocate.budget import gpu_flops

    if stated is not None:
        if gpu is not None or mfu is not None:
            raise InputError("--gpu-flops says what --gpu and --mfu say", remedy="give one or the other")
        if (rate := parse_count(stated)) <= 0:
            raise InputError(f"--gpu-flops {stated} is not a positive number", remedy="give what one GPU really does, such as 4e14")
        return rate
    if gpu is None and mfu is None:
        return None
    if gpu is None or mfu is None:
        missing = "--mfu" if gpu is not None else "--gpu"
        raise InputError(f"{missing} is missing: what a GPU really does is its peak times the share that training reaches", remedy=f"add {missing}")
    return gpu_flops(gpu, parse_share(mfu))


def read_budget(flops: str | None, budget: Budget, throughput: float | None, serves: bool) -> tuple[float, float | None]:
    """Return the budget [FLOPs] from whichever ways it is given, the least of them, and beside it what training may take in the time there is.

    Which of several limits binds is said. Time alone is a budget too, but not where inference is paid: that is after the run.
    """
    hours = budget.hours_of_gpu()
    if hours and throughput is None:
        least = min(hours.values())
        raise InputError(f"{least:,.4g} GPU-hours are no FLOPs yet", remedy="add --gpu with --mfu, such as --gpu H100 --mfu 0.4, or --gpu-flops")
    limits = {name: value * 3600 * (throughput or math.nan) for name, value in hours.items()}
    if flops is not None:
        limits["--flops"] = parse_flops(flops, flops_per_gpu_second=throughput, timed=True)
    if not limits:
        raise InputError("no budget is given", remedy="give --flops, --gpu-hours, --gpu-days, --usd with --usd-per-gpu-hour, or --gpus with --hours")
    within = limits.pop("--hours", None) if serves else limits.get("--hours")
    if not limits:
        what = "--hours limits the run, and --inference-tokens are paid after it from a budget"
        raise InputError(what, remedy="give that too: --flops, --gpu-hours or --usd with --usd-per-gpu-hour")
    binding = min(limits, key=lambda name: limits[name])
    if serves and within is not None and within < limits[binding]:
        say(f"--hours leaves training {within:.3g} FLOPs, whatever the budget")
    if len(limits) > 1:
        others = ", ".join(f"{name} would allow {value:.3g}" for name, value in limits.items() if name != binding)
        say(f"{binding} binds{' the budget' * (binding != '--hours')}: {limits[binding]:.3g} FLOPs; {others}")
    return min((value for name, value in limits.items() if name != "--hours"), default=limits[binding]), within
