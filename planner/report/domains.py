"""How a budget divides among many specialist domains, and what each structure and each domain may expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from planner.allocate.domains.answer import DomainsAllocation, Structure
from planner.report.plans import standing
from planner.report.style import COLOURS, GREY, NAMES, Row, intervals, legend_below, titled
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DOMAINS = 16
"""Domains that are drawn, those with the most specialist compute; the rest are one bar."""


def domains(axes: Sequence[Axes], answer: DomainsAllocation) -> None:
    """Draw the structures' weighted losses, where the budget of the recommended one goes, and the losses of its domains.

    Args:
        axes: three.
        answer: the answer.
    """
    best = answer.recommended
    order = sorted(best.domains, key=lambda plan: -plan.flops)
    _structures(axes[0], answer)
    _budget(axes[1], answer, [(plan.name, plan.share_flops) for plan in order])
    shown = order[:MOST_DOMAINS]
    intervals(axes[2], [(plan.name, plan.loss, plan.loss_low, plan.loss_high, COLOURS[0]) for plan in shown])
    required = [(number, plan.max_loss) for number, plan in enumerate(shown) if plan.max_loss is not None]
    if required:
        axes[2].plot([loss for _, loss in required], [number for number, _ in required], "|", color=COLOURS[3], markersize=14, label="required")
        legend_below(axes[2])
    rest = len(order) - len(shown)
    more = f"; {rest} more not shown" if rest else ""
    axes[2].set_xlabel("specialist loss [nats/token], 90 % interval")
    farthest = max(order, key=lambda plan: max(plan.extrapolation.values()))
    said = [f"{farthest.name}, the farthest: {line}" for line in standing(farthest.extrapolation, farthest.general)]
    titled(axes[2], f"Domains by {best.name}{more}", said)


def _structures(axis: Axes, answer: DomainsAllocation) -> None:
    """Draw the weighted losses; a bound that is no forecast is a mark without an interval."""
    rows: list[Row] = []
    bounds: list[tuple[int, float]] = []
    for structure in (*answer.structures, *answer.arms):
        if structure.loss is None or structure.loss_low is None or structure.loss_high is None:
            continue
        itself = structure.name == answer.best
        label = structure.name.replace(" for every domain", "\nfor every domain") + ("\n(recommended)" if itself else "")
        if structure.worse_percent is None:
            label += "\n(breaks a limit)"
        if structure.probability is None and structure.worse_percent is not None and not itself:
            bounds.append((len(rows), structure.loss))
            rows.append((label, None, None, None, GREY))
        else:
            rows.append((label, structure.loss, structure.loss_low, structure.loss_high, COLOURS[1] if itself else COLOURS[0]))
    intervals(axis, rows)
    if bounds:
        axis.plot([loss for _, loss in bounds], [number for number, _ in bounds], ">", color=GREY, label="lower bound, no forecast")
        legend_below(axis)
    axis.set(xlabel="weighted loss [nats/token], 90 % interval", title=f"{answer.request['flops']:.3g} FLOPs, {answer.request['domains']} domains")


def _budget(axis: Axes, answer: DomainsAllocation, parts: Sequence[tuple[str, float]]) -> None:
    """Draw where the FLOPs of the recommended structure go."""
    best = answer.recommended
    bars: list[tuple[str, float, Any]] = []
    if best.share_general is not None:
        bars.append(("general text" if best.assumption else "trunk", best.share_general, GREY))
    bars += [(name, share, COLOURS[0]) for name, share in parts[:MOST_DOMAINS]]
    if len(parts) > MOST_DOMAINS:
        bars.append((f"{len(parts) - MOST_DOMAINS} other domains", sum(share for _, share in parts[MOST_DOMAINS:]), COLOURS[4]))
    axis.barh(range(len(bars)), [100 * share for _, share, _ in bars], color=[colour for *_, colour in bars], height=0.6)
    axis.set_yticks(range(len(bars)), [name for name, *_ in bars], **NAMES)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(xlabel="share of the training FLOPs [%]", title=_size(best))


def _size(structure: Structure) -> str:
    sizes = [plan.params_non_embedding for plan in structure.domains]
    span = format_count(sizes[0]) if min(sizes) == max(sizes) else f"{format_count(min(sizes))} to {format_count(max(sizes))}"
    return f"Where the budget goes: {structure.name}, {span} parameters"
