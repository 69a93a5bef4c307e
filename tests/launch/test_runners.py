"""Where the ranks run: one process from the command line, Ray; what plan watch says of them."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from planner.artifacts import read_json, write_artifact
from planner.cli.console import INTERRUPTED
from planner.cli.full import Follow, check_options
from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.errors import InputError, PlannerWarning, StateError
from planner.launch import runners
from planner.launch.full import settle
from planner.launch.launch import prepare
from planner.launch.runners import LOG, failure
from planner.lock import locked
from planner.train.full.main import Stopper, run_rank
from planner.train.full.plan import FAILURE_FILE, RUNNER, STATES_FOLDER, STOP_FILE, FullRun, Settings
from tests.train.full.runs import ROOT, STEPS, allocation, forks, lay, losses, row, run_here

pytestmark = pytest.mark.slow


def plan(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def launched(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run from the command line, on one process, and what was said."""
    folder = tmp_path_factory.mktemp("cli")
    allocation(corpus).save(folder / "allocation.json", {})
    code, _, said = plan("launch", folder / "allocation.json", "--out", folder / "run", "--threads", 1)
    assert code == 0, said
    return folder / "run", said


def test_one_process_from_the_command_line_trains_what_the_library_does(launched: tuple[Path, str], corpus: Corpus, tmp_path: Path) -> None:
    folder, said = launched
    lay(tmp_path / "run", corpus)
    assert run_here(tmp_path / "run")
    assert losses(folder) == losses(tmp_path / "run") and row(folder) == row(tmp_path / "run")
    assert f"specialist loss {row(folder)['loss_spec']:.4f}" in said and "held-out specialist loss" in said
    assert "heading for" in said  # the word on the forecast, in the cooldown
    code, _, again = plan("launch", folder.parent / "allocation.json", "--out", folder)
    assert code == 0 and "specialist loss" in again and "held-out specialist loss" not in again
    assert plan("verify", folder)[0] == 0


def test_watch_shows_measured_beside_forecast(launched: tuple[Path, str]) -> None:
    folder, _ = launched
    code, out, said = plan("watch", folder)
    assert code == 0 and (folder / "progress.png").stat().st_size > 10_000
    assert f"{row(folder)['loss_spec']:.4f}" in out and "4.0000 to 5.6000" in out and f"step {STEPS} of {STEPS}" in " ".join(out.split())
    answer = json.loads(plan("watch", folder, "--json")[1])
    assert answer["steps"] == STEPS and answer["outcome"]["status"] == "ok" and len(answer["evaluations"]) >= 4
    assert plan("watch", folder.parent)[0] == 2


def test_who_may_only_read_a_run_can_watch_it(launched: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise StateError(f"{path} cannot be written: Read-only file system", remedy="choose another place")

    monkeypatch.setattr("planner.report.style.write_bytes", refuse)
    code, out, said = plan("watch", launched[0])
    assert code == 0 and f"step {STEPS} of {STEPS}" in " ".join(out.split()) and "no figure:" in said and "written: /" not in said


def test_watch_says_that_a_run_was_killed_and_that_it_diverged(launched: tuple[Path, str], tmp_path: Path) -> None:
    """Nobody trains it any more: the time left is not counting down; and a loss that was no number at its very end stands in its record alone."""
    folder = tmp_path / "run"
    shutil.copytree(launched[0], folder, ignore=shutil.ignore_patterns("checkpoint", "states"))
    (record,) = (folder / "records").iterdir()
    body = read_json(record)
    record.unlink()
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:50]))
    said = " ".join(plan("watch", folder)[1].split())
    assert "step 50 of 72" in said and "left, but it is not training now" in said
    with locked(folder / STATES_FOLDER, "torchrun"):
        assert "nothing trains" not in " ".join(plan("watch", folder)[1].split())
    metrics.write_text("".join(lines))
    body["row"] |= {"status": "diverged", "reason": "the held-out loss on mail is nan", "loss_spec": None}
    record.write_text(json.dumps(body))
    code, out, told = plan("watch", folder)
    assert code == 0 and "the run diverged: the held-out loss on mail is nan" in told and "nothing trains" not in " ".join(out.split())


