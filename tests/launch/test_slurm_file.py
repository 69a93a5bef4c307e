"""A launch on Slurm: its file, run by bash with stand-ins for the commands, and the ranks that srun starts."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.errors import InputError, MissingDependencyError
from planner.launch import slurm
from planner.train.full.main import SIGNALS, Stopper, main
from planner.train.full.plan import STOP_FILE, STOPPED, Settings
from tests.launch.test_runners import plan
from tests.train.full.runs import ROOT, allocation, lay, row

HOSTILE = "it's \"$(touch pwned)\" `touch pwned`; touch pwned\n#SBATCH --uid=0\n& touch pwned %j"


def test_nothing_from_names_or_options_reaches_the_shell(tmp_path: Path) -> None:
    """The file is run by bash with stand-ins for Slurm's commands, which write down what they were given."""
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    python = f"{tmp_path}/py thon$(touch pwned)"
    job = slurm.Job(folder, python, 4, 2, Settings(device="cuda", precision="bf16"), {"partition": "gpu", "time": "24:00:00"})
    path = slurm.write(job)
    text = path.read_text()
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2", "#SBATCH --time=24:00:00"} <= set(directives)
    # A line of the quoted path may look like a directive, but sbatch stops at the first line that is neither a comment nor empty.
    head = text[: text.index("set -euo pipefail")].splitlines()
    assert not any(line.startswith("#SBATCH --uid") for line in head)
    (name,) = [line for line in head if "job-name" in line]
    assert re.fullmatch(r"#SBATCH --job-name=[\w.-]+", name)
    tools = tmp_path / "bin"
    tools.mkdir()
    note = f'open({str(tmp_path)!r} + "/" + os.path.basename(sys.argv[0]), "a").write(json.dumps(sys.argv[1:]) + "\\n")'
    stub = f"#!{sys.executable}\nimport json, os, sys\n{note}\n"
    (tools / "srun").write_text(stub + f"print(os.environ['MASTER_ADDR'])\nsys.exit({STOPPED})\n")
    # So many that a reader of the first line alone would have it fail.
    (tools / "scontrol").write_text(stub + 'if sys.argv[1] == "show":\n    print("\\n".join(f"node{n}" for n in range(1, 20_000)))\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(["bash", str(path)], cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == STOPPED and done.stdout == "node1\n", done.stderr
    started = json.loads((tmp_path / "srun").read_text())
    assert started == ["--kill-on-bad-exit=1", "--cpus-per-task=1", python, "-m", "planner.train.full", str(folder), "--slurm"]
    asked = [json.loads(line) for line in (tmp_path / "scontrol").read_text().splitlines()]
    assert asked == [["show", "hostnames", "node[1-2]"], ["requeue", "77"]]  # stopped with a state saved: back into the queue
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("left_behind", "code", "again"),
    [("", STOPPED, True), ("states/latest.json", 1, True), ("states/latest.json", 137, True), ("", 1, False), ("states/latest.json", 0, False)],
)
@pytest.mark.parametrize("refused", [False, True])
def test_a_lost_rank_is_started_again_where_a_state_was_saved(tmp_path: Path, left_behind: str, code: int, again: bool, refused: bool) -> None:
    """Slurm puts a job back by itself only where it sees the node die, and the ranks that are left mostly end sooner."""
    folder, tools = tmp_path / "a run", tmp_path / "bin"
    (folder / "states").mkdir(parents=True)
    tools.mkdir()
    (folder / "states" / "latest.json").write_text('{"step": 10}')
    (folder / "failure.txt").write_text("an earlier start was refused, by hand handed in again\n")
    marks = [*([left_behind] if left_behind else []), *(["failure.txt"] if refused else [])]
    (tools / "srun").write_text("#!/bin/sh\n" + "".join(f"echo more >> '{folder}/{name}'\n" for name in marks) + f"exit {code}\n")
    (tools / "scontrol").write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = slurm.write(slurm.Job(folder, sys.executable, 2, 1, Settings()))
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]"}
    assert subprocess.run(["bash", str(path)], env=environment, capture_output=True, check=False).returncode == code
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["show", *(["requeue"] if again and (code == STOPPED or not refused) else [])]


