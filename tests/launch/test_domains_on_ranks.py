"""A plan for two domains on ranks: a trunk and what branches off it, by one rank and two, stopped, rolled back, diverged, and as jobs of Slurm."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

pytest.importorskip("torch")

from planner.artifacts import read_json
from planner.cli.console import INTERRUPTED
from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.errors import StateError
from planner.fit.fitted import FittedLaw
from planner.launch.domains import TRUNK
from planner.launch.parts import Part, forget_trunk, left
from planner.launch.slurm import submit_chain, write_chain
from planner.launch.watch import watch as read_progress
from planner.report.loss_curve import loss_curve
from planner.train.full import main, states
from planner.train.full.forecast_curve import ForecastCurve
from planner.train.full.metrics import read_metrics
from planner.train.full.plan import HALTED, LATEST, STOP_FILE, FullRun, state_folder
from tests.launch.test_domains import answer, laid_down, row, two  # noqa: F401  (a fixture)
from tests.train.full.faults import FACTORS, install
from tests.train.full.runs import at, forks, run_here, steps_of

pytestmark = pytest.mark.slow

SCALE = 0.2
"""46 general steps; 42 and 44 specialist ones."""
FORK, MAIL, PARSER = 46, 46 + 44, 46 + 42


def plan(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def path(two: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("plan") / "a.json"
    answer(two, SCALE).save(path, {})
    return path


@pytest.fixture(scope="module")
def bare(two: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A plan in which one of the two gets no specialist stage: its run leaves the trunk with the cooldown."""
    plan, path = answer(two, SCALE), tmp_path_factory.mktemp("bare") / "a.json"
    structures = tuple(replace(item, domains=(replace(item.domains[0], tokens_spec=0.0), item.domains[1])) for item in plan.structures)
    replace(plan, structures=structures).save(path, {})
    return path


def train(laid: list[Part]) -> dict[str, dict[str, Any]]:
    """Train what is left in this process; return the rows of the records."""
    while some := left(laid):
        assert run_here(some[0].folder)
    return {part.name: part.record["row"] for part in laid if not part.run.forks and part.record is not None}


