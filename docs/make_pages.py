"""Write the pages that come from docstrings under fields: answers.md, the schema of every answer, and settings.md, all that a TOML file may state.

    python docs/make_pages.py
"""

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ANSWERS = (
    ("`plan allocate`: kind `allocation`", "planner/allocate/allocation.py", ("Allocation", "Plan", "Arm", "Worth")),
    ("the field `general` of an allocation, a choice and a domain, under a limit on the general loss", "planner/allocate/retention.py", ("GeneralLoss",)),
    ("`plan allocate --base`: kind `bases`", "planner/allocate/base_answer.py", ("BaseAllocation", "Choice", "Guess", "Way", "ReservedShare")),
    (
        "`plan allocate --domains`: kind `domains`", "planner/allocate/domains/answer.py",
        ("DomainsAllocation", "Structure", "DomainPlan", "InformationValue"),
    ),  # fmt: skip
    ("the field `felt` of kinds `allocation` and `bases`, of the plan that is recommended", "planner/allocate/loss_units.py", ("LossUnits",)),
    ("the field `cost` of kinds `allocation`, `bases` and `domains`", "planner/allocate/budget.py", ("Cost",)),
    ("the field `around` of kind `domains`", "planner/allocate/domains/sensitivity.py", ("Sensitivity",)),
    ("`plan scaling`: kind `scaling`", "planner/allocate/curves.py", ("Scaling", "Curve", "Optimum", "Exponent", "BreakEven")),
)
ANSWERS_HEAD = """# The answers as files

What `plan allocate` and `plan scaling` write, and print with `--json`: one JSON object with `kind`, `schema_version`, `created` [UTC], `inputs` (SHA-256
of each law, table and file of domains that was read) and the fields of the first table of its section. Tokens and parameters are counts, losses
nats/token, FLOPs training FLOPs, shares from 0 to 1, fields that end in `percent` per cent; `null` stands for none, and for infinity.
Made by `python docs/make_pages.py` from the code.
"""
CORPUS, SWEEP = "planner/corpus/config.py", "planner/design/spec.py"
SETTINGS = (
    ("corpus.toml", "[[source]], one for each place that documents come from", CORPUS, "Source", None),
    ("corpus.toml", "[tokenizer]", CORPUS, "TokenizerSettings", None),
    ("corpus.toml", "[split]", CORPUS, "CorpusSettings", {"heldout_fraction": "", "heldout_tokens_max": ""}),
    ("corpus.toml", "[duplicates]", CORPUS, "CorpusSettings", {"near_duplicates": "", "near_duplicate_threshold": ""}),
    ("corpus.toml", "[chat]", CORPUS, "CorpusSettings", {"chat_template": "template"}),
    ("sweep.toml", "at the top", SWEEP, "SweepSpec", {
        "name": "", "corpus": "", "domain": "", "bases": "base", "base_tokens": "", "trunks": "", "max_flops_per_run": "", "max_epochs": "",
        "eval_tokens": "",
    }),
    ("sweep.toml", "one grid at the top, or each in a [[grid]], which takes from the top what it does not state", "planner/design/cells.py", "Grid", None),
    ("sweep.toml", "[[cell]], one run each, beside the grids or instead of them", "planner/design/cells.py", "Cell", None),
    ("sweep.toml", "[recipe], the same in every run", "planner/recipe.py", "Recipe", None),
)  # fmt: skip
STATED = {"name": "its folder's", "seed": "`0`"}
"""Defaults of a file that are none in the code."""
SETTINGS_HEAD = """# All settings

What `corpus.toml` (`plan corpus build`) and `sweep.toml` (`plan sweep`) may state; anything else is refused by name. Counts in
`sweep.toml`, but for its `[recipe]`, may be written as numbers or as text with a unit, such as `20000` or `"20k"`; paths are relative to
the file. `sweeps/medicine/` has one of each.
Made by `python docs/make_pages.py` from the code.
"""
KINDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "folder"}


class Field(NamedTuple):
    """A field of a dataclass, in the code's own words."""

    name: str
    kind: str
    default: str | None
    meaning: str


def answers() -> str:
    """Return the page of the answers."""
    parts = [ANSWERS_HEAD]
    for title, path, names in ANSWERS:
        parts.append(f"\n## {title}\n")
        for name in names:
            node = class_in(path, name)
            parts.append(f"\n**{name}.** {(ast.get_docstring(node) or '').splitlines()[0]}\n\n| field | type | meaning |\n|---|---|---|\n")
            parts += [f"| `{field.name}` | {cell(field.kind)} | {cell(field.meaning)} |\n" for field in fields(node)]
    return "".join(parts)


def settings() -> str:
    """Return the page of the settings."""
    parts, at = [SETTINGS_HEAD], ""
    for file, title, path, name, chosen in SETTINGS:
        if file != at:
            parts.append(f"\n## {file}\n")
            at = file
        parts.append(f"\n**{title}**\n\n| setting | kind | default | meaning |\n|---|---|---|---|\n")
        found = {field.name: field for field in fields(class_in(path, name))}
        for key, other in (chosen or dict.fromkeys(found, "")).items():
            field = found[key]
            parts.append(f"| `{other or key}` | {in_toml(field.kind)} | {default_of(field)} | {cell(field.meaning)} |\n")
    return "".join(parts)


def class_in(path: str, name: str) -> ast.ClassDef:
    """Return a class of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def fields(node: ast.ClassDef) -> list[Field]:
    """List a dataclass's fields."""
    found = []
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = None if item.value is None else ast.unparse(item.value)
            found.append(Field(item.target.id, ast.unparse(item.annotation), default, " ".join(str(said).split())))
    return found


def in_toml(kind: str) -> str:
    """Say a type as somebody who writes a file would."""
    plain = kind.removesuffix(" | None")
    if plain.startswith("tuple["):
        return "list of " + {"str": "texts", "Path": "folders"}.get(plain[6:].split(",")[0], "numbers")
    return "table" if plain.startswith("Mapping") else KINDS[plain]


def default_of(field: Field) -> str:
    """Say a default as it would be written in the file; nothing where the setting is needed."""
    if field.default is None:
        return STATED.get(field.name, "" if field.kind.endswith("None") else "needed")
    if field.default in ("None", "()", "field(default_factory=dict)"):
        return ""
    if field.default == "math.inf":
        return "no limit"
    if field.default == "TARGETS":
        return "all of a layer"
    return re.sub(r"\.0\b", "", f"`{json.dumps(ast.literal_eval(field.default))}`")


def cell(text: str) -> str:
    """Keep a text inside its cell of a table."""
    return text.replace("|", "or")


if __name__ == "__main__":
    for name, text in (("answers", answers()), ("settings", settings())):
        (ROOT / "docs" / f"{name}.md").write_text(text, encoding="utf-8")