def test_when_the_first_loss_stands_beside_the_forecast_is_said_before(launched: tuple[Path, str], corpus: Corpus, tmp_path: Path) -> None:
    """All of a short run's are in its cooldown, and the shortest have none: whoever watches would wait for them."""
    folder = tmp_path / "run"
    shutil.copytree(launched[0], folder, ignore=shutil.ignore_patterns("checkpoint", "states", "records", "metrics.jsonl"))
    run = FullRun.load(folder)
    at = run.settings.evaluate_at
    assert f"held-out losses beside the forecast: {len(at)}, the first after step {at[0]} of {STEPS}" in plan("watch", folder)[2]
    assert "losses beside the forecast" not in plan("watch", launched[0])[2]
    replace(run, settings=replace(run.settings, evaluate_at=())).save(folder)
    none = "none, since the run is too short: no held-out loss is measured before its end"
    assert f"held-out losses beside the forecast: {none}" in plan("watch", folder)[2]
    for eval_tokens, said in ((640, f"{len(at)}, the first after step {at[0]} of {STEPS}"), (65536, none)):
        body = allocation(corpus)
        replace(body, source={**body.source, "eval_tokens": eval_tokens}).save(tmp_path / "a.json", {})
        code, out, error = plan("launch", tmp_path / "a.json", "--out", tmp_path / "dry", "--dry-run")
        assert code == 0 and said in " ".join(out.split()), error


def test_a_held_out_loss_that_is_no_number_on_the_way_ends_nothing(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "run", corpus)
    measured = iter([4.2, math.inf, 4.1, 4.0])
    monkeypatch.setattr("planner.train.full.loop.domain_loss", lambda *_, **__: (next(measured), 640))
    shown: list[str] = []
    follow = Follow(tmp_path / "run", FullRun.load(tmp_path / "run"), 0, SimpleNamespace(line=shown.append, update=lambda *_: None))  # type: ignore[arg-type]
    assert run_here(tmp_path / "run")
    code, out, said = plan("watch", tmp_path / "run")
    assert code == 0 and "no number" in out and "heading for" in said
    follow()
    assert [line.rpartition(" ")[2] for line in shown if "held-out" in line] == ["4.2000", "number", "4.1000", "4.0000"]


def test_speed_and_time_left_are_of_the_same_steps(corpus: Corpus, tmp_path: Path) -> None:
    """Most steps took 1 s, as did the last; 4 of the last 20 took 6 s. So a step takes 2 s, and 22 are left."""
    lay(tmp_path / "run", corpus)
    run = FullRun.load(tmp_path / "run")
    each = run.recipe.tokens_per_step
    steps = [
        {
            "kind": "step", "step": step, "mfu": None, "loss_smooth": 4.0, "tokens": step * each, "tokens_per_second": each / (6 if 40 < step < 45 else 1),
            "seconds_left": 26.0,
        }
        for step in range(1, 51)
    ]  # fmt: skip
    shown: list[tuple[Any, ...]] = []
    follow = Follow(tmp_path / "run", run, 0, SimpleNamespace(line=None, update=lambda *told: shown.append(told)))  # type: ignore[arg-type]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    follow()
    assert shown == [(50, f"loss 4.000, {each / 2:.0f} tokens/s", 44.0)]
    assert f"{each / 2:.0f} tokens/s, 44 s left" in " ".join(plan("watch", tmp_path / "run")[1].split())


def test_a_launch_without_a_curve_says_so(tmp_path: Path) -> None:
    write_artifact(tmp_path / "launch.json", "launch", 1, {"run_id": "a"})
    code, _, said = plan("watch", tmp_path)
    assert code == 2 and "not prepared for ranks" in said and "plan verify" in said and "Traceback" not in said


