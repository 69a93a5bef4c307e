"""No library fetches native code from a hub, though the package that does so is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FETCHES = """
from pathlib import Path
__version__ = "0.15.2"
(Path(__file__).parent / "imported").touch()
def get_kernel(*names, **options): raise OSError("asked for " + str(names))
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["peft", "bitsandbytes", "transformers"])
def test_what_fetches_kernels_is_not_there_for_the_libraries(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(FETCHES)
    # As an installed package has them: transformers asks for the version.
    (tmp_path / "kernels-0.15.2.dist-info").mkdir()
    (tmp_path / "kernels-0.15.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.15.2\n")
    ways = {
        "peft": "from planner.train.adapters import _peft; _peft()",
        "bitsandbytes": "from planner.train.quantised import _bitsandbytes; _bitsandbytes()",
        "transformers": "from pathlib import Path; from planner.counted import read_config\ntry: read_config(Path('none'))\nexcept Exception: pass",
    }
    asked = "from importlib.util import find_spec; print(find_spec('kernels'))"
    path = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    ended = subprocess.run([sys.executable, "-c", f"{ways[package]}\n{asked}"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stdout.strip() == "None", ended.stderr
    assert not (tmp_path / "kernels" / "imported").exists()
    assert "kernels-community" not in ended.stderr
