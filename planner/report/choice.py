"""How a law was chosen and how well the runs determine it: held-out errors, starts that agree, profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.fit.fitted import FittedLaw
from planner.fit.holdout import not_shown
from planner.fit.member import Member
from planner.fit.profile import Profile
from planner.report.style import COLOURS, GREY, LEGEND, in_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAWS = 12
HIGHEST = 4.0
"""Multiples of the 90 % threshold up to which a profile is drawn."""


def law_scores(axis: Axes, scores: Sequence[Mapping[str, Any]]) -> None:
    """Draw the held-out errors of laws by slice as a shaded table, the best first; chosen ones in bold with a star.

    Args:
        axis: where.
        scores: `FittedLaw.scores`.
    """
    from matplotlib.colors import LogNorm

    tried = [score for score in scores if score["held"]][:MOST_LAWS]
    names = list(dict.fromkeys(name for score in tried for name in score["held"]))
    columns = [*names, "mean", "fit"]
    errors = np.array([[*(score["held"].get(name, np.nan) for name in names), score["mean"], score["rms_percent"]] for score in tried])
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    if not tried:
        in_place(axis, "no slice could be held out")
        axis.set_xticks([])
        axis.set_yticks([])
        return
    norm = LogNorm(np.nanmin(errors), np.nanmax(errors) * 1.0001)
    axis.imshow(errors, cmap="Blues", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(errors):
        if np.isfinite(value):
            weight = "bold" if tried[row]["chosen"] else "normal"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, weight=weight, color="white" if norm(value) > 0.6 else "black")
    # The slices stand apart from what summarises them.
    for edge in (len(names) - 0.5, len(names) + 0.5):
        axis.axvline(edge, color="white", linewidth=4)
    axis.set_xticks(range(len(columns)), [name.replace(" ", "\n").replace("_", "\n") for name in columns], fontsize=8)
    axis.set_yticks(range(len(tried)), [_name(score) for score in tried], fontsize=8)
    for label, score in zip(axis.get_yticklabels(), tried, strict=True):
        label.set_fontweight("bold" if score["chosen"] else "normal")
    axis.tick_params(length=0)
    rest = not_shown([score for score in scores if score not in tried])
    axis.set_xlabel("held-out slice; mean over the slices; residual of the fit to all runs")
    axis.set_ylabel("law (what N counts, number of parameters)")
    axis.set_title("Mean absolute held-out error [% of the loss]; * chosen" + (f"; not shown: {rest}" if rest else ""), fontsize=11)


def start_agreement(axis: Axes, law: FittedLaw) -> None:
    """Draw for each member how many of its starts reached the solution that was kept."""
    names = [f"{member.law.name}\nN: {member.params_kind.replace('_', '-')}\n{member.status.replace('_', ' ')}" for member in law.members]
    places = range(len(names))
    axis.barh(places, [member.starts for member in law.members], 0.4, facecolor="none", edgecolor=GREY, label="starts")
    axis.barh(places, [member.starts_agree for member in law.members], 0.4, color=COLOURS[0], label="reached the best solution")
    for place, member in zip(places, law.members, strict=True):
        axis.annotate(f"{member.starts_agree} of {member.starts}", (member.starts, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.locator_params(axis="x", integer=True)
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.18 * max(member.starts for member in law.members))
    axis.set(xlabel="starts of the fit", title="Do the starts agree?")
    axis.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def profiles(axes: Sequence[Axes], member: Member, found: Sequence[Profile]) -> None:
    """Draw profiles of a member's parameters, each on an axis of its own: the excess of the objective with the parameter held, the others refitted.

    The bar is the 90 % interval over resamples; the profile's own 90 % interval ends where it crosses 1, the dashed line.
    """
    number = {parameter.name: place for place, parameter in enumerate(member.law.parameters)}
    for axis, one in zip(axes, found, strict=True):
        place = number[one.name]
        _profile(axis, one, float(member.theta[place]), member.interval(place))
        unit = member.law.parameters[place].unit
        axis.set_title(f"{one.name} [{unit}]", fontsize=10)
    figure = axes[0].figure
    assert figure is not None
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _profile(axis: Axes, one: Profile, best: float, interval: tuple[float, float]) -> None:
    axis.plot(one.value, one.excess, ".-", color=COLOURS[0], linewidth=1.3, markersize=4, label="excess of the objective / 90 % threshold")
    axis.axhline(1, color=COLOURS[3], linewidth=1, linestyle="--", label="90 %")
    axis.plot(interval, [0.4, 0.4], "|-", color=COLOURS[2], linewidth=5, markersize=11, solid_capstyle="butt", label="90 % of the resamples")
    axis.plot([best], [0], "o", color="black", markersize=5, clip_on=False, zorder=5, label="fitted")
    inside = [value for value, is_open in ((one.low, one.open_low), (one.high, one.open_high)) if not is_open]
    ends = [best, *interval, *inside]
    margin = 0.12 * (max(ends) - min(ends)) or 1.0
    axis.set(xlim=(min(ends) - margin, max(ends) + margin), ylim=(0, HIGHEST))
    axis.locator_params(axis="x", nbins=4)
    axis.tick_params(labelsize=8)


def _name(score: Mapping[str, Any]) -> str:
    kind = {"non_embedding": "non-emb."}.get(score["params_kind"], score["params_kind"])
    return f"{'* ' if score['chosen'] else ''}{score['law']} ({kind}, {score['parameters']})"
