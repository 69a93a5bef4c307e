"""A real sweep on real text: kills lose nothing, divergences are said, two runners do not meet."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.artifacts import read_json
from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.engines.local import LocalEngine
from planner.errors import InputError, StateError
from planner.lock import locked
from planner.runs import compile_runs, read_runs
from planner.sweep import Sweep, check_identity, run_sweep, sweep_status
from tests.engines.tiny import lay_out

pytest.importorskip("torch")


def run_in_process(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "planner.cli.main", "sweep", "run", str(folder), "--workers", "2"], stderr=subprocess.DEVNULL)


def test_the_table_holds_every_cell(undisturbed: Path) -> None:
    sweep = Sweep.open(undisturbed)
    frame = read_runs(undisturbed / "runs.csv")
    assert len(frame) == len(sweep.cells) == 5
    assert sorted(frame["branch_kind"]) == ["scratch", "stable", "stable", "zero_shot", "zero_shot"]
    assert (frame["loss_spec"] < 5.5).all() and (frame["loss_general"] < 5.6).all()
    assert (frame["tokens_spec"] == frame["steps_spec"] * 96).all()
    status = sweep_status(sweep)
    assert (status.done, status.waiting, status.flops_left) == (5, 0, 0)
    assert not list((undisturbed / "state").glob("*.safetensors")), "states outlive their use"


def test_endpoints_that_a_fit_will_not_take_are_told_before_they_are_trained(corpus: Corpus, undisturbed: Path, tmp_path: Path) -> None:
    assert Sweep.open(undisturbed).mostly_warmup == [] and not read_runs(undisturbed / "runs.csv")["flags"].str.contains("mostly_warmup").any()
    folder = lay_out(tmp_path / "tiny", corpus)
    (folder / "sweep.toml").write_text((folder / "sweep.toml").read_text().replace("warmup_steps = 20", "warmup_steps = 25"))
    sweep = Sweep.open(folder)
    assert {(tip.stage, tip.steps_pt + tip.last_step) for tip in sweep.mostly_warmup} == {("general", 219), ("special", 219)}
    told = CliRunner().invoke(app, ["sweep", "plan", str(folder)])
    assert told.exit_code == 0 and "warning: 2 of 5 endpoints have fewer steps than 10 times warmup_steps = 25: plan fit leaves them out" in told.stderr


def strike(process: subprocess.Popen[bytes], victim: str) -> None:
    """Kill the runner, or one of its workers."""
    if victim == "runner":
        process.send_signal(signal.SIGKILL)
        return
    (server,) = (pid for pid, args in children(process.pid) if "forkserver" in args)
    os.kill(children(server)[0][0], signal.SIGKILL)


def children(pid: int) -> list[tuple[int, str]]:
    lines = subprocess.run(["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(line.split()[0]), line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["runner", "worker"])
def test_a_kill_loses_nothing(undisturbed: Path, tmp_path: Path, corpus: Corpus, victim: str) -> None:
    folder = lay_out(tmp_path / "tiny", corpus)
    process = run_in_process(folder)
    deadline = time.monotonic() + 300
    try:
        while not list((folder / "state").glob("n*.safetensors")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        strike(process, victim)
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
    if victim == "runner":
        while True:  # its workers notice within a few steps
            try:
                failures = run_sweep(Sweep.open(folder), LocalEngine(2))
                break
            except StateError:
                time.sleep(0.1)
        assert failures == {}
    assert (folder / "runs.csv").read_bytes() == (undisturbed / "runs.csv").read_bytes()


def test_a_divergence_is_recorded_with_its_reason(tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out(tmp_path / "wild", corpus, rate=300.0)
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    frame = read_runs(folder / "runs.csv")
    assert len(frame) == 5 and (frame["status"] == "diverged").any()
    wild = frame[frame["status"] == "diverged"]
    assert wild["reason"].str.contains("loss").all() and wild["loss_spec"].isna().all() and wild["flags"].str.contains("diverged").all()


def test_another_recipe_is_not_mixed_in(undisturbed: Path) -> None:
    text = (undisturbed / "sweep.toml").read_text()
    try:
        (undisturbed / "sweep.toml").write_text(text.replace("warmup_steps = 20", "warmup_steps = 30"))
        with pytest.raises(StateError, match="recipe"):
            run_sweep(Sweep.open(undisturbed), LocalEngine(1))
        (undisturbed / "state").rename(undisturbed / "kept")  # the records say it too
        with pytest.raises(StateError, match=r"the run \S+ in .* was made with recipe .*; restore it, or delete .*records"):
            run_sweep(Sweep.open(undisturbed), LocalEngine(1))
        (undisturbed / "sweep.toml").write_text(text)
        check_identity(Sweep.open(undisturbed))
    finally:
        (undisturbed / "sweep.toml").write_text(text)
        if (undisturbed / "kept").exists():
            shutil.rmtree(undisturbed / "state", ignore_errors=True)
            (undisturbed / "kept").rename(undisturbed / "state")


def test_a_second_runner_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StateError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass


def test_a_torn_record_is_named(undisturbed: Path) -> None:
    record = next((undisturbed / "records").iterdir())
    whole = record.read_bytes()
    try:
        record.write_bytes(whole[:40])
        with pytest.raises(StateError, match=record.name):
            sweep_status(Sweep.open(undisturbed))
    finally:
        record.write_bytes(whole)
    assert json.loads(whole) == read_json(record)


def test_a_record_of_another_run_is_no_row(undisturbed: Path, tmp_path: Path) -> None:
    one, other = sorted((undisturbed / "records").iterdir())[:2]
    put = tmp_path / one.name
    put.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=f"{one.name} is the record of the run '{other.stem}'; delete it"):
        compile_runs([put])
    assert list(compile_runs([other])["run_id"]) == [other.stem]


@pytest.mark.slow
def test_early_text_and_a_shared_trunk(undisturbed: Path, tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out(tmp_path / "early", corpus)
    text = (folder / "sweep.toml").read_text()
    cells = 'cell = [{size = "10k", tokens_pt = "21k", tokens_spec = "21k", unique_spec = "5k", early_fraction = 0.25},\n'
    cells += '{size = "10k", tokens_pt = "21k", tokens_spec = 0, unique_spec = "5k", early_fraction = 0.25}]\ntrunks = "../trunks"\n[recipe]'
    (folder / "sweep.toml").write_text(text.replace("[recipe]", cells))
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    frame = read_runs(folder / "runs.csv")
    plain = frame[frame["early_fraction"] == 0].reset_index(drop=True)
    before = read_runs(undisturbed / "runs.csv")
    assert (plain["loss_spec"] == before["loss_spec"]).all(), "a shared trunk is the same trunk"
    mixed = frame[frame["early_fraction"] > 0].set_index("branch_kind")
    assert mixed.loc["mixed", "tokens_spec"] == pytest.approx(7000, rel=0.01) and mixed.loc["mixed", "tokens_pt"] == pytest.approx(21000, rel=0.01)
    assert mixed.loc["stable", "tokens_spec"] == pytest.approx(28000, rel=0.01)
    unspecialised = plain[(plain["branch_kind"] == "zero_shot") & (plain["tokens_pt"] < 22000)]
    assert mixed.loc["mixed", "loss_spec"] < unspecialised["loss_spec"].iloc[0] - 0.05, "early text teaches"
    assert list((tmp_path / "trunks" / "state").glob("*.safetensors")) and not list((folder / "state").glob("*.safetensors"))
