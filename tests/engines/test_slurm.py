"""Sweeps as batch jobs: submitit's own executors, and Slurm's commands as scripts that run the batch files for real."""

from __future__ import annotations

import json
import os
import pickletools
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.corpus.store import Corpus
from planner.engines.event import MAX_DEATHS, Event
from planner.engines.slurm import Pace, SlurmEngine, _Batch
from planner.errors import InputError, StateError
from planner.ladder import shape_for
from planner.sweep import Sweep, run_sweep
from planner.train.job import Job, Result
from tests.engines import fake_slurm
from tests.engines.tiny import assert_whole, lay_out, start, wait_for

if find_spec("submitit") is None:
    pytest.skip("the extra slurm is not installed", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # submitit's processes are let go
QUICK = Pace(poll=0.1, ask=0.3, grace=0.3)
SECRET = "kept-out-of-every-log"


@pytest.fixture
def folder(tmp_path: Path, corpus: Corpus) -> Path:
    return lay_out(tmp_path / "tiny", corpus)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put Slurm's commands on the path."""
    env = fake_slurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", env["PATH"])
    return tmp_path / "slurm"


def runners(slow: int = 99) -> dict[str, Any]:
    """Make stand-ins for training that need no torch; closures, since a compute node cannot import this file.

    Args:
        slow: number of the last job for which `slow` hangs.
    """

    def quick(job: Job, report: object) -> Result:
        import os as system

        return Result("done", 0.0, system.environ["OMP_NUM_THREADS"])

    def hang(job: Job, report: object) -> Result:
        import os as system
        import time

        if int(system.environ["SLURM_JOB_ID"]) <= slow:
            time.sleep(300)
        return Result("done", 0.0)

    def broken(job: Job, report: object) -> Result:
        raise ValueError("the corpus has moved")

    return {"quick": quick, "slow": hang, "broken": broken}


def jobs_of(folder: Path, number: int) -> list[Job]:
    sweep = Sweep.open(folder)
    return [sweep.job(segment) for segment in sweep.tree.segments[:number]]


def run_all(jobs: list[Job], engine: SlurmEngine, on_event: Any = None) -> list[Event]:
    waiting, events = list(reversed(jobs)), []
    for event in engine.run(lambda: waiting.pop() if waiting else None):
        events.append(event)
        if on_event is not None:
            on_event(event)
    return events


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_jobs_run_with_submitits_own_executors(folder: Path, cluster: str) -> None:
    engine = SlurmEngine(cluster=cluster, pace=QUICK, runner=runners()["quick"])
    events = run_all(jobs_of(folder, 2), engine)
    assert sorted(event.kind for event in events) == ["finished", "finished", "started", "started"]
    assert {event.result.reason for event in events if event.result is not None} == {"1"} or cluster == "debug"


@pytest.mark.parametrize(("state", "begun"), [("PENDING", False), ("CONFIGURING", False), ("RUNNING", True)])
def test_a_job_whose_nodes_are_made_ready_has_not_begun(slurm: Path, folder: Path, state: str, begun: bool) -> None:
    batch = _Batch(jobs_of(folder, 1)[0], folder)
    batch.handle = SimpleNamespace(done=lambda: False, state=state)
    assert [event.kind for event in batch.look(1.0)] == (["started"] if begun else [])


@pytest.mark.slow
@pytest.mark.parametrize(("state", "dooms"), [("NODE_FAIL", 1), ("PREEMPTED", 1), ("GONE", 1), ("OUT_OF_MEMORY", MAX_DEATHS)])
def test_a_job_that_the_cluster_ends_is_submitted_again(slurm: Path, folder: Path, state: str, dooms: int) -> None:
    doomed: set[int] = set()

    def end(event: Event) -> None:
        if event.kind == "started" and len(doomed) < dooms:
            number = max(fake_slurm.jobs(slurm))
            wait_for(lambda: (slurm / "jobs" / f"{number}.pid").exists(), "a job")
            fake_slurm.doom(slurm, number, state)
            doomed.add(number)

    events = run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK, runner=runners(slow=dooms)["slow"]), end)
    kinds = [event.kind for event in events if event.kind != "started"]
    if dooms == MAX_DEATHS:
        assert kinds == [*["worker_died"] * (MAX_DEATHS - 1), "failed"] and state.lower() in events[-1].message
    else:
        assert kinds == [*["worker_died"] * dooms, "finished"], [event.message for event in events]
    assert len(fake_slurm.jobs(slurm)) == min(MAX_DEATHS, dooms + 1)