def test_a_dry_run_can_refuse_what_the_launch_would(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    ready = prepare(tmp_path / "a.json", tmp_path / "run")
    run = settle(ready.run, 4, Settings())
    for law, options, per_node, named in (
        (Path("/nowhere/law.json"), [], 2, "/nowhere/law.json"),
        (None, ["nodes=3"], 2, "nodes"),
        (None, ["partition"], 2, "key=value"),
        (None, [], 3, "do not fill nodes"),
    ):
        with pytest.raises(InputError, match=named):
            check_options(ready, run, 4, "slurm", law=law, per_node=per_node, slurm_options=options)
    job, law_found = check_options(ready, run, 4, "slurm", law=None, per_node=2, slurm_options=["partition=gpu"])
    assert job is not None and job.options == {"partition": "gpu"} and law_found is None and not (tmp_path / "run").exists()


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(corpus: Corpus, tmp_path: Path) -> None:
    allocation(corpus).save(tmp_path / "a.json", {})
    code, out, _ = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--ranks", 2, "--micro-batch", 1, "--dry-run")
    assert code == 0 and not (tmp_path / "run").exists()
    text = " ".join(out.split())
    assert "1 rank x 1 micro-batch x up to 4" in " ".join(plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--dry-run")[1].split())
    for part in ("2 on cpu, fp32", "2 ranks x 2 micro-batches x up to 1", "states 120 kB", "3 of 180 kB", "not shown without --peak-flops"):
        assert part in text, (part, text)
    code, out, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--export", "megatron", "--dry-run")
    assert "Run for megatron" in out and "Run in" not in out
    assert code == 0 and f"would be written: {tmp_path / 'run_megatron.sh'}" in said and [item.name for item in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("options", "named", "remedy"),
    [
        (["--ranks", "3", "--engine", "slurm"], "4 sequences", "such as 2"),
        (["--ranks", "512", "--engine", "local"], "512 ranks", "--ranks"),
        (["--ranks", "512", "--engine", "ray"], "512 ranks", "--ranks"),
        (["--engine", "ray", "--threads", "1000"], "1000 threads", "--threads"),
        (["--engine", "kubernetes"], "kubernetes", "local, slurm, ray"),
        (["--precision", "fp8"], "fp8", "bf16"),
        (["--device", "tpu"], "tpu", "cpu or cuda"),
        (["--micro-batch", "5"], "5 sequences", "--micro-batch 4"),
        (["--shard-ranks", "3"], "3 ranks", "--shard-ranks"),
        (["--peak-flops", "3"], "3", "data sheet"),
        (["--wandb", ""], "''", "name one"),
        (["--wandb", "mine"], "--wandb mine is asked for and wandb is not installed", "pip install wandb, or leave it out"),
        (["--device", "cuda"], "torch finds no GPU", "use --device cpu"),
        (["--address", "user:SECRET@127.0.0.1:1"], "--address …@127.0.0.1:1 needs --engine ray", "add it"),
        (["--export", "nemo"], "nemo", "torchtitan"),
        (["--submit"], "--submit", "--engine slurm"),
        (["--law", "/nowhere/law.json"], "/nowhere/law.json", "check the path"),
        (["--engine", "slurm", "--slurm-option", "partition"], "partition", "key=value"),
        (["--engine", "slurm", "--slurm-option", "nodes=3"], "nodes", "leave it out"),
        (["--engine", "slurm", "--slurm-option", "time=1:00\n#SBATCH --uid=0"], "time", "letters"),
    ],
    ids=lambda item: "-".join(item) if isinstance(item, list) else None,
)  # fmt: skip
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str, remedy: str
) -> None:
    monkeypatch.setattr("planner.cli.needs.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    allocation(corpus).save(tmp_path / "a.json", {})
    dry = ["--dry-run"] * ("--wandb" in options)  # which tells as much
    code, _, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", *options, *dry)
    assert code == 2, said
    (line,) = [line for line in said.replace("\n#", " #").splitlines() if line.startswith("error:")]
    assert named in line and remedy in line
    assert not (tmp_path / "run" / "launch.json").exists()


def test_a_gpu_is_not_looked_for_without_torch(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.cli.needs.find_spec", lambda name: None if name == "torch" else find_spec(name))
    allocation(corpus).save(tmp_path / "a.json", {})
    code, _, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--device", "cuda")
    assert code == 2 and "error: the package torch is needed for training and is not installed; pip install" in said


def test_a_rank_that_sees_its_own_gpu_alone_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from planner.train.full.mesh import join

    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for visible in (1, 4):
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        found = join(Settings(device="cuda", threads=1), {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "3"})
        assert found.device == torch.device("cuda", taken[-1])
    assert taken == [0, 3]


def test_what_a_rank_met_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("starting\nRuntimeError: out of memory\nchild failed\n")
    assert "out of memory" in str(failure(tmp_path, "the ranks ended")) and LOG in str(failure(tmp_path, "the ranks ended"))
    killed = str(failure(tmp_path, "the ranks ended with exit code -9", (tmp_path / LOG).stat().st_size))
    assert killed.startswith("the ranks ended with exit code -9; see"), "the error is of an earlier start"
    (tmp_path / LOG).write_text("17:58:15 step 357: what forecast, outside True, reason heading for 3.5551\nwandb: View this run at …\n")
    killed = str(failure(tmp_path, "the ranks ended with exit code -9"))
    assert killed.startswith("the ranks ended with exit code -9; see"), "how far it was is not why it ended"
    (tmp_path / FAILURE_FILE).write_text("the state is torn\ndelete it\n")
    assert str(failure(tmp_path, "the ranks ended")) == "the state is torn; delete it."


def test_a_rank_that_fails_is_one_sentence(launched: tuple[Path, str], corpus: Corpus, tmp_path: Path) -> None:
    """From the rank's own process to the command line."""
    allocation(corpus).save(tmp_path / "a.json", {})
    lay(tmp_path / "a", corpus)
    assert not run_here(tmp_path / "a", stop_at=3)
    file = next((tmp_path / "a" / "states" / "step-000000003").glob("*.safetensors"))
    file.write_bytes(b"torn")
    with forks():
        code, _, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "a", "--threads", 1)
    assert code == 2 and "step-000000003 cannot be read" in said and "continues from the state before" in said


def test_a_stop_file_ends_a_launch_as_ctrl_c_does(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there before the ranks are, which stop after their first step."""
    folder, command = tmp_path / "run", runners.command

    def stopped(where: Path, ranks: int) -> list[str]:
        (where / STOP_FILE).touch()
        return command(where, ranks)

    allocation(corpus).save(tmp_path / "a.json", {})
    monkeypatch.setattr(runners, "command", stopped)
    with forks():
        code, _, said = plan("launch", tmp_path / "a.json", "--out", folder, "--threads", 1)
    assert code == INTERRUPTED and said.strip().endswith("stopped; finished work is kept, and the same command continues from there")
    assert 0 < read_json(folder / "states" / "latest.json")["step"] < STEPS and not (folder / STOP_FILE).exists()


def test_ranks_leave_nothing_in_a_folder_in_which_no_run_is_laid_down(tmp_path: Path) -> None:
    """Where it is mistyped for torchrun it was made, and a launch that was meant to go there was refused because it was not empty."""
    with pytest.raises(InputError, match="there is no file .*full.json"):
        run_rank(tmp_path / "mistyped", Stopper(tmp_path / STOP_FILE))
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_name_is_like_an_option_is_a_folder(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name reaches the ranks as a path, and the command that is named next can be pasted."""
    monkeypatch.chdir(tmp_path)
    allocation(corpus).save(Path("allocation.json"), {})
    code, _, said = plan("launch", "allocation.json", "--out=-first run", "--threads", 1)
    assert code == 0, said
    assert "next: plan verify '-first run'" in said


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python cannot be told so before")
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_run_no_module_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """The command itself does not: notes of the user's called random.py would end the ranks, and another version of the planner would train."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("random.py").write_text("open('seen', 'w')")
    with pytest.raises(StateError, match="there is no file run/full.json|exit code"):
        runners.run_local(Path("run"), ranks, Settings(), tick=lambda: None)
    assert not Path("seen").exists()


def test_what_names_the_ranks_of_another_run_does_not_reach_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of a job on many machines has such variables of its own: one rank waited for the others of that job, torchrun for its nodes."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "PET_NNODES", "RANKING"):
        monkeypatch.setenv(name, "2")
    see = "import os, sys; open(sys.argv[1], 'w').write(' '.join(os.environ))"
    monkeypatch.setattr(runners, "command", lambda folder, ranks: [sys.executable, "-c", see, str(tmp_path / "seen")])
    runners.run_local(tmp_path, 1, Settings(), tick=lambda: None)
    seen = (tmp_path / "seen").read_text().split()
    assert {"RANKING", RUNNER} <= {*seen} and not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "PET_NNODES"} & {*seen}


def test_ranks_stop_when_the_command_above_torchrun_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their parent is torchrun, which outlives it: the rank here has this test as parent throughout."""
    ran = tmp_path / "told"
    monkeypatch.setattr(runners, "command", lambda *_: [sys.executable, "-c", f"import os; open({str(ran)!r}, 'w').write(os.environ[{RUNNER!r}])"])
    runners.run_local(tmp_path, 2, Settings(), tick=lambda: None)
    assert json.loads(ran.read_text())["pid"] == os.getpid()
    monkeypatch.setattr("planner.train.full.main.LOOK_EVERY", -1.0)
    monkeypatch.setenv(RUNNER, ran.read_text())
    assert not Stopper(tmp_path / STOP_FILE)()
    say = "import json; from planner.lock import this_process; print(json.dumps(this_process()))"
    done = subprocess.run([sys.executable, "-c", say], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    monkeypatch.setenv(RUNNER, done.stdout)
    asked = Stopper(tmp_path / STOP_FILE)
    assert not asked() and asked(), "one look may fail"
    for nonsense in ("", "[]", '{"pid"'):
        monkeypatch.setenv(RUNNER, nonsense)
        asked = Stopper(tmp_path / STOP_FILE)
        assert not asked() and not asked()


def test_ranks_that_ray_has_no_room_for_are_refused_here_and_said_of_a_cluster() -> None:
    with pytest.raises(InputError, match="4 ranks take 4 GPUs, but Ray has 0 on this machine"):
        runners._check_resources({"CPU": 8.0}, 4, {"CPU": 1.0, "GPU": 1.0}, None)
    with pytest.warns(PlannerWarning, match="4 ranks take 16 CPUs, but Ray has 8 at auto: .* until more nodes join"):
        runners._check_resources({"CPU": 8.0}, 4, {"CPU": 4.0}, "auto")
    runners._check_resources({"CPU": 8.0}, 4, {"CPU": 2.0}, None)


def test_a_second_ctrl_c_does_not_wait_for_ranks_on_ray(tmp_path: Path) -> None:
    """As while Ray waits for room, where no rank would ever see the stop file."""
    never, pressed = threading.Event(), []

    def press() -> None:
        assert len(pressed) < 2, "it waits on"
        pressed.append((tmp_path / STOP_FILE).exists())
        raise KeyboardInterrupt

    try:
        assert runners._fit(SimpleNamespace(fit=never.wait), tmp_path, press) == (True, None)
    finally:
        never.set()
    assert pressed == [False, True] and not (tmp_path / STOP_FILE).exists()


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_two_ranks_on_ray_have_the_losses_of_one(corpus: Corpus, tmp_path: Path, launched: tuple[Path, str]) -> None:
    folder = tmp_path / "run"
    lay(folder, corpus, ranks=2)
    # A process of its own: Ray decides when it is imported whom it listens to, and other tests have imported it.
    lines = "from pathlib import Path", "from planner.launch.runners import run_ray", "from planner.train.full.plan import Settings"
    code = "\n".join([*lines, f"run_ray(Path({str(folder)!r}), 2, Settings(), address=None, tick=lambda: print('seen'))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "seen" in done.stdout, done.stderr
    assert max(abs(a - b) for a, b in zip(losses(folder), losses(launched[0]), strict=True)) < 1e-5
    assert (folder / "checkpoint" / "config.json").exists()
    assert read_json(folder / "states" / "latest.json")["step"] == STEPS
