"""Local workers on GPUs: one a GPU unless told otherwise, each of which sees its own. GPUs are stubs here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from planner.cli.engines import Where
from planner.engines import local
from planner.engines.local import LocalEngine
from planner.errors import InputError
from planner.train.gpus import visible_gpus
from planner.train.job import Job, Result
from tests.engines.test_demand import job


def tell(pipe: Connection) -> None:
    """Answer with what a worker was given, in place of training."""
    while True:
        try:
            told = pipe.recv()
        except (EOFError, OSError):
            return
        seen = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {told.gpu_sharers}"
        pipe.send(("done", (Result("done", 0.0, seen), "")))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    torch = pytest.importorskip("torch")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield monkeypatch


def test_workers_are_as_many_as_the_gpus_unless_told(gpus: pytest.MonkeyPatch) -> None:
    def places(**options: object) -> list[tuple[str | None, int]]:
        engine = Where(device="cuda", **options).make()  # type: ignore[arg-type]
        assert isinstance(engine, LocalEngine)
        return engine.places()

    assert places() == [("0", 1), ("1", 1), ("2", 1)]
    assert places(workers=2) == [("0", 1), ("1", 1)]
    assert places(workers=4) == [("0", 2), ("1", 1), ("2", 1), ("0", 2)]
    assert Where(device="cuda").known_workers == 3 and Where(device="cuda", engine="ray").known_workers == Where().known_workers
    engine = Where(workers=2).make()
    assert isinstance(engine, LocalEngine) and engine.places() == [(None, 1)] * 2, "on processors nothing is set"
    gpus.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        places()


def test_a_variable_that_is_set_is_kept_to(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-8a1b,2")
    assert visible_gpus() == ("5", "GPU-8a1b", "2")
    gpus.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ("5", "GPU-8a1b"), "what torch does not see is not used"


def test_each_worker_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "_work", tell)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    waiting: list[Job] = [job(2e4, device="cuda") for _ in range(3)]
    events = LocalEngine(3, ("5", "7")).run(lambda: waiting.pop() if waiting else None)
    seen = [event.result.reason for event in events if event.result is not None]
    assert sorted(map(str, seen)) == ["5 2", "5 2", "7 1"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5,7", "this process keeps its own"
    assert not multiprocessing.active_children()
