"""A disk that is full, with real workers on a file system that really is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from planner.corpus.store import Corpus
from planner.engines.local import LocalEngine
from planner.sweep import Sweep, run_sweep
from tests.engines.tiny import assert_whole, lay_out, states

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_a_disk_that_takes_no_states(undisturbed: Path, tmp_path: Path, corpus: Corpus) -> None:
    folder = lay_out(tmp_path / "tiny", corpus)
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "planner.cli.main", "sweep", "run", str(folder), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", limit, *command], capture_output=True, text=True)  # below a state, above a record
    assert done.returncode == 2
    assert "cannot be written" in done.stderr and "limit on file sizes (ulimit -f)" in done.stderr and "safetensors" in done.stderr
    assert not states(folder) and not [path for path in (folder / "state").iterdir() if path.name.startswith(".")]
    assert run_sweep(Sweep.open(folder), LocalEngine(2)) == {}
    assert_whole(folder, undisturbed)


def test_a_disk_that_takes_no_corpus(text_folder: Path, tmp_path: Path) -> None:
    places = {"general": text_folder / "general", "mail": text_folder / "special"}
    sources = "".join(f'[[source]]\ndomain = "{domain}"\nkind = "txt"\npath = "{place}"\n' for domain, place in places.items())
    (tmp_path / "corpus.toml").write_text(f"{sources}[tokenizer]\nvocab_size = 300\n")
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "planner.cli.main", "corpus", "build", str(tmp_path / "corpus.toml"), "--out", str(tmp_path / "corpus")]
    done = subprocess.run([sys.executable, "-c", limit, *command], capture_output=True, text=True)
    assert done.returncode == 2 and "error: a file cannot be written: File too large; raise this user's limit" in done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.toml"]


def test_a_full_disk(undisturbed: Path, tmp_path: Path, corpus: Corpus) -> None:
    """A file system of 0.4 MB, in a mount namespace of its own; then room is made, and the same command continues."""
    pytest.importorskip("ray")
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here, not even in a namespace of one's own")
    folder = lay_out(tmp_path / "tiny", corpus)
    script = """
    mount -t tmpfs -o size=400k none "$1" && cp "$2" "$1/sweep.toml" || exit 90
    "$4" -m planner.cli.main sweep run "$1" --workers 2 --engine ray 2> "$3/first"; echo $? > "$3/code"
    mount -o remount,size=20m "$1" || exit 91
    "$4" -m planner.cli.main sweep run "$1" --workers 2 2> "$3/second" || exit 92
    cp -r "$1" "$3/after"
    """
    (tmp_path / "out").mkdir()
    (tmp_path / "sweep.toml").write_text((folder / "sweep.toml").read_text())
    (folder / "sweep.toml").unlink()
    places = [str(folder), str(tmp_path / "sweep.toml"), str(tmp_path / "out"), sys.executable]
    done = subprocess.run([*enter, "sh", "-c", script, "sh", *places], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, (done, (tmp_path / "out" / "first").read_text())
    first = (tmp_path / "out" / "first").read_text()
    assert (tmp_path / "out" / "code").read_text() == "2\n" and "No space left on device" in first and "same command" in first
    assert_whole(tmp_path / "out" / "after", undisturbed)