def test_an_sbatch_that_refuses_without_a_word_is_asked_again(slurm: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.engines.slurm.RETRY_AFTER", 0.0)
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    events = run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK, runner=runners()["quick"]))
    assert [event.kind for event in events] == [*["worker_died"] * (MAX_DEATHS - 1), "failed"]
    assert "sbatch gave no reason" in events[-1].message


def test_what_goes_wrong_in_a_segment_is_told_and_not_repeated(slurm: Path, folder: Path) -> None:
    events = run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK, runner=runners()["broken"]))
    assert events[-1].kind == "failed" and "the corpus has moved" in events[-1].message
    assert len(fake_slurm.jobs(slurm)) == 1


@pytest.mark.slow
def test_the_next_runner_waits_for_the_jobs_of_a_dead_one(slurm: Path, folder: Path, undisturbed: Path) -> None:
    """The driver is killed; its jobs run on. The next runner takes them over: no segment is submitted twice, and the table is the same.

    Two segments are left to train, as real batch jobs; what went before is the undisturbed sweep's.
    """
    (folder / "records").mkdir()
    for record in (undisturbed / "records").iterdir():
        if "pt219-end" not in record.name:
            (folder / "records" / record.name).write_bytes(record.read_bytes())
    options = ["--engine", "slurm", "--partition", "small", "--slurm-option", "account=physics"]
    first = start(folder, *options, env={**os.environ, "SECRET_KEY": SECRET})
    wait_for(lambda: list((folder / "state" / "slurm").glob("*.job.json")), "a note of a submission")
    first.send_signal(signal.SIGKILL)
    words = first.communicate()[1]
    assert run_sweep(Sweep.open(folder), SlurmEngine(pace=QUICK)) == {}
    assert len(fake_slurm.jobs(slurm)) == 2
    script = (slurm / "jobs" / "1.sh").read_text()
    assert "#SBATCH --partition=small" in script and "#SBATCH --account=physics" in script and "#SBATCH --cpus-per-task=1" in script
    assert SECRET not in words
    assert not [path for path in [*folder.rglob("*"), *slurm.rglob("*")] if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert_whole(folder, undisturbed)


def test_a_job_that_ended_while_the_next_runner_began_is_not_submitted_again(slurm: Path, folder: Path) -> None:
    """If what it leaves is there: with its state deleted since, it is trained again."""
    (job,) = jobs_of(folder, 1)
    engine = SlurmEngine(pace=QUICK, runner=runners()["quick"])
    noted = _Batch(job, folder / "state" / "slurm")
    assert [event.kind for event in run_all([job], engine)] == ["started", "finished"] and len(fake_slurm.jobs(slurm)) == 1
    noted.note.write_text(json.dumps({"job_id": "1", "cluster": "slurm"}))
    noted.outcome.write_text(json.dumps({"outcome": "done", "seconds": 1.0, "reason": None}))
    job.state_path.write_bytes(b"its last state")
    assert [event.kind for event in run_all([job], engine)] == ["started", "finished"] and len(fake_slurm.jobs(slurm)) == 1
    assert not noted.note.exists() and not noted.outcome.exists()
    noted.note.write_text(json.dumps({"job_id": "1", "cluster": "slurm"}))
    noted.outcome.write_text(json.dumps({"outcome": "done", "seconds": 1.0, "reason": None}))
    job.state_path.unlink()
    assert [event.kind for event in run_all([job], engine)] == ["started", "finished"] and len(fake_slurm.jobs(slurm)) == 2


@pytest.mark.parametrize("torn", ["", '{"outcome": "do', "[]", '{"message": "", "outcome": "done"}', "\0" * 40])
def test_a_torn_outcome_is_none(slurm: Path, folder: Path, torn: str) -> None:
    """Of an earlier runner's job, the segment is submitted again; of one that this runner waits for, the job counts as lost."""
    (job,) = jobs_of(folder, 1)
    engine, noted = SlurmEngine(pace=QUICK, runner=runners()["quick"]), _Batch(job, folder / "state" / "slurm")
    noted.note.parent.mkdir(parents=True)
    noted.note.write_text(json.dumps({"job_id": "1", "cluster": "slurm"}))
    noted.outcome.write_text(torn)
    job.state_path.write_bytes(b"its last state")
    assert [event.kind for event in run_all([job], engine)] == ["started", "finished"] and len(fake_slurm.jobs(slurm)) == 1
    noted.handle = SimpleNamespace(done=lambda: True, state="COMPLETED", paths=SimpleNamespace(stderr="log"), cancel=lambda check: None)
    noted.outcome.write_text(torn)
    assert [event.kind for event in noted.look(grace=0.0)] == ["started", "lost"]


def test_ctrl_c_cancels_the_jobs(slurm: Path, folder: Path) -> None:
    events = SlurmEngine(pace=QUICK, runner=runners()["slow"]).run(iter([*jobs_of(folder, 2), None]).__next__)
    assert next(events).kind == "started"
    events.close()  # type: ignore[attr-defined]
    assert [(slurm / "jobs" / f"{number}.state").read_text() for number in (1, 2)] == ["CANCELLED"] * 2


def test_a_job_that_slurm_does_not_take(slurm: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.engines.slurm.RETRY_AFTER", 0.1)
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    events = run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK, partition="none"))
    assert [event.kind for event in events] == [*["worker_died"] * (MAX_DEATHS - 1), "failed"]
    assert "invalid partition" in events[-1].message


