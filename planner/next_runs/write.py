"""A design as the `sweep.toml` that `plan sweep plan` and `plan sweep run` take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from planner.design.cells import Cell
from planner.recipe import Recipe


def sweep_toml(
    cells: Sequence[Cell], recipe: Recipe, *, name: str, corpus: str, domain: str | None, unique_available: float, eval_tokens: int,
    notes: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write cells as TOML, one per line.

    Args:
        cells: the endpoints.
        recipe: of the runs.
        name: of the sweep.
        corpus: its folder, relative to that of the file.
        domain: specialist domain, None if the corpus has only one.
        unique_available: distinct specialist tokens of the corpus; a cap that reaches them is written "all".
        eval_tokens: held-out tokens per domain evaluated at each endpoint.
        notes: lines of comment at its top.
    """
    lines = [f"# {note}" for note in notes]
    lines += ["", f"name = {_text(name)}", f"corpus = {_text(corpus)}"]
    if domain is not None:
        lines.append(f"domain = {_text(domain)}")
    lines += [f"eval_tokens = {eval_tokens}", "", "cell = ["]
    for cell in sorted(cells, key=lambda cell: (cell.size, cell.seed, cell.tokens_pt, cell.unique_spec or 0, cell.tokens_spec)):
        items: dict[str, Any] = {"size": cell.size, "tokens_pt": cell.tokens_pt, "tokens_spec": cell.tokens_spec}
        if cell.unique_spec is not None:
            items["unique_spec"] = "all" if cell.unique_spec >= unique_available else cell.unique_spec
        if cell.seed:
            items["seed"] = cell.seed
        if cell.replay_fraction:
            items["replay_fraction"] = cell.replay_fraction
        lines.append("  {" + ", ".join(f"{key} = {_value(value)}" for key, value in items.items()) + "},")
    lines += ["]", "", "[recipe]", *(f"{key} = {_value(value)}" for key, value in recipe.to_dict().items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _text(value: str) -> str:
    # TOML's basic strings take JSON's escapes.
    return json.dumps(value)
