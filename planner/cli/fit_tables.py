"""A fitted law as tables for people."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.cli.console import say
from planner.cli.tables import table
from planner.errors import PlannerWarning
from planner.fit.diagnosis import STATUS_ADVICE
from planner.fit.holdout import sizes_held
from planner.flags import FLAGS
from planner.units import format_count, format_names

if TYPE_CHECKING:
    from planner.fit.data import FitData
    from planner.fit.fitted import FittedLaw
    from planner.fit.member import Member

NAMED = 5
"""Most runs named per flag; the law's file lists all."""


def show(law: FittedLaw, name: str = "") -> None:
    """Print a fitted law as tables, below the name of its runs where there are several."""
    of = f"{name}: " if name else ""
    for member in law.members:
        rows: list[list[Any]] = []
        for number, (parameter, value) in enumerate(zip(member.law.parameters, member.theta, strict=True)):
            low, high = member.interval(number)
            kinds = (("not measured", member.unmeasured), ("at its bound", member.at_bound), ("on a ridge", member.ridge))
            notes = [note for note, names in kinds if parameter.name in names]
            rows.append([parameter.name, f"{value:.4g}", f"{low:.3g} to {high:.3g}", parameter.unit, ", ".join(notes)])
        caption = (
            f"{member.law.formula}\n{member.status}: {STATUS_ADVICE[member.status]}; "
            f"{member.starts_agree} of {member.starts} starts agree; condition number {member.condition:.1e}; "
            f"N: {member.params_kind} parameters, {_units(member)}"
        )
        with_others = f", 1 of {len(law.members)} that forecast together" if len(law.members) > 1 else ""
        table(f"{of}Law {member.law.name}{with_others}", ["parameter", "value", "90 % interval", "unit", ""], rows, caption=caption)
    names = list(dict.fromkeys(name for score in law.scores for name in score["held"]))
    shown = [score for score in law.scores if score["held"] or score["chosen"]]
    rows = [
        [("* " if score["chosen"] else "  ") + score["law"], score["params_kind"], score["parameters"], f"{score['rms_percent']:.2f}",
         f"{score['mean']:.2f}" if score["held"] else "", score["status"],
         *(f"{score['held'][name]:.2f}" if name in score["held"] else "" for name in names)]
        for score in shown
    ]  # fmt: skip
    caption = "slices, mean: mean absolute error when a slice is held out [% of the loss]; fit: RMS residual of all runs but likely errors [%]; * chosen"
    if untried := [score for score in law.scores if score not in shown]:
        caption += f"\nnot tried on the slices: {_untried(untried)}"
    table(f"{of}Laws by held-out error", ["law", "N", "parameters", "fit", "mean", "status", *names], rows, caption=caption)
    if law.holdout:
        found, sizes = law.holdout, sizes_held(law.holdout)
        if len(sizes) == 1:
            which, them = f"largest size ({format_count(sizes[0])}, {found['factor']:.2g}× the next)", "it"
        else:
            ends = " to ".join(map(format_count, sizes))
            which, them = f"the largest sizes ({ends}, up to {found['factor_most']:.2g}× the largest fitted)", "them"
        say(
            f"{which}, chosen and fitted without {them}: {found['mean_absolute_percent']:.2f} % mean absolute error on {found['rows']} runs, "
            f"bias {found['bias_percent']:+.2f} %, worst {found['worst_percent']:.1f} %"
        )
    replicate = law.source.get("replicate_sd")
    say(
        f"rows {law.source['rows']}; noise of a run {100 * law.noise:.2f} %" + (f" (between seeds {100 * replicate:.2f} %)" if replicate else "")
        + f"; outside the runs the interval widens by {100 * law.drift:.2f} % for each factor of e"
    )  # fmt: skip
    if law.unexplained:
        warnings.warn(law.unexplained, PlannerWarning, stacklevel=2)
    guessed = "; runs without a trunk_id are taken to share a trunk if size, tokens_pt and seed agree" if law.source.get("guessed_trunks") else ""
    say("weights of the resamples: " + law.source["resampling"] + ", by trunk and seed" + guessed)
    if (early := law.early) is not None:
        low, high = early.interval
        after = "" if early.stages_off_percent is None else f"; those with a specialist stage after it, not fitted, {early.stages_off_percent:.2g} %"
        say(
            f"specialist text mixed in from the start, {early.low:.0%} to {early.high:.0%}: a token of it is worth {early.worth:.3g} "
            f"({low:.3g} to {high:.3g}) tokens of a specialist stage; {early.rows} runs then scatter {early.off_percent:.2g} % around the law{after}"
        )
    if farthest := law.source.get("farthest"):
        say("runs farthest from the law: " + ", ".join(f"{run['run_id']} {run['off_percent']:+.1f} %" for run in farthest))
    for flag, named in law.source.get("flagged", {}).items():
        kept = flag in law.source.get("kept_flags", [])
        runs = f"{len(named)} run{'s' if len(named) > 1 else ''} flagged {flag} ({FLAGS.get(flag, 'named in the table')}): {format_names(named, NAMED)}"
        more = ", listed in the law's file" if len(named) > NAMED else ""
        say(f"{'in the fit all the same' if kept else 'kept out of the fit'}: {runs}{more}")
    least, most = law.support.low, law.support.high
    axes = [f"{name} {format_count(least[name])} to {format_count(most[name])}" for name in least if most[name] and not name.startswith("flops")]
    say(f"support: {'; '.join(axes)}; flops {least['flops']:.3g} to {most['flops']:.3g}")


