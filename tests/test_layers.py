"""A module imports only what stands before it in the way of the data."""

import ast
from pathlib import Path

import planner

ROOT = Path(planner.__file__).parent
ORDER = (
    "arrays", "errors", "native", "artifacts", "units", "shapes", "flops", "method", "recipe", "counted", "pretrained", "ladder", "corpus", "design",
    "flags", "tabular", "runs", "laws", "fit", "decisions", "backtest", "allocate", "next_runs", "lock", "sbatch", "train", "engines", "live", "mend",
    "schedule", "sweep", "tune", "launch", "verify", "verify_domains", "evaluation", "report", "demo", "cli",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """List the parts of the planner that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[1] for name in names if name.startswith("planner.")}
    return found


def test_modules_import_only_what_stands_before_them() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in ORDER, f"{path} has no place in the order"
        wrong += [f"{path.relative_to(ROOT)} imports {other}" for other in imports(path) if ORDER.index(other) > ORDER.index(part)]
    assert not wrong, wrong


def test_only_train_imports_torch() -> None:
    """And what counts models that have no formula."""
    for path in ROOT.rglob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""])
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        if names & {"torch", "transformers", "peft", "bitsandbytes", "lm_eval"}:
            assert path.relative_to(ROOT).parts[0] in ("train", "counted.py"), path


def test_only_the_command_line_prints() -> None:
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] != "cli":
            calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
            assert not {"print", "exit"} & {call.id for call in calls if isinstance(call, ast.Name)}, path
