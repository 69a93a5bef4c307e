"""A design of runs as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cli.tables import table
from planner.units import format_count

if TYPE_CHECKING:
    from planner.next_runs.design import NextRuns
    from planner.next_runs.outside import Outside

LEAST_REGRET = 0.001
"""Least regret that is written out [% of the loss]."""


def show(answer: NextRuns, target: float, unique: float, general: bool = True, special: bool = True, outside: Outside | None = None) -> None:
    """Print a design as tables.

    Args:
        answer: the design.
        target: FLOPs of the recommendation.
        unique: distinct specialist tokens at the target.
        general: whether runs have a general stage.
        special: whether they have a specialist stage.
        outside: how much it relies on the form of its law outside the runs, where there is a law.
    """
    rows = []
    for size, cost in answer.flops_by_size.items():
        cells = [cell for cell in answer.cells if cell.size == size]
        epochs = [cell.tokens_spec / cell.unique_spec for cell in cells if cell.unique_spec]
        distinct = len({cell.unique_spec for cell in cells if cell.unique_spec})
        row = {"size": format_count(size), "endpoints": len(cells)}
        if general and special:
            row |= {"zero-shot": sum(cell.tokens_spec == 0 for cell in cells), "from scratch": sum(cell.tokens_pt == 0 for cell in cells)}
        row |= {"most general": format_count(max(cell.tokens_pt for cell in cells))} if general else {}
        if special:
            row |= {"most specialist": format_count(max(cell.tokens_spec for cell in cells)), "distinct texts": distinct}
            row |= {"most epochs": f"{max(epochs, default=0):.3g}"}
        rows.append(row | {"FLOPs": f"{cost:.2e}"})
    ratio = answer.flops_alone / answer.design.flops
    caption = f"{answer.design.flops:.4g} FLOPs as a tree; {answer.flops_alone:.3g} if every cell were trained from scratch ({ratio:.1f} times as many)"
    table(f"Design: {len(answer.cells)} endpoints", list(rows[0]), [list(row.values()) for row in rows], caption=caption)
    plan = answer.recommended
    worths = [item for item in (answer.before, answer.design, answer.naive) if item is not None]
    lines = [[item.name, item.cells, f"{item.flops:.3g}", f"{item.deviation_percent:.3g} %", _regret(item.regret_percent)] for item in worths]
    stages = [("tokens_pt", "general")] * general + [("tokens_spec", "specialist")] * special
    parts = [f"{format_count(plan[key])} {name}" for key, name in stages]
    caption = (
        f"recommended so far, by a coarse search: {format_count(plan['params_non_embedding'])} parameters, {' + '.join(parts)} tokens; "
        "deviation: standard deviation of its forecast loss; regret: of the plan chosen after the runs"
    )
    if outside is not None:
        caption += f"; both count uncertainty of the law's parameters only, not drift of its form; with drift, the forecast there is {outside.forecast}"
    title = f"Recommendation at {target:.3g} FLOPs" + (f" with {format_count(unique)} distinct specialist tokens" if special else "")
    table(title, ["runs", "endpoints", "FLOPs", "expected deviation", "expected regret"], lines, caption=caption)


def _regret(percent: float) -> str:
    """Write a regret; below the sampling noise of its draws only as an upper bound."""
    return f"{percent:.3g} %" if percent >= LEAST_REGRET else f"under {LEAST_REGRET:g} %"
