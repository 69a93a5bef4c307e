"""Which open checkpoint to specialise, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from planner.allocate.base_answer import BaseAllocation
from planner.allocate.extrapolation import TOO_FAR
from planner.report.plans import standing
from planner.report.style import COLOURS, GREY, NAMES, Row, intervals, legend_below, log_counts, titled
from planner.units import format_count, format_epochs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bases(axes: Sequence[Axes], answer: BaseAllocation) -> None:
    """Draw each base's loss before and after its stage beside a model of one's own, and how many specialist tokens are about as good.

    Args:
        axes: two.
        answer: the answer.
    """
    rows = [(f"{choice.base}\n{format_count(choice.plan.params_non_embedding)}", choice) for choice in answer.choices]
    before: list[Row] = [(label, choice.loss_before, choice.before_low, choice.before_high, COLOURS[2]) for label, choice in rows]
    after: list[Row] = [(label, choice.plan.loss, choice.plan.loss_low, choice.plan.loss_high, COLOURS[0]) for label, choice in rows]
    if (own := answer.scratch.plan) is not None:
        label = f"a model of one's own\n{format_count(own.params_non_embedding)}"
        before.append((label, None, None, None, COLOURS[2]))
        after.append((label, own.loss, own.loss_low, own.loss_high, COLOURS[0]))
    intervals(axes[0], before, label="as it is", lower=-0.12)
    intervals(axes[0], after, label="specialised, or trained with the same budget", lower=0.12)
    legend_below(axes[0])
    best = answer.choices[0]
    far = best.extrapolation["flops"] > TOO_FAR
    title = f"{answer.request['flops']:.3g} FLOPs, {answer.request['method']['name']}"
    axes[0].set_xlabel("specialist loss [nats/token], 90 % interval")
    said = [f"{best.base}: {line}" for line in standing(best.extrapolation, best.general)]
    titled(axes[0], f"ILLUSTRATION, NOT MEASURED: {title}" if far else title, said)
    for number, (_, choice) in enumerate(rows):
        plan, first = choice.plan, number == 0
        if choice.tokens_within is not None:
            low, high = (max(tokens, 1.0) for tokens in choice.tokens_within)
            alike = "about as good" if first else None
            axes[1].plot([low, high], [number, number], color=GREY, linewidth=5, alpha=0.4, solid_capstyle="butt", label=alike)
        if plan.tokens_spec > 0:
            axes[1].plot([plan.tokens_spec], [number], "o", color=COLOURS[0], label="best of this base" if first else None)
            place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes[1].annotate(format_epochs(plan.epochs_spec), (plan.tokens_spec, number), (0, 7), **place)
    axes[1].set_yticks(range(len(rows)), [label for label, _ in rows], **NAMES)
    axes[1].set_ylim(len(rows) - 0.4, -0.6)
    axes[1].set_xscale("log")
    axes[1].margins(x=0.12)
    log_counts(axes[1])
    legend_below(axes[1])
    within = f"{100 * answer.request['tolerance']:.3g} % of the best loss"
    axes[1].set_xlabel("specialist tokens, repeats included")
    axes[1].set_title(f"How far to specialise: within {within}", fontsize=11)
