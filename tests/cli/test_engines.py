"""Where a sweep runs, as the command line is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli import paths
from planner.corpus.store import Corpus
from tests.cli.test_commands import run
from tests.engines.tiny import lay_out


@pytest.fixture
def folder(tmp_path: Path, corpus: Corpus) -> Path:
    return lay_out(tmp_path / "tiny", corpus)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--engine cloud", "--engine 'cloud' is not known; choose one of local, ray, slurm."),
        ("--address auto", "--address auto has no effect with --engine local; leave it out, or use --engine ray."),
        ("--partition p", "--partition p has no effect with --engine local"),
        ("--engine ray --slurm-option a=b", "--slurm-option a=b has no effect with --engine ray"),
        ("--engine slurm --gpu-memory 80 --device cuda", "--gpu-memory 80.0 has no effect with --engine slurm"),
        ("--engine ray --gpu-memory 80", "--gpu-memory 80.0 has no effect with --device cpu"),
        ("--engine ray --gpu-memory -1 --device cuda", "--gpu-memory -1.0 is not a memory size"),
        ("--device tpu", "--device 'tpu' is not known"),
        ("--engine slurm --slurm-option account", "--slurm-option 'account' has no =; write key=value"),
        ("--engine slurm --slurm-option a=b --slurm-option a=c", "--slurm-option a is given twice"),
        ("--engine slurm --slurm-option wrap=x", "--slurm-option wrap=x is set by the planner itself"),
        ("--engine slurm --slurm-option comment=$HOME", "holds '$'"),
        ("--engine slurm --slurm-option account=$(id) --dry-run", "holds '$'"),
        ("--engine ray --address ray://user:SECRET@127.0.0.1:1", "no Ray cluster answers at ray://…@127.0.0.1:1"),
        ("--engine ray --address SECRET@nowhere", "--address '…@nowhere' is not an address"),
        ("--engine ray --address user:SECRET@127.0.0.1:1 --workers 2", "since --address …@127.0.0.1:1 names a cluster"),
        ("--address user:SECRET@127.0.0.1:1", "--address …@127.0.0.1:1 has no effect with --engine local"),
        ("--engine ray --address auto --workers 2", "--workers 2 has no effect, since --address auto names a cluster"),
    ],
)
def test_bad_options_end_with_one_sentence(folder: Path, options: str, sentence: str) -> None:
    pytest.importorskip("torch")
    code, out, words = run("sweep", "run", str(folder), *options.split(" "))
    assert code == 2 and sentence in words and not out
    assert words.count("error:") == 1 and "Traceback" not in words and "SECRET" not in words
    assert not (folder / "records").exists()


@pytest.mark.parametrize("options", [(), ("--engine", "ray"), ("--workers", "2")])
def test_gpus_that_this_machine_has_not_are_refused_before_anything_is_written(folder: Path, options: tuple[str, ...]) -> None:
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is one")
    before = sorted(folder.iterdir())
    code, out, words = run("sweep", "run", str(folder), "--device", "cuda", *options)
    assert code == 2 and "error: --device cuda was given, but torch finds no GPU; use --device cpu, or" in words and not out
    assert sorted(folder.iterdir()) == before


def test_a_dry_run_shows_what_each_task_asks_for(folder: Path) -> None:
    code, out, words = run("sweep", "run", str(folder), "--engine", "ray", "--device", "cuda", "--gpu-memory", "10", "--dry-run")
    assert code == 0 and "12 of 12 segments" in words
    assert "Resources of each task" in out and "0.11" in out and "1.00 GB" in out
    code, out, words = run("sweep", "run", str(folder), "--engine", "ray", "--device", "cuda", "--dry-run")
    assert code == 0 and "every task gets a GPU of its own" in words
    assert not (folder / "state").exists(), "a dry run writes nothing"


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_package_is_one_sentence(folder: Path, engine: str, package: str) -> None:
    pytest.importorskip("torch")
    code = (
        "import importlib.util as util; find = util.find_spec\n"
        f"util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n"
        f"from planner.cli.main import app; app(['sweep', 'run', {str(folder)!r}, '--engine', {engine!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: the package {package} is needed for --engine {engine} and is not installed; pip install" in done.stderr
    assert "Traceback" not in done.stderr and not (folder / "records").exists()


def test_no_engine_is_imported_before_it_is_asked_for() -> None:
    code = "import sys; import planner.cli.main, planner.sweep; print(sorted({'ray', 'submitit', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("asked", "ranks", "threads"),
    [(None, 1, 8), (None, 3, 2), (None, 9, 1), ("", 2, 4), ("3", 2, 3), (" 5,2", 1, 5), ("0", 2, 4), ("all", 2, 4), ("9" * 9, 2, 1024)],
)
def test_threads_of_a_rank(asked: str | None, ranks: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "default_workers", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert paths.default_threads(ranks) == threads
