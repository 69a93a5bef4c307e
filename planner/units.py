"""Counts, FLOPs and times as people write them, to numbers and back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from planner.errors import InputError

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_NUMBER = r"([+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
GROUPED = re.compile(r"^\s*\d{1,3}(,\d{3})+\s*$")
"""One number with commas between its thousands."""
_COUNT = re.compile(rf"^\s*{_NUMBER}\s*([kKmMbBgGtT]?)\s*$")
_FLOPS = re.compile(rf"^\s*{_NUMBER}\s*([kmgtpezy]?)\s*(?:flops?)?\s*$", re.IGNORECASE)
_GPU_TIME = re.compile(rf"^\s*{_NUMBER}\s*gpu[-\s]?(second|minute|hour|day|week|month|year)s?\s*$", re.IGNORECASE)
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0, "month": 2629800.0, "year": 31557600.0}


def parse_count(text: str | float) -> float:
    """Read a count such as "5B", "20k", "1e22" or "1,200,000".

    Raises:
        InputError: not a number, negative, or not finite.
    """
    match = _COUNT.match(str(text))
    if not match:
        raise InputError(f"{text!r} is not a count", remedy="write a number such as 5e9, 5B, 20k or 1.2M")
    return _finite(text, _number(match) * _SUFFIXES[match[2].lower()])


def parse_share(text: str | float) -> float:
    """Read a share such as 0.03 or "3%".

    Raises:
        InputError: not a share.
    """
    match = re.match(rf"^\s*{_NUMBER}\s*(%?)\s*$", str(text))
    if not match:
        raise InputError(f"{text!r} is not a share", remedy="write one such as 0.03 or 3%")
    value = _finite(text, _number(match) / (100 if match[2] else 1))
    if value > 1 and not match[2]:
        raise InputError(f"{text!r} is more than the whole", remedy=f"write {text}% if that is meant")
    return value


def parse_flops(text: str | float, *, flops_per_gpu_second: float | None = None, timed: bool = False) -> float:
    """Read a budget such as "1e22", "3 EFLOP" or, with a stated throughput, "3 GPU-days".

    Args:
        text: the budget.
        flops_per_gpu_second: FLOP/s that one GPU really reaches (peak times utilisation).
        timed: whether the command has an option that states it.

    Raises:
        InputError: not a budget, not positive, or a GPU time without a throughput.
    """
    time = _GPU_TIME.match(str(text))
    if time:
        if flops_per_gpu_second is None:
            remedy = "add --gpu with --mfu, or --gpu-flops with the FLOP/s that one GPU reaches, such as 4e14" if timed else "write FLOPs such as 1e22"
            raise InputError(f"the budget {text!r} is a time, and no throughput is stated", remedy=remedy)
        if not (math.isfinite(flops_per_gpu_second) and flops_per_gpu_second > 0):
            raise InputError(f"a throughput of {flops_per_gpu_second} FLOP/s is not positive", remedy="give a number such as 4e14")
        value = _number(time) * _SECONDS[time[2].lower()] * flops_per_gpu_second
    else:
        match = _FLOPS.match(str(text))
        if not match:
            remedy = "write FLOPs such as 1e22" + (', or a GPU time such as "3 GPU-days" with --gpu-flops' if timed else "")
            raise InputError(f"{text!r} is not a budget", remedy=remedy)
        value = _number(match) * _SUFFIXES[match[2].lower()]
    if _finite(text, value) == 0:
        raise InputError(f"the budget {text!r} is zero", remedy="give a positive budget")
    return value


def format_count(value: float, digits: int = 3) -> str:
    """Write a count for people: 12.3k, 4.1B, 1e+22."""
    if not math.isfinite(value):
        return "all" if value > 0 else str(value)
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= unit * (1 - 0.5 * 10**-digits):
            if value / unit >= 10**5:
                break
            return f"{value / unit:.{digits}g}{suffix}" if abs(value) / unit < 999.5 else f"{value / unit:,.0f}{suffix}"
    return f"{value:.{digits}g}"


def format_number(value: float, digits: int = 3) -> str:
    """Write a number for people, without a power of ten below a million: 0.0123, 66.4, 1,930, 2.05e+09."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if 10**digits <= abs(rounded) < 10**6 else f"{value:.{digits}g}"


def format_epochs(value: float, digits: int = 3) -> str:
    """Write a number of passes for people: 1 epoch, 2.31 epochs."""
    text = format_number(value, digits)
    return f"{text} epoch{'' if text == '1' else 's'}"


def format_part(share: float) -> str:
    """Write a share of a whole; close to 1, what is missing from it: 33 %, all but 0.067 %."""
    return f"{100 * share:.0f} %" if share < 0.995 else "all" if share >= 1 else f"all but {100 * (1 - share):.2g} %"


def format_seconds(seconds: float) -> str:
    """Write a time for people: 45 s, 6 min 36 s, 3 h 05 min, 2.4 days."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < 48 * 3600:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h {rest:02d} min"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 1e5 else f"{days:.3g} days"


def format_bytes(count: float) -> str:
    """Write a number of bytes in decimal units, such as "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:  # what rounds to 1000 takes the next unit
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def format_names(names: Sequence[str], most: int = 5) -> str:
    """Write some names and how many more there are: a, b, c, d, e and 3 more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def format_list(words: Sequence[str], last: str = "and") -> str:
    """Write words, one at least, as a sentence lists them: a, b and c."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def format_interval(low: float, high: float, digits: int = 3) -> str:
    """Write an interval of counts: [1.2M, 3.4M]."""
    return f"[{format_count(low, digits)}, {format_count(high, digits)}]"


def _number(match: re.Match[str]) -> float:
    return float(match[1].replace("_", "").replace(",", ""))


def _finite(text: str | float, value: float) -> float:
    if not math.isfinite(value):
        raise InputError(f"{text!r} is not finite", remedy="give a finite number")
    if value < 0:
        raise InputError(f"{text!r} is negative", remedy="give a positive number")
    return value
