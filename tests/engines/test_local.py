"""Faults of one machine, with real processes: dead workers, a full disk, torn files, two runners, a clock that jumps."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from planner.corpus.store import Corpus
from planner.engines.event import MAX_DEATHS, Event
from planner.engines.local import LocalEngine
from planner.errors import PlannerWarning, StateError
from planner.sweep import Sweep, run_sweep, sweep_status
from planner.train.job import diverged_path
from tests.engines.tiny import assert_whole, lay_out, lay_out_last, start, states, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def copy(undisturbed: Path, folder: Path) -> Path:
    shutil.copytree(undisturbed, folder)
    return folder


def test_a_segment_that_kills_its_workers_fails_and_the_rest_goes_on(undisturbed: Path, tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out(tmp_path / "tiny", corpus)
    events: list[Event] = []

    def kill(event: Event) -> None:
        events.append(event)
        if event.kind in ("started", "worker_died") and event.job.segment.stage == "special" and event.job.segment.steps_pt == 0:
            for child in multiprocessing.active_children():  # one worker, so it is the one that trains this segment
                assert child.pid is not None
                os.kill(child.pid, 9)

    failures = run_sweep(Sweep.open(folder), LocalEngine(1), on_event=kill)
    name = next(event.job.segment.segment_id for event in events if event.kind == "worker_died")
    assert list(failures) == [name] and f"died {MAX_DEATHS} times" in failures[name]
    assert [event.kind for event in events].count("worker_died") == MAX_DEATHS - 1
    assert len(list((folder / "records").iterdir())) == 4, "what does not hang on it is trained"
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    assert_whole(folder, undisturbed)


def test_torn_files_are_set_aside_and_trained_again(undisturbed: Path, tmp_path: Path) -> None:
    folder = copy(undisturbed, tmp_path / "tiny")
    sweep = Sweep.open(folder)
    torn = next(path for path in sorted((folder / "records").iterdir()) if "-sp" in path.name)
    half = torn.read_bytes()[: len(torn.read_bytes()) // 2]
    torn.write_bytes(half)
    empty = next(path for path in sorted((folder / "records").iterdir()) if "-sp" not in path.name)
    empty.write_bytes(b"")
    trunk = next(segment for segment in sweep.tree.segments if segment.parent_id is None and segment.stage == "general")
    (folder / "state" / f"{trunk.segment_id}.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    diverged_path(folder, sweep.tree.children[trunk.segment_id][0].segment_id).write_text('{"reason"')
    (folder / "state" / "live.json").write_text('{"pid')
    with pytest.raises(StateError, match=f"({torn.name}|{empty.name}) cannot be read"):
        sweep_status(sweep)
    with pytest.warns(PlannerWarning) as said:
        assert run_sweep(sweep, LocalEngine(2)) == {}
    names = " ".join(str(item.message) for item in said)
    assert torn.name in names and empty.name in names and trunk.segment_id in names and ".diverged.json" in names
    assert torn.with_name(f"{torn.name}.torn").read_bytes() == half, "nothing is deleted"
    assert sweep_status(sweep).done == 5
    assert_whole(folder, undisturbed)


def test_halves_of_files_of_a_killed_runner_do_not_stay(undisturbed: Path, tmp_path: Path) -> None:
    folder = copy(undisturbed, tmp_path / "tiny")
    halves = [folder / ".runs.csv.x1y2", folder / "state" / ".live.json.a8b9", folder / "state" / ".identity.json.c0d1"]
    mine = folder / ".my-notes.txt"
    for path in (*halves, mine):
        path.write_text("{")
    assert run_sweep(Sweep.open(folder), LocalEngine(1)) == {}
    assert not any(path.exists() for path in halves) and mine.exists()
    assert_whole(folder, undisturbed)


def test_a_second_runner_is_refused_and_the_first_goes_on(undisturbed: Path, tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out_last(tmp_path / "tiny", corpus, undisturbed)
    first = start(folder, "--workers", "2")
    try:
        wait_for(lambda: states(folder), "a state")
        wait_for(lambda: sweep_status(Sweep.open(folder)).running, "a sight of the first one's segments from another process")
        first.send_signal(signal.SIGSTOP)  # a fast machine would be done with it before the second one looks
        second = start(folder, "--workers", "2")
        words = second.communicate()[1]
        assert second.returncode == 2 and f"process {first.pid} on {os.uname().nodename}" in words and "--engine local" in words
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0, first.communicate()[1]
    finally:
        first.kill()
        first.communicate()
    assert_whole(folder, undisturbed)
    assert sweep_status(Sweep.open(folder)).running == 0


@pytest.mark.skipif(sys.platform != "linux", reason="no worker is forked here")
def test_ctrl_c_while_workers_begin_is_one_sentence(tmp_path: Path, corpus: Corpus) -> None:
    """A terminal sends it to all processes, one of which is importing what the workers will need."""
    folder = lay_out(tmp_path / "tiny", corpus)
    runner = start(folder, "--workers", "2", process_group=0)
    began = r"forkserver import main"
    wait_for(lambda: subprocess.run(["pgrep", "-g", str(runner.pid), "-f", began], capture_output=True).returncode == 0, "the first of them")
    os.killpg(runner.pid, signal.SIGINT)
    said = runner.communicate(timeout=60)[1]
    assert runner.returncode == 130 and "the same command continues" in said and "Traceback" not in said, said
    assert not (folder / "runner.lock").exists()


JUMPING = """
import random, time
_real, _random = time.time, random.Random(0)
time.time = lambda: _real() + _random.uniform(-1e6, 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are not forked off a process of their own")
@pytest.mark.parametrize("kills", [1, 2])
def test_what_workers_are_forked_off_is_killed(kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = ForkServerProcess.start, []

    def start(process: ForkServerProcess) -> None:
        tried.append(process)
        if len(tried) <= kills:
            raise EOFError
        real(process)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    ends = LocalEngine(1).run(lambda: None)
    if kills == 1:
        assert list(ends) == []
    else:
        with pytest.raises(StateError, match="no worker could be started: the process that workers are forked from was killed"):
            list(ends)
    assert len(tried) == 2


def test_a_clock_that_jumps(undisturbed: Path, tmp_path: Path) -> None:
    """Every process sees times eleven days apart from one call to the next, over files of 1970 and 2100 and a dead runner's lock of 2100."""
    folder = copy(undisturbed, tmp_path / "tiny")
    for record in sorted((folder / "records").iterdir())[:3]:
        record.unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT)])}
    dead = subprocess.run([sys.executable, "-c", "import json; from planner.lock import this_process; print(json.dumps(this_process()))"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    (folder / "runner.lock").write_text(json.dumps({**json.loads(dead.stdout), "token": "old", "engine": "local", "since": "2100-01-01T00:00:00+00:00"}))
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, ((0, 0), (4.1e9, 4.1e9))[number % 2])
    runner = start(folder, "--workers", "1", env=env)
    words = runner.communicate()[1]
    assert runner.returncode == 0, words
    assert_whole(folder, undisturbed)
