"""Two ranks on gloo train what one trains; a run goes on after a kill and a stop, on another number of ranks, as if nothing had been."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.errors import StateError
from planner.train.full.metrics import read_metrics
from tests.launch.segments import carry_out
from tests.train.full.runs import GENERAL, STEPS, Torchrun, at, finish, lay, losses, row, run_here, start, steps_of, wait_for

pytestmark = pytest.mark.slow

CLOSE = 1e-5
"""Largest difference of a training loss [nats/token] that another order of summation may make over these few steps."""


@pytest.fixture(scope="module")
def one(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one rank, undisturbed."""
    folder = tmp_path_factory.mktemp("one") / "run"
    lay(folder, corpus)
    assert run_here(folder)
    return folder


@pytest.fixture(scope="module")
def two(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on two ranks, undisturbed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    lay(folder, corpus, ranks=2)
    finish(folder, start(folder))
    return folder


@pytest.fixture(scope="module")
def chain(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """The run on two ranks that are killed, then on one that is stopped, on two that get SIGTERM, and to its end on one; and the steps it went on from."""
    folder = tmp_path_factory.mktemp("chain") / "run"
    lay(folder, corpus, ranks=2)
    process = start(folder, {"wait": 0.05})
    wait_for(folder, process, 17)
    process.kill()
    begun = [latest(folder)]
    (folder / "states" / "step-000000099.part").mkdir()  # a state half written
    lay(folder, corpus)
    assert not run_here(folder, stop_at=30)
    begun.append(latest(folder))
    lay(folder, corpus, ranks=2)
    process = Torchrun(folder, {"wait": 0.05})
    wait_for(folder, process, 47)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=180)
    begun += [latest(folder), at(folder)]
    lay(folder, corpus)
    assert run_here(folder)
    return folder, begun


def latest(folder: Path) -> int:
    return int(read_json(folder / "states" / "latest.json")["step"])


def largest(first: list[float], second: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def test_one_rank_is_the_sweeps_own_loop_to_the_bit(one: Path, corpus: Corpus, tmp_path: Path) -> None:
    from tests.train.full.runs import allocation, prepare

    allocation(corpus).save(tmp_path / "a.json", {})
    expected = carry_out(prepare(tmp_path / "a.json", tmp_path / "run"))
    assert row(one) == {**expected, "sweep": "run"}


def test_two_ranks_have_the_losses_of_one(one: Path, two: Path) -> None:
    assert largest(losses(one), losses(two)) < CLOSE
    assert row(two)["loss_spec"] == pytest.approx(row(one)["loss_spec"], abs=CLOSE)
    assert (two / "checkpoint" / "model.safetensors").exists()


def test_two_ranks_compute_the_loss_in_parts(two: Path, corpus: Corpus, tmp_path: Path) -> None:
    """FSDP keeps the output layer gathered for all of them, and adds their gradients up."""
    folder = tmp_path / "run"
    lay(folder, corpus, ranks=2)
    finish(folder, start(folder, {"logits": 4 * corpus.vocab_size * 10}))  # ten tokens a part, and a rank's 64 do not divide by that
    whole, parts = steps_of(two)[1], steps_of(folder)[1]
    assert parts["loss"] == pytest.approx(whole["loss"], abs=1e-6) and parts["grad_norm"] == pytest.approx(whole["grad_norm"], abs=1e-6)
    assert 0 < largest(losses(two), losses(folder)) < CLOSE


def test_every_rank_sees_its_part_of_one_order(one: Path, two: Path) -> None:
    assert [line["batch"] for line in steps_of(two).values()] == [line["batch"] for line in steps_of(one).values()]
    assert [line["batch"] for line in steps_of(one).values()][GENERAL - 1 : GENERAL + 1] == [GENERAL - 1, 0]


def test_a_killed_and_stopped_run_ends_as_an_undisturbed_one(one: Path, chain: tuple[Path, list[int]]) -> None:
    folder, (after_kill, after_stop, after_term, last_step) = chain
    assert after_kill == 10 and after_stop == 30  # the kill costs what was not saved, the stop nothing
    assert 47 <= after_term == last_step < STEPS
    assert largest(losses(one), losses(folder)) < CLOSE
    assert row(folder)["loss_spec"] == pytest.approx(row(one)["loss_spec"], abs=CLOSE)
    stops = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "event" and line["what"] == "stopped"]
    assert stops == [30, after_term]


def test_a_resume_draws_no_model(two: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size that takes hours, and all that is drawn is in the state, here one of two ranks that one goes on from. It is NaN before."""
    import planner.train.model as module

    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    shutil.copy(two.with_suffix(".json"), tmp_path / "run.json")
    for name in ("step-000000070", "step-000000072"):
        shutil.rmtree(folder / "states" / name)
    (folder / "states" / "latest.json").write_text('{"step": 60}')
    shutil.rmtree(folder / "records")
    lay(folder, corpus)
    monkeypatch.setattr(module, "initialise", None)
    torch.use_deterministic_algorithms(True)  # fills what is allocated and not written
    try:
        assert run_here(folder)
    finally:
        torch.use_deterministic_algorithms(False)
    assert largest(losses(two), losses(folder)) < CLOSE


def test_states_are_safetensors_of_every_rank_and_the_oldest_go(two: Path, one: Path) -> None:
    kept = sorted(path.name for path in (two / "states").iterdir())
    assert kept == ["latest.json", "step-000000060", "step-000000070", "step-000000072"]
    files = sorted(path.name for path in (two / "states" / "step-000000072").iterdir())
    assert [name.split("-")[0] for name in files] == ["loop.json", "shard", "shard"]
    assert len([name for name in (one / "states" / "step-000000072").iterdir() if name.suffix == ".safetensors"]) == 1
    assert not list(two.rglob("*.part")) and not list(two.rglob("*.distcp")) and not list(two.rglob(".metadata"))


@pytest.mark.parametrize("listed", [True, False], ids=["as saved", "by an earlier version"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_state_that_lacks_the_file_of_a_rank_is_refused(two: Path, tmp_path: Path, rank: int, listed: bool) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    state = folder / "states" / f"step-{STEPS:09d}"
    if not listed:
        loop = read_json(state / "loop.json")
        assert set(loop.pop("files")) == {file.name for file in state.glob("*.safetensors")}
        (state / "loop.json").write_text(json.dumps(loop))
    sorted(state.glob("*.safetensors"))[rank].unlink()
    with pytest.raises(StateError, match=f"step-{STEPS:09d} cannot be read: .*{'is missing' if listed else 'values of'}.*delete"):
        run_here(folder)


def test_a_state_of_an_earlier_version_is_read(two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    path = folder / "states" / f"step-{STEPS:09d}" / "loop.json"
    path.write_text(json.dumps({key: value for key, value in read_json(path).items() if key != "files"}))
    assert run_here(folder)


def test_a_finished_run_is_not_trained_again(two: Path, corpus: Corpus) -> None:
    before = (two / "metrics.jsonl").read_bytes()
    assert run_here(two)
    assert (two / "metrics.jsonl").read_bytes() == before
