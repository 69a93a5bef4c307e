"""Torn notes of a sweep's folder: set aside where nothing depends on them, named where something does."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from planner.errors import InputError, StateError
from planner.live import read_live
from planner.mend import read_identity, set_aside_torn
from tests.refused import refuse_reading


@pytest.mark.parametrize("text", ['{"recipe": ', "5", "", "[" * 100000])
def test_a_torn_identity_without_runs_is_set_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state" / "identity.json"
    path.parent.mkdir()
    assert read_identity(tmp_path) is None
    path.write_text(text)
    (path.parent / "live.json").write_text("{}")
    assert read_identity(tmp_path) is None
    assert not path.exists() and (path.parent / "identity.json.torn").read_text() == text
    path.write_text('{"recipe": "a"}')
    assert read_identity(tmp_path) == {"recipe": "a"}


@pytest.mark.parametrize("run", ["records/a.json", "state/a.safetensors"])
def test_a_torn_identity_of_runs_is_named(tmp_path: Path, run: str) -> None:
    for name in (run, "state/identity.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{")
    with pytest.raises(StateError, match="is torn; make sure .*, then delete .*identity.json"):
        read_identity(tmp_path)
    assert (tmp_path / "state" / "identity.json").exists()


@pytest.mark.parametrize("kind", ["record", "state", "note"])
def test_what_the_system_does_not_hand_out_is_not_torn(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as another user's, or one too many that is open: it may be whole, and to train it again would do the work twice."""
    path = tmp_path / "file"
    path.write_text("{")
    refuse_reading(monkeypatch, path, errno.EMFILE)
    with pytest.raises(InputError, match="file cannot be read: Too many open files"):
        set_aside_torn(*([path] if kind == each else [] for each in ("record", "state", "note")))
    assert path.exists()


@pytest.mark.parametrize("body", [{"failed": 5}, {"failed": {"a": 5}}, {"running": "a"}, {"running": [5]}, {"running": None}, 5])
def test_a_malformed_note_of_what_runs_is_as_none(tmp_path: Path, body: object) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "live.json").write_text(json.dumps(body))
    assert read_live(tmp_path) == {}
