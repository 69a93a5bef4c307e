"""How a law was chosen and how well the runs pin it down: held-out errors, starts that agree, profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.fit.fitted import FittedLaw
from planner.fit.profile import Profile
from planner.report.style import COLOURS, GREY, LEGEND

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAWS = 12
HIGHEST = 5.0
"""Multiples of the 90 % threshold up to which a profile is drawn."""


def law_scores(axis: Axes, scores: Sequence[Mapping[str, Any]]) -> None:
    """Draw the held-out errors of laws by slice as a table with shades, the best first; chosen ones in bold with a star.

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
        axis.text(0.5, 0.5, "no slice could be held out", ha="center", va="center", transform=axis.transAxes, color=GREY)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    norm = LogNorm(np.nanmin(errors), np.nanmax(errors) * 1.0001)
    axis.imshow(errors, cmap="cividis_r", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(errors):
        if np.isfinite(value):
            weight = "bold" if tried[row]["chosen"] else "normal"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, weight=weight, color="white" if norm(value) > 0.55 else "black")
    # The slices stand apart from what summarises them.
    for edge in (len(names) - 0.5, len(names) + 0.5):
        axis.axvline(edge, color="white", linewidth=4)
    axis.set_xticks(range(len(columns)), [name.replace(" ", "\n").replace("_", " ") for name in columns], fontsize=8)
    axis.set_yticks(range(len(tried)), [_name(score) for score in tried], fontsize=8)
    for label, score in zip(axis.get_yticklabels(), tried, strict=True):
        label.set_fontweight("bold" if score["chosen"] else "normal")
    axis.tick_params(length=0)
    rest = len(scores) - len(tried)
    axis.set_xlabel("slice that was left out and forecast, their mean, and the residual deviation of the fit")
    axis.set_title("Mean absolute held-out error [% of the loss]; * chosen" + (f"; {rest} worse laws left out" if rest else ""), fontsize=11)


def start_agreement(axis: Axes, law: FittedLaw) -> None:
    """Draw for each member how many of its starts came to the solution that was kept."""
    names = [f"{member.law.name}\nN: {member.params_kind.replace('_', '-')}\n{member.status.replace('_', ' ')}" for member in law.members]
    places = range(len(names))
    axis.barh(places, [member.starts for member in law.members], 0.55, facecolor="none", edgecolor=GREY, label="starts")
    axis.barh(places, [member.starts_agree for member in law.members], 0.55, color=COLOURS[0], label="came to the best solution")
    for place, member in zip(places, law.members, strict=True):
        axis.annotate(f"{member.starts_agree} of {member.starts}", (member.starts, place), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.18 * max(member.starts for member in law.members))
    axis.set(xlabel="starts of the search for the least objective", title="Do the starts agree?")
    axis.legend(**LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def profile_curve(axis: Axes, found: Profile, best: float, interval: tuple[float, float]) -> None:
    """Draw one parameter's profile: the excess of the objective with it held, the others fitted again.

    Args:
        axis: where.
        found: the profile.
        best: the fitted value.
        interval: its 90 % interval over resamples, drawn as a bar.
    """
    shown = found.excess <= HIGHEST
    # One value beyond on either side, so that the curve leaves the panel.
    shown = shown | np.append(shown[1:], False) | np.append(False, shown[:-1])
    axis.plot(found.value[shown], found.excess[shown], "-", color=COLOURS[0], linewidth=1.4, label="profile")
    axis.axhline(1, color=COLOURS[3], linewidth=1, linestyle="--", label="90 %")
    axis.plot(interval, [0.35, 0.35], color=COLOURS[2], linewidth=5, solid_capstyle="butt", alpha=0.8, label="90 % of the resamples")
    axis.plot([best], [0], "o", color="black", markersize=4, clip_on=False, zorder=5, label="fitted")
    inside = [value for value, is_open in ((found.low, found.open_low), (found.high, found.open_high)) if not is_open]
    ends = [best, *interval, *inside, *found.value[found.excess <= 2]]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    axis.set(xlim=(min(ends) - margin, max(ends) + margin), ylim=(0, HIGHEST), title=found.name)
    axis.locator_params(axis="x", nbins=4)


def _name(score: Mapping[str, Any]) -> str:
    kind = {"non_embedding": "non-emb."}.get(score["params_kind"], score["params_kind"])
    return f"{'* ' if score['chosen'] else ''}{score['law']} ({kind}, {score['parameters']})"
