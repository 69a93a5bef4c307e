"""What a start of the ranks reads and where it writes: the launch folder it is given, and the corpus and checkpoint that the run was begun with."""
# ruff: noqa: E402  (torch is asked for before what needs it is imported)

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from planner.artifacts import read_json
from planner.corpus.store import Corpus
from planner.errors import InputError, StateError
from tests.train.full.runs import RECIPE, lay, row, run_here
from tests.train.shared import checkpoint


def test_a_run_writes_into_the_folder_it_is_given_wherever_it_runs(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid down by relative names; its ranks start in another folder, and go on in a copy."""
    pytest.importorskip("peft", reason="peft is not installed")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    checkpoint(here / "base", corpus)
    monkeypatch.chdir(here)
    lay(Path("run"), corpus, recipe=replace(RECIPE, lora_rank=4), base=Path("base"))
    monkeypatch.chdir(elsewhere)
    assert not run_here(here / "run", stop_at=20)
    copy = tmp_path / "copied" / "run"
    shutil.copytree(here / "run", copy)
    for folder in (copy, here / "run"):
        assert run_here(folder)
        assert row(folder)["status"] == "ok" and (folder / "checkpoint" / "config.json").is_file() and (folder / "adapter").is_dir()
        assert not list(elsewhere.iterdir())
        assert folder != copy or not (here / "run" / "records").exists()


def test_a_corpus_that_has_changed_is_refused_at_the_next_start(corpus: Corpus, tmp_path: Path) -> None:
    own = Corpus.open(shutil.copytree(corpus.folder, tmp_path / "corpus"))
    folder = tmp_path / "run"
    lay(folder, own)
    assert not run_here(folder, stop_at=5)
    metrics = (folder / "metrics.jsonl").read_bytes()
    tokens = own.folder / "mail" / "train.bin"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"mail/train.bin holds {len(whole) // 2} bytes, but .* says {len(whole)}"):
        run_here(folder)
    tokens.write_bytes(whole)
    account = read_json(own.folder / "corpus.json")
    (own.folder / "corpus.json").write_text(json.dumps({**account, "fingerprint": "rebuilt"}))
    with pytest.raises(StateError, match=f"has fingerprint rebuilt, but the run was begun on {corpus.fingerprint}; restore it"):
        run_here(folder)
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    (own.folder / "corpus.json").write_text(json.dumps(account))
    assert not run_here(folder, stop_at=8)


def other(base: Path) -> None:
    """Put other weights of the same shape into a checkpoint's folder."""
    from safetensors.torch import load_file, save_file

    path = base / "model.safetensors"
    save_file({name: tensor + 0.01 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def test_adapters_do_not_go_on_over_another_base(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    recipe, folder = replace(RECIPE, lora_rank=4), tmp_path / "run"
    base = checkpoint(tmp_path / "base", corpus)
    second = Path(shutil.copytree(base, tmp_path / "second"))
    other(second)
    lay(folder, corpus, recipe=recipe, base=base)
    assert not run_here(folder, stop_at=5)
    full = (folder / "full.json").read_bytes()
    with pytest.raises(StateError, match="was begun on base [0-9a-f]{16}, now it is [0-9a-f]{16}; restore that base"):
        lay(folder, corpus, recipe=recipe, base=second)
    assert (folder / "full.json").read_bytes() == full
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    lay(folder, corpus, recipe=recipe, base=moved)  # the same one, elsewhere
    assert not run_here(folder, stop_at=8)
    other(moved)
    with pytest.raises(StateError, match="base .*moved has fingerprint .* the run was begun on"):
        run_here(folder)