def show_profiles(law: FittedLaw, data: FitData) -> None:
    """Print profile-likelihood intervals beside those of the resamples."""
    from planner.fit.profile import profile

    for member in law.members:
        rows = []
        points = data.under(member.params_kind).points(member.reference)
        for number, found in enumerate(profile(member.law, points, data.log_loss, member.theta)):
            ends = ["open" if is_open else f"{value:.3g}" for value, is_open in ((found.low, found.open_low), (found.high, found.open_high))]
            low, high = member.interval(number)
            rows.append([found.name, f"{member.theta[number]:.4g}", " to ".join(ends), f"{low:.3g} to {high:.3g}"])
        caption = "the profile takes rows as independent; the resamples keep those of a trunk together. open: no end inside the bounds"
        title = f"Profiles of {member.law.name} (N: {member.params_kind} parameters)"
        table(title, ["parameter", "value", "90 % by profile", "90 % by resamples"], rows, caption=caption)


def _untried(scores: Sequence[Mapping[str, Any]]) -> str:
    """List the residual of each law, the least first, under each convention of N."""
    kinds = list(dict.fromkeys(score["params_kind"] for score in scores))
    left: dict[str, dict[str, str]] = {}
    for score in sorted(scores, key=lambda score: float(score["rms_percent"])):
        left.setdefault(score["law"], {})[score["params_kind"]] = f"{score['rms_percent']:.2f}"
    each = ", ".join(f"{name} {'/'.join(values.get(kind, '–') for kind in kinds)}" for name, values in left.items())
    return f"{each} (RMS residual from a few starts [%], N {'/'.join(kinds)})"


def _units(member: Member) -> str:
    """Write the reference values, and for plain power terms the amplitudes without them."""
    base = {"N": member.reference.params, "D": member.reference.tokens}
    units = {f"{name}0": count for name, count in base.items()}
    if member.law.knows_special:
        units["S0"] = member.reference.special or member.reference.tokens
    value = dict(zip((parameter.name for parameter in member.law.parameters), member.theta, strict=True))
    found = [f"{name} = {value[name] * base[axis] ** value[power]:.4g}" for name, (axis, power) in member.law.plain.items()]
    raw = f"; without N0 and D0: {', '.join(found)}" if found else ""
    return ", ".join(f"{name} = {format_count(count)}" for name, count in units.items()) + raw