@pytest.fixture(scope="module")
def one(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On one rank, undisturbed; the trunk's states are kept."""
    folder = tmp_path_factory.mktemp("one") / "run"
    train(laid_down(path, folder, save_every=10))
    return folder


def test_two_ranks_have_the_losses_of_one(path: Path, one: Path, tmp_path: Path) -> None:
    with forks():
        code, out, said = plan("launch", path, "--out", tmp_path / "run", "--ranks", 2)
    assert code == 0, said
    for name in ("mail", "parser"):
        assert row(tmp_path / "run", name)["loss_spec"] == pytest.approx(row(one, name)["loss_spec"], abs=1e-5)
        assert (tmp_path / "run" / name / "checkpoint" / "model.safetensors").exists()
    text = " ".join(out.split())
    assert "Resources needed by the largest run, mail" in text and "2 ranks x 1 micro-batch x up to 1" in text
    assert not (tmp_path / "run" / TRUNK / "states").exists()
    code, out, said = plan("launch", path, "--out", tmp_path / "run")
    assert code == 0 and "held-out loss" in said and not (tmp_path / "run" / TRUNK / "states").exists(), "nothing is trained again"


def test_stops_in_the_trunk_and_in_a_branch_change_nothing(path: Path, one: Path, tmp_path: Path) -> None:
    laid = laid_down(path, tmp_path / "run", save_every=10)
    trunk = laid[0]
    assert trunk.name == TRUNK and not run_here(trunk.folder, stop_at=23) and not trunk.ended
    laid = laid_down(path, tmp_path / "run", save_every=7)
    assert run_here(trunk.folder) and trunk.ended
    assert not run_here(tmp_path / "run" / "mail", stop_at=FORK + 5)
    assert [part.name for part in left(laid)] == ["parser", "mail"]
    rows = train(laid)
    assert {name: rows[name]["loss_spec"] for name in rows} == {name: row(one, name)["loss_spec"] for name in rows}
    assert list(steps_of(tmp_path / "run" / "mail")) == list(range(FORK + 1, MAIL + 1))
    forget_trunk(laid)
    assert not (trunk.folder / "states").exists() and not left(laid)


def test_a_branch_waits_for_its_trunk_and_says_if_its_state_is_gone(path: Path, tmp_path: Path) -> None:
    laid = laid_down(path, tmp_path / "run", save_every=10)
    trunk, mail = laid[0].folder, tmp_path / "run" / "mail"
    assert not run_here(trunk, stop_at=23)
    with pytest.raises(StateError, match="has done 23 of 46 steps"):
        run_here(mail)
    assert run_here(trunk) and not list((mail / "states").glob("step-*"))
    state_folder(trunk, FORK).rename(tmp_path / "gone")
    with pytest.raises(StateError, match="cannot be read") as caught:
        run_here(mail)
    assert "to train the trunk again" in caught.value.remedy


def test_a_run_without_a_stage_leaves_with_the_cooldown(bare: Path, tmp_path: Path) -> None:
    """And states of both forks outlive those that are kept for the way."""
    laid = laid_down(bare, tmp_path / "run", save_every=4)
    by = {part.name: part.run for part in laid}
    assert by[TRUNK].forks == (by["parser"].begins_at, FORK) and by["parser"].begins_at == by["parser"].cooldown_from < FORK - 12
    rows = train(laid)
    kept = [int(item.name[5:]) for item in (tmp_path / "run" / TRUNK / "states").glob("step-*")]
    assert sorted(kept) == [by["parser"].begins_at, 40, 44, FORK]
    assert at(tmp_path / "run" / "parser") == FORK and rows["parser"]["branch_kind"] == "zero_shot"
    alone = train(laid_down(bare, tmp_path / "alone", "independent"))
    assert {name: rows[name]["loss_spec"] for name in rows} == {name: alone[name]["loss_spec"] for name in rows}


def test_what_the_trunk_left_out_its_branches_leave_out(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install({FACTORS: [[0, 17, "nan"]]}, monkeypatch.setattr)
    laid = laid_down(bare, tmp_path / "run", save_every=4)
    rows = train(laid)
    assert any(line.get("what") == "rollback" for line in read_metrics(laid[0].folder / "metrics.jsonl"))
    alone = train(laid_down(bare, tmp_path / "alone", "independent", save_every=4))
    assert {name: rows[name]["loss_spec"] for name in rows} == {name: alone[name]["loss_spec"] for name in rows}
    batches = [line["batch"] for line in steps_of(tmp_path / "run" / "parser").values()]
    assert batches == [line["batch"] for line in steps_of(tmp_path / "alone" / "parser").values()][-len(batches) :] and batches[-1] == FORK


def test_with_its_trunk_a_branch_diverges(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install({FACTORS: [[0, number, "nan"] for number in range(60)]}, monkeypatch.setattr)
    rows = train(laid_down(path, tmp_path / "run", save_every=10))
    assert {name: item["status"] for name, item in rows.items()} == {"mail": "diverged", "parser": "diverged"}
    assert all("nan" in item["reason"] for item in rows.values()) and not (tmp_path / "run" / "mail" / "metrics.jsonl").exists()
    code, _, said = plan("launch", path, "--out", tmp_path / "run")
    assert code == 2 and "diverged" in said and "Traceback" not in said
    code, out, _ = plan("watch", tmp_path / "run")
    assert code == 0 and out.count("diverged") == 3


def test_states_at_forks_take_no_place_from_those_that_rollbacks_go_back_to(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spike is laid to batches of twenty steps, which lie before the third state back but for the fork's."""
    install({FACTORS: [[0, 34, 40]]}, monkeypatch.setattr)
    laid = laid_down(bare, tmp_path / "run", save_every=7)
    rows, alone = train(laid), train(laid_down(bare, tmp_path / "alone", "independent", save_every=7))
    (rollback,) = [line for line in read_metrics(laid[0].folder / "metrics.jsonl") if line.get("what") == "rollback"]
    assert rollback["to"] < 21 and {name: rows[name]["loss_spec"] for name in rows} == {name: alone[name]["loss_spec"] for name in rows}


def test_a_branch_killed_while_its_first_state_is_named_begins_again(path: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid = laid_down(path, tmp_path / "run", save_every=10)
    assert run_here(laid[0].folder)
    mail, write = tmp_path / "run" / "mail", states.write_text

    def killed(path: Path, text: str) -> None:
        if path.name == LATEST:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(states, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        run_here(mail)
    assert (mail / "states" / f"step-{FORK:09d}").is_dir() and not (mail / "states" / LATEST).exists()
    monkeypatch.setattr(states, "write_text", write)
    assert run_here(mail) and row(tmp_path / "run", "mail")["loss_spec"] == row(one, "mail")["loss_spec"]


def test_the_trunk_is_trained_again_only_for_a_branch_that_has_not_begun(path: Path, one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(one, folder)
    for item in (folder / TRUNK / "states", folder / "mail" / "checkpoint"):
        shutil.rmtree(item)
    (folder / TRUNK / "full.json").unlink()
    laid = laid_down(path, folder, save_every=10)
    assert [part.name for part in left(laid)] == ["mail"]
    assert train(laid)["mail"]["loss_spec"] == row(one, "mail")["loss_spec"] and (folder / "mail" / "checkpoint").is_dir()
    assert not (folder / TRUNK / "states").exists()
    shutil.rmtree(folder / "mail")
    laid = laid_down(path, folder, save_every=10)
    assert [part.name for part in left(laid)] == [TRUNK, "mail"]


def test_adapters_whose_trunk_is_gone_say_how_to_begin_again(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    body = json.loads(path.read_text())
    for source in body["sources"].values():
        source["method"] = "lora"
    (tmp_path / "a.json").write_text(json.dumps(body))
    laid = laid_down(tmp_path / "a.json", tmp_path / "run", save_every=10)
    assert run_here(laid[0].folder)
    mail = tmp_path / "run" / "mail"
    assert run_here(mail)
    before = row(tmp_path / "run", "mail")
    shutil.rmtree(mail / "records")
    with pytest.raises(StateError, match="is gone, and the adapters") as caught:
        run_here(mail)
    assert f"delete {mail / 'states'}" in caught.value.remedy
    shutil.rmtree(mail / "states")
    assert run_here(mail) and row(tmp_path / "run", "mail") == before


@pytest.mark.parametrize("name", ["launch.json", "Trunk", "submit.sh", "", "a/b", "x" * 300])
def test_a_domain_that_can_have_no_folder_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_text(path.read_text().replace('"mail"', json.dumps(name)))
    code, _, said = plan("launch", tmp_path / "a.json", "--out", tmp_path / "run", "--dry-run")
    assert code == 2 and "cannot name a folder" in said and not (tmp_path / "run").exists()


def test_another_plan_is_refused_after_the_end_too(path: Path, one: Path, tmp_path: Path) -> None:
    shutil.copytree(one, tmp_path / "run")
    (tmp_path / "b.json").write_text(path.read_text().replace('"loss": 4.0', '"loss": 3.9'))
    code, _, said = plan("launch", tmp_path / "b.json", "--out", tmp_path / "run")
    assert code == 2 and "another plan" in said
    code, _, said = plan("launch", path, "--out", tmp_path / "run")
    assert code == 0 and "held-out loss" in said


def test_a_stop_file_in_the_launch_folder_is_for_the_run_that_trains(path: Path, tmp_path: Path) -> None:
    laid_down(path, tmp_path / "run")
    (tmp_path / "run" / STOP_FILE).touch()
    code, _, said = plan("launch", path, "--out", tmp_path / "run")
    assert code == INTERRUPTED and not (tmp_path / "run" / STOP_FILE).exists() and 0 < at(tmp_path / "run" / TRUNK) < FORK, said


def test_a_halted_trunk_lets_no_branch_begin(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Slurm, where branches wait for it to end well; a rank says so by its exit code, and the job stays out of the queue."""
    folder = laid_down(path, tmp_path / "run")[0].folder
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_LOCALID", "0"), ("SLURM_JOB_ID", "7")):
        monkeypatch.setenv(name, value)
    (folder / STOP_FILE).touch()
    monkeypatch.setattr(main, "LOOK_EVERY", 0.0)
    before = {number: signal.getsignal(number) for number in main.SIGNALS}
    try:
        assert main.main([str(folder), "--slurm"]) == HALTED and at(folder) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code, _, said = plan("launch", path, "--out", tmp_path / "run", "--engine", "slurm")
    assert code == 0, said
    text = (folder / "run.sbatch").read_text()
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $1 >> {tmp_path / 'asked'}\n")
    (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {HALTED}\n")
    for tool in ("scontrol", "srun"):
        (tmp_path / tool).chmod(stat.S_IRWXU)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node1"}
    done = subprocess.run(["bash", "-c", text.replace("latest() {", "latest() { date +%N; return;")], env=environment, capture_output=True, check=False)
    assert done.returncode == HALTED and (tmp_path / "asked").read_text() == "show\n", done.stderr


def test_each_run_has_the_forecast_of_its_law(two: Corpus, fitted: FittedLaw, tmp_path: Path) -> None:  # noqa: F811
    """As long as the law is the one that was planned with."""
    many = answer(two)
    fitted.save(tmp_path / "law.json", {})
    sources = {name: {**source, **({"law_path": "law.json"} if "mail" in name else {})} for name, source in many.sources.items()}
    replace(many, sources=sources).save(tmp_path / "a.json", {})
    laid = {part.name: part for part in laid_down(tmp_path / "a.json", tmp_path / "run")}
    mail, parser = ForecastCurve.load(laid["mail"].folder), ForecastCurve.load(laid["parser"].folder)
    assert mail is not None and parser is not None and ForecastCurve.load(laid[TRUNK].folder) is None
    assert [point.step for point in mail.points] == [*laid["mail"].run.settings.evaluate_at, 450] and len(parser.points) == 1
    assert len(mail.points) > 4 and all(230 < point.step for point in mail.points) and mail.points[-1].low == parser.points[-1].low == 2.0
    assert FullRun.load(laid["mail"].folder) == laid["mail"].run


def test_watch_shows_every_run_and_one(one: Path) -> None:
    code, out, said = plan("watch", one)
    text = " ".join(out.split())
    assert code == 0 and f"{row(one, 'mail')['loss_spec']:.4f}" in text and f"{FORK} of {FORK}" in text and f"{MAIL} of {MAIL}" in text
    assert "plan watch" in said
    answer = json.loads(plan("watch", one, "--json")[1])["runs"]
    assert list(answer) == [TRUNK, "parser", "mail"] and answer["parser"]["outcome"]["status"] == "ok" and answer["parser"]["last"]["step"] == PARSER
    code, _, said = plan("watch", one / "mail")
    assert code == 0 and (one / "mail" / "progress.png").stat().st_size > 10_000
    axis = Figure().subplots()
    loss_curve(axis, read_progress(one / "mail"))
    assert axis.get_xlim()[0] == FORK * 64, "a branch is drawn from where it begins"


def test_options_of_one_run_are_refused(path: Path, tmp_path: Path) -> None:
    for option, value in (("--export", "torchtitan"), ("--law", "law.json"), ("--base", "base")):
        code, _, said = plan("launch", path, "--out", tmp_path / "run", option, value)
        assert code == 2 and option in said and "several" in said and not (tmp_path / "run").exists()
    code, _, said = plan("launch", path, "--out", tmp_path / "run", "--micro-batch", 3)
    assert code == 2 and "3 sequences" in said


def stub(folder: Path) -> None:
    """Put a stand-in for sbatch in a folder: it writes down where and how it was called, and answers like that of several clusters."""
    (folder / "sbatch").write_text(
        f"#!{sys.executable}\nimport json, os, sys\nwith open({str(folder / 'calls')!r}, 'a+') as file:\n"
        "    file.seek(0)\n    number = 70 + len(file.readlines())\n    file.write(json.dumps([os.getcwd(), *sys.argv[1:]]) + '\\n')\n"
        "print(f'{number};cluster')\n"
    )
    (folder / "sbatch").chmod(stat.S_IRWXU)


def test_slurm_gets_the_trunk_first_and_branches_that_wait_for_it(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = tmp_path / "it's $(touch pwned)"
    code, _, said = plan("launch", path, "--out", run, "--engine", "slurm", "--ranks", 2, "--submit")
    assert code == 0 and "trunk 70" in said and "mail 72" in said, said
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    after = ["--kill-on-invalid-dep=yes", "--dependency=singleton,afterok:70"]
    assert calls == [[str(run / TRUNK), "--parsable", "run.sbatch"]] + [
        [str(run / name), "--parsable", *after, "run.sbatch"] for name in ("parser", "mail")
    ]
    names = {line for name in (TRUNK, "mail") for line in (run / name / "run.sbatch").read_text().splitlines() if "job-name" in line}
    assert len(names) == 2 and FullRun.load(run / "mail").trunk == TRUNK and read_json(run / "launch.json")["runs"].keys() == {"mail", "parser"}
    assert not list(tmp_path.rglob("pwned"))
    assert run_here(run / TRUNK)
    code, _, said = plan("launch", path, "--out", run, "--engine", "slurm", "--ranks", 2)  # the trunk has ended: nobody waits for it
    text = (run / "submit.sh").read_text()
    assert code == 0 and text.count("sbatch") == 4 and "FIRST" not in text and "dependency" not in text


def test_what_slurm_refuses_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a").mkdir()
    with pytest.raises(StateError, match="invalid partition"):
        submit_chain(write_chain(tmp_path, tmp_path / "a" / "run.sbatch", []))
