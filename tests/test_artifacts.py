"""Files are written whole, and nothing but a file is ever replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from planner.artifacts import read_json, read_toml, write_text
from planner.errors import InputError
from planner.report import style


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link.png").symlink_to(pipe)
    with pytest.raises(InputError, match="a device or a pipe"):
        write_text(pipe, "text")
    with pytest.raises(InputError, match="a device or a pipe"):
        style.save(tmp_path / "link.png", lambda axes: None)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("text", ['{"a": ' + "[" * 100000, '{"a": ' + "9" * 5000 + "}", "{", "5"])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="a.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["a = " + "[" * 100000, "a = "])
def test_toml_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match="a.toml is not TOML"):
        read_toml(tmp_path / "a.toml")
