"""One runner per folder, on file systems where `flock` does not reach other machines, and without trusting any clock.

The lock is a file that appears whole or not at all (a hard link to a written one, atomic on network file systems too). It names its holder and is
deleted when the runner ends. A holder on this machine is known by its process id and its start time as the kernel counts it, so a reused id is not
mistaken for it. Whether a holder on another machine lives cannot be known from here: its lock is never taken over, and the message says what to do.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from planner.artifacts import read_json
from planner.errors import InputError, StateError

NAME = "runner.lock"
ATTEMPTS = 20
"""Attempts to create or take over the lock, each lost to another runner, before giving up."""


def this_process() -> dict[str, Any]:
    """Name this process so that another one can tell whether it still lives."""
    return {"pid": os.getpid(), "start": _start(os.getpid()), **_machine()}


def gone(holder: dict[str, Any]) -> bool:
    """Tell whether a process is known to have ended; one on another machine, or in another container, is not."""
    if not elsewhere(holder):
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's process: the holder, or a reused id; /proc may hide which
            start = _start(int(holder["pid"]))
            return None not in (start, holder.get("start")) and start != holder["start"]
        except (OverflowError, KeyError, TypeError, ValueError):
            return False
        return _start(int(holder["pid"])) != holder.get("start")
    return False


def elsewhere(holder: dict[str, Any]) -> bool:
    """Tell whether a process is on another machine, in another container, or from before a restart: out of sight from here."""
    return any(holder.get(key) != value for key, value in _machine().items())


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Read who holds a folder, or None."""
    return _read_holder(folder / NAME)


@contextmanager
def locked(folder: Path, engine: str = "local") -> Iterator[None]:
    """Hold a folder for one runner.

    Args:
        folder: the folder.
        engine: where the holder runs its jobs; shown to others.

    Raises:
        StateError: another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / NAME, secrets.token_hex(8)
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    temporary = folder / f".{NAME}.{token}"
    try:
        temporary.write_text(json.dumps({"token": token, "engine": engine, "since": since, **this_process()}) + "\n")
        _acquire(path, temporary)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}", remedy="make room, or check the permissions of the folder") from error
    finally:
        temporary.unlink(missing_ok=True)
    try:
        yield
    finally:
        if (holder_of(folder) or {}).get("token") == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, temporary: Path) -> None:
    for attempt in range(ATTEMPTS):
        if _create(temporary, path):
            return
        try:
            holder = read_json(path)
        except InputError as error:
            if not path.exists() or attempt < ATTEMPTS // 2:  # released meanwhile, or not written yet
                time.sleep(0.05)
                continue
            if isinstance(error.__cause__, OSError):  # unreadable file of another user, who may be running
                remedy = "ask its owner whether a plan command is running there, or check its permissions"
                raise StateError(f"{path} cannot be read: {error.__cause__.strerror}", remedy=remedy) from error
            raise _nobody(path) from error
        if holder.get("pid") is None:
            raise _nobody(path)
        if not gone(holder):
            raise StateError(f"{path.parent} is being run by {describe(holder)}", remedy=_remedy(holder, path))
        if _take_over(path, temporary, holder):
            return
    raise StateError(f"several runners compete for {path.parent}", remedy="start only one of them")


def _nobody(path: Path) -> StateError:
    return StateError(f"{path} names no holder", remedy=f"if no plan command is running there, delete {path}")


def _take_over(path: Path, temporary: Path, holder: dict[str, Any]) -> bool:
    """Replace the lock of a holder that is gone; of several runners that try, the one that creates the marker succeeds."""
    marker = path.with_name(f"{NAME}.{holder.get('token', 'old')}.taken")
    if not _create(temporary, marker):
        if gone(_read_holder(marker) or {}):  # killed within these few lines
            raise StateError(f"{marker} was left behind by a runner that was killed", remedy=f"delete {marker}")
        return False
    try:
        if (holder_of(path.parent) or {}).get("token") != holder.get("token"):
            return False  # another runner was faster, and it lives
        os.replace(marker, path)
        return True
    finally:
        marker.unlink(missing_ok=True)


def _create(temporary: Path, path: Path) -> bool:
    """Make `path` with the content of `temporary`; False if there is one already."""
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
    try:  # a file system without hard links
        with path.open("x") as file:
            file.write(temporary.read_text())
        return True
    except FileExistsError:
        return False


def describe(holder: dict[str, Any]) -> str:
    """Name a holder for people."""
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')} with --engine {holder.get('engine')}"


def _remedy(holder: dict[str, Any], path: Path) -> str:
    if elsewhere(holder):
        return f"wait for it or stop it there; if that machine or container is gone, delete {path}"
    return "wait for it or stop it"


def _machine() -> dict[str, Any]:
    """Identify the running kernel and the container, as far as possible; a restarted machine counts as another one."""
    return {"host": os.uname().nodename, "boot": _read("/proc/sys/kernel/random/boot_id"), "namespace": _namespace()}


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _read_holder(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except InputError:
        return None


def _start(pid: int) -> str | None:
    """Return the kernel's tick at which a process started, where /proc has it; None if it has ended and only its number is left."""
    text = _read(f"/proc/{pid}/stat")
    values = [] if text is None else text.rpartition(")")[2].split()
    return values[19] if values and values[0] not in "ZX" else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
