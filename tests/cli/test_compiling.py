"""`--compile/--no-compile` means the same wherever a command trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main

from planner.cli.compiling import HELP
from planner.cli.main import app
from planner.corpus.store import Corpus
from planner.engines.event import Event
from planner.train.job import Job
from tests.cli.test_commands import run
from tests.conftest import TINY_RECIPE
from tests.engines.tiny import lay_out
from tests.launch.test_launch import allocation

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
TOLD = "using torch.compile for "
NOTHING = "torch.compile needs a C++ compiler"


class NoEngine:
    """Takes every job it is given, and trains none."""

    jobs: list[Job] = []

    def __init__(self, workers: int, gpus: tuple[str, ...] = ()) -> None:
        self.jobs.clear()

    def run(self, next_job: Callable[[], Job | None]) -> Iterator[Event]:
        while (job := next_job()) is not None:
            self.jobs.append(job)
            yield Event("failed", job, message="left alone")


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.engines.local.LocalEngine", NoEngine)
    monkeypatch.setattr("planner.design.compiling.has_compiler", lambda: True)


def sweep_of(folder: Path, corpus: Corpus) -> list[str]:
    return ["sweep", "run", str(lay_out(folder / "tiny", corpus))]


def probes(folder: Path, corpus: Corpus) -> list[str]:
    sizes = ["--sizes", "10k,12k", "--rates", "1e-3,2e-3,4e-3", "--tokens-pt", "16k", "--tokens-spec", "16k"]
    return ["sweep", "tune-lr", str(lay_out(folder / "tiny", corpus)), *sizes]


def adapters(folder: Path, corpus: Corpus) -> list[str]:
    answer = allocation(corpus)
    recipe = replace(TINY_RECIPE, lora_rank=1)
    replace(answer, source={**answer.source, "recipe": recipe.to_dict(), "method": "lora"}).save(folder / "a.json", {})
    return ["launch", str(folder / "a.json"), "--out", str(folder / "run")]


def domains(folder: Path, corpus: Corpus) -> list[str]:
    from tests.launch.test_domains import answer

    many = answer(corpus)
    sources = {name: {**source, "domain": "mail"} for name, source in many.sources.items()}
    replace(many, sources=sources).save(folder / "a.json", {})
    return ["launch", str(folder / "a.json"), "--out", str(folder / "run"), "--structure", "independent"]


@pytest.mark.parametrize("command", [sweep_of, probes])
@pytest.mark.parametrize("asked", [True, False, None])
def test_segments_are_compiled_as_it_is_asked_for(
    tmp_path: Path, corpus: Corpus, command: Callable[[Path, Corpus], list[str]], asked: bool | None
) -> None:
    option = [] if asked is None else ["--compile" if asked else "--no-compile"]
    code, _, words = run(*command(tmp_path, corpus), *option)
    assert code != 0 and "left alone" in words
    assert {job.compiled for job in NoEngine.jobs} == {bool(asked)}, "what trains for seconds is not compiled unless it is asked for"
    assert (TOLD in words) == bool(asked)


@pytest.mark.parametrize("command", [sweep_of, probes, adapters, domains])
def test_without_a_compiler_it_is_refused_before_anything_starts(
    tmp_path: Path, corpus: Corpus, command: Callable[[Path, Corpus], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.design.compiling.has_compiler", lambda: False)
    arguments = command(tmp_path, corpus)
    code, out, words = run(*arguments, "--compile")
    assert code == 2 and NOTHING in words and words.count("error:") == 1
    assert not list(tmp_path.rglob("records")) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [adapters, domains])
def test_a_launch_says_that_it_is_compiled(tmp_path: Path, corpus: Corpus, command: Callable[[Path, Corpus], list[str]]) -> None:
    arguments = [*command(tmp_path, corpus), "--dry-run"]
    assert TOLD in run(*arguments, "--compile")[2] and TOLD not in run(*arguments)[2]


def test_packed_matrices_are_not_compiled_and_that_is_said(tmp_path: Path, corpus: Corpus) -> None:
    arguments = adapters(tmp_path, corpus)
    text = (tmp_path / "a.json").read_text().replace('"method": "lora"', '"method": "qlora"')
    (tmp_path / "a.json").write_text(text)
    code, _, words = run(*arguments, "--compile", "--dry-run")
    assert code == 0 and "--compile has no effect on qlora" in words


def test_the_help_is_one(corpus: Corpus) -> None:
    group = typer.main.get_command(app)
    found = {}
    for path in (["sweep", "run"], ["sweep", "tune-lr"], ["launch"]):
        command = group
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        found[" ".join(path)] = next(item for item in command.params if item.name == "compiled")
    assert all(item.secondary_opts == ["--no-compile"] for item in found.values())
    assert {name for name, item in found.items() if item.help == HELP} == {"sweep run", "sweep tune-lr"}
    assert "off by default" in found["launch"].help