def test_without_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StateError, match="there is no Slurm here"):
        run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"comment": "a\ntouch /tmp/owned"}, "holds '\\\\n'"),
        ({"account": "$(touch owned)"}, "holds '\\$'"),
        ({"account": "a'; touch owned; '"}, 'holds "\'"'),
        ({"account": "`touch owned`"}, "holds '`'"),
        ({"account": ""}, "is empty"),
        ({"Setup": "touch owned"}, "not an option of sbatch"),
        ({"a b": "c"}, "not an option of sbatch"),
        ({"wrap": "touch owned"}, "set by the planner itself"),
        ({"time": "soon"}, "not a time limit"),
    ],
)
def test_no_option_reaches_a_shell(options: dict[str, str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        SlurmEngine(options=options)


def test_a_folder_that_a_shell_would_read_is_refused(slurm: Path, tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out(tmp_path / "a$(touch owned)", corpus)
    with pytest.raises(InputError, match="the sweep's folder"):
        run_all(jobs_of(folder, 1), SlurmEngine(pace=QUICK))
    spaced = lay_out(tmp_path / "a folder; with, signs & spaces", corpus)
    events = run_all(jobs_of(spaced, 1), SlurmEngine(pace=QUICK, runner=runners()["quick"]))
    assert events[-1].kind == "finished"


def test_host_memory_beside_a_gpu_follows_the_model(slurm: Path, folder: Path) -> None:
    """Weights are loaded in fp32 on the host; 8 GB are enough for small ones."""
    import submitit

    small = replace(jobs_of(folder, 1)[0], device="cuda")
    large = replace(small, segment=replace(small.segment, shape=shape_for(4e9, family="qwen3", vocab=32_000), method="lora"))
    asked = [SlurmEngine(pace=QUICK)._executor(submitit, folder, job)._executor.parameters["mem"] for job in (small, large)]
    assert asked[0] == "8GB" and int(asked[1].removesuffix("GB")) == pytest.approx(1.3 * 4 * 4.1, abs=1)


def test_what_submitit_pickles_is_plain(slurm: Path, folder: Path) -> None:
    """A function by its name and dataclasses of this package, standard types apart: nothing of a live process."""
    engine = SlurmEngine(pace=QUICK)
    events = engine.run(iter([*jobs_of(folder, 1), None]).__next__)
    assert next(events).kind == "started"
    events.close()  # type: ignore[attr-defined]
    pickled = next((folder / "state" / "slurm").rglob("*_submitted.pkl"))
    strings: list[str] = []
    named = set()
    for code, argument, _ in pickletools.genops(pickled.read_bytes()):
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(str(argument))
        elif code.name == "STACK_GLOBAL":
            named.add(strings[-2].split(".")[0])
    assert named <= {"planner", "pathlib", "submitit", "builtins", "copyreg"}, named


def test_this_side_reads_no_pickle() -> None:
    source = Path(sys.modules["planner.engines.slurm"].__file__ or "").read_text()
    assert ".result(" not in source and "pickle.load" not in source and ".results(" not in source


def test_the_outcome_is_json(folder: Path, tmp_path: Path) -> None:
    from planner.engines.slurm import serve

    serve(jobs_of(folder, 1)[0], str(tmp_path / "outcome.json"), runners()["broken"])
    assert "ValueError: the corpus has moved" in json.loads((tmp_path / "outcome.json").read_text())["message"]


def test_slurm_is_named_where_submitit_is_missing() -> None:
    code = "import sys; sys.modules['submitit'] = None\nfrom planner.engines.slurm import import_submitit\nimport_submitit()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the package submitit is needed for --engine slurm" in done.stderr and "[train,slurm]" in done.stderr
