"""Every notebook runs from top to bottom on what is in the repository, draws, and leaves reckoning to the planner."""

import ast
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: pip install '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install '.[dev]'")
pytest.importorskip("ipykernel", reason="needs ipykernel: pip install '.[dev]'")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300
"""For one cell, on a busy machine."""
IMPORTED = {"planner", "pathlib", "pandas"}


def code(path: Path) -> list[str]:
    """Return the code cells, without lines that are IPython's."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ["\n".join(line for line in source.splitlines() if not line.startswith("%")) for source in cells]


def formulas(source: str) -> list[str]:
    """List what reckons: operators but the / of paths, functions of its own, and imports of other packages."""
    found = []
    for node in ast.walk(ast.parse(source)):
        right = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) else None
        of_paths = isinstance(right, ast.Constant) and isinstance(right.value, str)
        if isinstance(node, (ast.BinOp, ast.AugAssign, ast.Lambda, ast.FunctionDef)) and not of_paths:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] not in IMPORTED]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in IMPORTED:
            found.append(str(node.module))
    return found


def test_formulas_are_noticed() -> None:
    for source in ("import numpy as np", "from math import exp", "y = x ** 2", "y = 1.0 / x", "x += 1", "f = lambda x: x", "def f(x):\n    return x"):
        assert formulas(source), source
    assert not formulas('from pathlib import Path\nlaw = load(Path.cwd() / "sweeps" / "law.json", [1e12, 2e12])')


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_formula_and_no_output(path: Path) -> None:
    assert not [found for source in code(path) for found in formulas(source)]
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


# The kernel's client belongs to others, and so do its warnings.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    # Only recorded files: states, text and corpora stay where they are.
    for file in (ROOT / "sweeps").rglob("*"):
        if file.name in ("runs.csv", "law.json", "backtest.json"):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()
    drawing = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.rstrip().endswith("\nfigure")]
    assert drawing
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
    said = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if output.output_type == "stream"]
    assert not said, said


def test_the_law_of_a_sweep_without_a_check_is_drawn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its first cell says, with another folder; but for the profiles, which take long."""
    monkeypatch.chdir(ROOT / "notebooks")
    named: dict[str, object] = {}
    sources = [source for source in code(ROOT / "notebooks" / "fitted_curves.ipynb") if "profile(" not in source]
    for source in (source.replace('"medicine"', '"computing"') for source in sources):
        exec(compile(source, "notebook", "exec"), named)
    assert not (ROOT / "sweeps" / "computing" / "check").exists() and named["checks"] == []
