"""Whether a library can be loaded is asked once for all processes that share torch.compile's cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.train.probes import remember_probes

cpu_vec_isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
if not hasattr(cpu_vec_isa.VecISA, "_probe_load"):
    pytest.skip("this torch has no such question", allow_module_level=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stand in for the interpreter that is started, and list what it was asked; a library whose name begins with "bad" cannot be loaded."""
    found: list[str] = []

    def probe(self: object, output_path: str) -> bool:
        found.append(Path(output_path).name)
        return not found[-1].startswith("bad")

    monkeypatch.setattr(cpu_vec_isa.VecISA, "_probe_load", probe)
    remember_probes.cache_clear()
    remember_probes()
    remember_probes()
    yield found
    remember_probes.cache_clear()


def test_a_library_that_was_loaded_is_not_tried_again(asked: list[str], tmp_path: Path) -> None:
    isa = cpu_vec_isa.VecAVX2()
    assert all(isa._probe_load(str(tmp_path / "good.so")) for _ in range(3))
    assert asked == ["good.so"]


def test_one_that_was_not_is(asked: list[str], tmp_path: Path) -> None:
    isa = cpu_vec_isa.VecAVX2()
    assert not any(isa._probe_load(str(tmp_path / "bad.so")) for _ in range(2))
    assert asked == ["bad.so"] * 2 and not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_as_before(asked: list[str], tmp_path: Path) -> None:
    assert cpu_vec_isa.VecAVX2()._probe_load(str(tmp_path / "missing" / "good.so"))


def test_another_torch_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cpu_vec_isa.VecISA, "_probe_load")
    remember_probes.cache_clear()
    remember_probes()
    assert not hasattr(cpu_vec_isa.VecISA, "_probe_load")
    remember_probes.cache_clear()
