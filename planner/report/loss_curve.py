"""A run while it trains: what was measured on the way beside what the law forecasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.launch.watch import Progress
from planner.report.style import COLOURS, GREY, legend_below
from planner.units import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_curve(axis: Axes, progress: Progress) -> None:
    """Draw held-out losses so far beside the forecast for cooling down there, and the endpoint's interval; the cooldown is shaded.

    Args:
        axis: where.
        progress: the run.
    """
    per_step = progress.tokens_per_step
    if progress.course is not None:
        points, end = progress.course.points, progress.course.points[-1]
        if len(points) > 1:
            tokens = [point.tokens for point in points]
            axis.fill_between(tokens, [point.low for point in points], [point.high for point in points], color=COLOURS[0], alpha=0.12, linewidth=0)
            axis.plot(tokens, [point.loss for point in points], "--", color=COLOURS[0], label="forecast, if cooled down there")
        error = [[end.loss - end.low], [end.high - end.loss]]
        axis.errorbar([end.tokens], [end.loss], error, fmt="o", color=COLOURS[0], capsize=4, label="forecast of this run, 90 % interval")
    axis.axvspan(progress.cooldown_from * per_step, progress.steps * per_step, color=GREY, alpha=0.1, linewidth=0, label="cooldown")
    measured = progress.of("evaluation")
    if measured:
        axis.plot([line["tokens"] for line in measured], [line["loss_spec"] for line in measured], "o-", color=COLOURS[2], markersize=4, label="measured")
    if progress.outcome is not None and progress.outcome["status"] == "ok":
        axis.plot([progress.steps * per_step], [progress.outcome["loss_spec"]], "D", color=COLOURS[1], label="outcome")
    for line in progress.of("event"):
        if line["what"] == "rollback":
            axis.axvline(line["step"] * per_step, color=COLOURS[3], linewidth=0.8)
    first, last = progress.begins_at * per_step, progress.steps * per_step
    axis.set_xlim(first, last + 0.03 * (last - first))
    axis.xaxis.set_major_formatter(lambda value, _: format_count(value))
    axis.set(xlabel="tokens", ylabel="held-out specialist loss [nats/token]")
    axis.set_title(progress.name, parse_math=False)
    legend_below(axis)