def test_no_secret_is_written_down(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "verysecret")
    allocation(corpus).save(tmp_path / "a.json", {})
    code, out, said = plan(
        "launch", tmp_path / "a.json", "--out", tmp_path / "run", "--engine", "slurm", "--ranks", 4, "--ranks-per-node", 2, "--wandb", "mine",
        "--slurm-option", "partition=gpu",
    )  # fmt: skip
    assert code == 0 and "sbatch run.sbatch" in said and "#SBATCH --partition=gpu" in (tmp_path / "run" / "run.sbatch").read_text()
    assert "verysecret" not in out + said
    assert not any("verysecret" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("options", "cores", "memory"),
    [
        (["--device", "cuda"], 8, ["0"]),
        (["--device", "cuda", "--threads", 3, "--slurm-option", "mem=64G"], 3, ["64G"]),
        (["--device", "cuda", "--slurm-option", "mem-per-gpu=64G", "--slurm-option", "mem-bind=local"], 8, []),
        (["--device", "cuda", "--slurm-option", "cpus-per-gpu=5"], 5, ["0"]),
        ([], 1, []),
    ],
)
def test_a_rank_beside_a_gpu_has_cores_and_memory(corpus: Corpus, tmp_path: Path, options: list[object], cores: int, memory: list[str]) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    code, _, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--engine", "slurm", "--ranks", 2, *options)
    text = (tmp_path / "run" / "run.sbatch").read_text()
    assert code == 0 and f"#SBATCH --cpus-per-task={cores}\n" in text and f"srun --kill-on-bad-exit=1 --cpus-per-task={cores} " in text, said
    assert f"export OMP_NUM_THREADS={cores} " in text
    assert re.findall(r"^#SBATCH --mem=(.*)$", text, re.MULTILINE) == memory


def test_cores_are_asked_for_under_one_name() -> None:
    with pytest.raises(InputError, match="cpus-per-gpu=5 is given beside cpus-per-task=4"):
        slurm.options_of(["cpus-per-gpu=5", "cpus-per-task=4"])


def test_ranks_of_srun_are_read_from_its_variables() -> None:
    from planner.train.full.mesh import join

    ranks = join(Settings(), {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "RANK": "3", "WORLD_SIZE": "4"}, slurm=True)
    assert (ranks.rank, ranks.world) == (0, 1)
    # A shell inside an allocation has srun's variables too; without --slurm they are not taken.
    assert join(Settings(), {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}).world == 1
    with pytest.raises(InputError, match="srun"):
        join(Settings(), {}, slurm=True)


def test_a_signal_puts_a_job_of_slurm_back_into_the_queue_and_a_stop_file_ends_it(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus)
    for name, value in {"PROCID": 0, "NTASKS": 1, "LOCALID": 0, "JOB_ID": 7, "STEP_ID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    arguments = [str(folder), "--slurm"]
    monkeypatch.setattr(Stopper, "listen", lambda self: self._hear(signal.SIGUSR1, None))
    set_to: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", set_to.__setitem__)
    assert main(arguments) == STOPPED and set_to == dict.fromkeys(SIGNALS, signal.SIG_IGN)
    monkeypatch.setattr(Stopper, "listen", lambda self: None)
    (folder / STOP_FILE).touch()
    assert main(arguments) == 0 and not (folder / STOP_FILE).exists() and not (folder / "records").exists()
    assert read_json(folder / "states" / "latest.json")["step"] == 2  # a step at each start
    assert main(arguments) == 0 and row(folder)["status"] == "ok"


DYING = """
import os, signal, sys
from planner.train.full import main

class Last:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

main.run_rank = lambda *_, **__: main.Ending.STOPPED
last = Last()  # goes with the modules, after Python has given up its handlers of signals
sys.exit(main.main([".", "--slurm"]))
"""


@pytest.mark.slow
def test_a_stopped_rank_does_not_die_of_the_signal_that_the_first_to_end_brings_about() -> None:
    """srun --kill-on-bad-exit sends it to those that are still on their way out, and its exit code would be the signal's: no requeue."""
    done = subprocess.run([sys.executable, "-c", DYING], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == STOPPED, (done.returncode, done.stderr)


def test_without_slurm_the_file_is_left_for_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="sbatch"):
        slurm.submit(tmp_path / "run.sbatch")
