"""User-given sbatch options for sweeps and launches; they end in batch scripts, so nothing that a shell could interpret gets through."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from math import ceil

from planner.errors import InputError

_KEY = re.compile(r"[a-z][a-z0-9-]*\Z")
_WRONG = re.compile(r"[^\w.,:;=@+/()\[\]*&|!~^%-]", re.ASCII)
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?\Z", re.ASCII)


def read_options(pairs: Iterable[str], ours: Collection[str]) -> dict[str, str]:
    """Read key=value options; a dash or an underscore inside a key are the same.

    Args:
        pairs: as given on the command line.
        ours: options that the planner sets itself.

    Raises:
        InputError: an option that is unknown, given twice or set by the planner, or a value that a shell could interpret.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--slurm-option {pair!r} has no =", remedy="write key=value, such as account=physics")
        key = key.strip().removeprefix("--").replace("_", "-")
        if key in found:
            raise InputError(f"--slurm-option {key} is given twice", remedy="give it once")
        found[key] = value
    check_options(found, ours)
    return found


def check_options(options: Mapping[str, str], ours: Collection[str]) -> None:
    """Check options of sbatch.

    Raises:
        InputError: an option that is unknown or set by the planner, or a value that a shell could interpret.
    """
    for key, value in options.items():
        if not _KEY.match(key):
            raise InputError(f"--slurm-option {key!r} is not an option of sbatch", remedy="write it as for sbatch, such as account=physics")
        # sbatch accepts abbreviated options, and the later of two lines wins.
        if any(own.startswith(key) for own in ours):
            raise InputError(f"--slurm-option {key}={value} is set by the planner itself", remedy="leave it out")
        wrong = _WRONG.search(value)
        if wrong or not value:
            found = f"holds {wrong[0]!r}" if wrong else "is empty"
            raise InputError(f"--slurm-option {key} is {value!r}, which {found}", remedy="use letters, digits and _.,:;=@+-/ only")


def minutes(time: str) -> int:
    """Read a time limit as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, and that with seconds.

    Raises:
        InputError: it is not a time limit.
    """
    found = _TIME.match(time)
    days, parts = (found["days"], [int(found[name] or 0) for name in ("first", "second", "third")]) if found else (None, [0, 0, 0])
    if days is None and found is not None and found["third"] is None:
        parts = [0, *parts[:2]]  # without days and hours the first part is minutes
    seconds = 86400 * int(days or 0) + 3600 * parts[0] + 60 * parts[1] + parts[2]
    if seconds == 0:
        raise InputError(f"--slurm-option time={time} is not a time limit", remedy="write it as for sbatch, such as time=120 (minutes) or time=1-12:00:00")
    return ceil(seconds / 60)
