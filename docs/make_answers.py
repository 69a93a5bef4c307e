"""Write answers.md, the schema of every answer of `plan allocate` and `plan scaling`, from the docstrings under the fields.

    python docs/make_answers.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    ("`plan allocate`: kind `allocation`", "planner/allocate/allocation.py", ("Allocation", "Plan", "Arm", "Worth")),
    ("its field `general`, under a limit on the general loss", "planner/allocate/retention.py", ("Kept",)),
    ("`plan allocate --base`: kind `bases`", "planner/allocate/base_answer.py", ("BaseAllocation", "Choice", "Guess", "Way", "Kept")),
    ("`plan allocate --domains`: kind `domains`", "planner/allocate/domains/answer.py", ("DomainsAllocation", "Structure", "DomainPlan", "Knowing")),
    ("its field `around`", "planner/allocate/domains/around.py", ("Around",)),
    ("`plan scaling`: kind `scaling`", "planner/allocate/curves.py", ("Scaling", "Curve", "Optimum", "Exponent", "BreakEven")),
)
HEAD = """# The answers as files

What `plan allocate` and `plan scaling` write, and print with `--json`: one JSON object with `kind`, `schema_version`, `created` [UTC], `inputs` (SHA-256
of each file that was read) and the fields of the first table of its section. Tokens and parameters are counts, losses nats/token, FLOPs training FLOPs,
shares from 0 to 1, fields that end in `percent` per cent; `null` stands for none, and for infinity.
Made by `python docs/make_answers.py` from the code.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for title, path, names in PAGES:
        parts.append(f"\n## {title}\n")
        classes = {node.name: node for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}
        for name in names:
            parts.append(f"\n**{name}.** {(ast.get_docstring(classes[name]) or '').splitlines()[0]}\n\n| field | type | meaning |\n|---|---|---|\n")
            parts += [f"| `{field}` | {kind} | {meaning} |\n" for field, kind, meaning in fields(classes[name])]
    return "".join(parts)


def fields(node: ast.ClassDef) -> list[tuple[str, str, str]]:
    """List name, type and docstring of a dataclass's fields."""
    found = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            found.append((item.target.id, ast.unparse(item.annotation).replace("|", "or"), " ".join(str(said).split()).replace("|", "or")))
    return found


if __name__ == "__main__":
    (ROOT / "docs" / "answers.md").write_text(page(), encoding="utf-8")
