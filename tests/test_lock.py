"""One runner a folder: stale locks are taken over, living and foreign ones are not, and of many that try one gets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.artifacts import read_json
from planner.errors import StateError
from planner.lock import NAME, gone, holder_of, locked, this_process
from tests.refused import refuse_reading


def plant(folder: Path, **changes: object) -> None:
    """Leave a lock of this process behind, changed."""
    holder = {"token": "old", "engine": "ray", "since": "2026-01-01T00:00:00+00:00", **this_process(), **changes}
    (folder / NAME).write_text(json.dumps(holder))


def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path, "ray"):
        assert (holder_of(tmp_path) or {})["engine"] == "ray"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_living_holder_is_named(tmp_path: Path) -> None:
    with locked(tmp_path, "slurm"), pytest.raises(StateError) as error, locked(tmp_path):
        pass
    assert f"process {os.getpid()} on {os.uname().nodename} since 20" in str(error.value) and "--engine slurm; wait for it" in str(error.value)


@pytest.mark.parametrize("since", ["1970-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00"])
def test_the_lock_of_a_dead_process_is_taken_over_whatever_the_clock_says(tmp_path: Path, since: str) -> None:
    plant(tmp_path, pid=dead(), since=since)
    with locked(tmp_path):
        assert read_json(tmp_path / NAME)["token"] != "old"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the start of a process is read from /proc")
def test_another_process_with_the_number_of_the_holder_is_not_the_holder(tmp_path: Path) -> None:
    plant(tmp_path, start="1")
    with locked(tmp_path):
        assert (holder_of(tmp_path) or {})["start"] == this_process()["start"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the start of a process is read from /proc")
@pytest.mark.parametrize(("start", "hidden", "ended"), [("1", False, True), ("1", True, False), (None, False, False), ("own", False, False)])
def test_a_process_of_another_user_is_the_holder_only_if_it_started_then(
    start: str | None, hidden: bool, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = this_process() if start == "own" else {**this_process(), "start": start}

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    if hidden:
        monkeypatch.setattr("planner.lock._start", lambda pid: None)
    assert gone(holder) is ended


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"boot": "before"}, {"namespace": "pid:[1]"}], ids=str)
def test_a_holder_out_of_sight_is_never_taken_over(tmp_path: Path, changes: dict[str, str]) -> None:
    plant(tmp_path, pid=dead(), **changes)
    with pytest.raises(StateError, match=rf"if that machine or container is gone, delete .*{NAME}"), locked(tmp_path):
        pass
    assert read_json(tmp_path / NAME)["token"] == "old"
    assert not gone(read_json(tmp_path / NAME))


def test_a_lock_that_cannot_be_read_is_not_said_to_name_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user with a umask of 077 in a shared folder: the message must not have a living runner's lock deleted."""
    plant(tmp_path, pid=dead())
    refuse_reading(monkeypatch, tmp_path / NAME)
    with pytest.raises(StateError, match=f"{NAME} cannot be read: Permission denied; ask its owner"), locked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{}", '{"pid": null}'])
def test_a_lock_that_names_nobody_is_not_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(StateError, match="names no holder; if no plan command is running there, delete"), locked(tmp_path):
        pass


CONTENDER = """
import sys, time
from pathlib import Path
from planner.errors import StateError
from planner.lock import locked
folder, entered = Path(sys.argv[1]), 0
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        with locked(folder):
            (folder / "inside").open("x").close()  # fails if another one is inside
            entered += 1
            (folder / "inside").unlink()
            if entered % 5 == 0:
                (folder / "inside").open("x").close()
                (folder / "inside").unlink()
                __import__("os")._exit(entered % 100)  # die as after kill -9: the lock stays
    except StateError:
        time.sleep(0.001)
"""


def test_of_many_that_try_one_is_inside(tmp_path: Path) -> None:
    """Processes fight for a lock and die holding it; nobody is ever inside with another, and the lock is never lost for good."""
    total = 0
    for _ in range(2):
        contenders = [subprocess.Popen([sys.executable, "-c", CONTENDER, str(tmp_path)], stderr=subprocess.PIPE, text=True) for _ in range(6)]
        for contender in contenders:
            words = contender.communicate()[1]
            assert "FileExistsError" not in words and "Traceback" not in words, words
            total += contender.returncode
    assert total >= 40, "too few got in for the test to say anything"
    with locked(tmp_path):
        pass
