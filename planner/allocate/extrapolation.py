"""How far a plan lies outside the runs of its law, when it is refused for that, and warnings about the law itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.problem import Problem
from planner.allocate.retention import Retention
from planner.errors import DataError
from planner.fit.diagnosis import STATUS_ADVICE
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.support import NEAR, RAY, TOTAL
from planner.laws import LAWS
from planner.units import format_count, format_number

if TYPE_CHECKING:
    from planner.allocate.domains.answer import DomainPlan

FAR = 10.0
"""Factor beyond the support above which the warning is in capitals."""
TOO_FAR = 1000.0
"""Factor beyond the support above which there is no answer without --allow-extrapolation."""
ADVISED = 100.0
"""Most that the budget may exceed the largest run of the sweep that is advised, as a factor in FLOPs."""
RIVAL = 2.0
"""A law that was not chosen is named if its held-out error is below this multiple of the best chosen law's."""
AXIS_NAMES = {
    "params": "model size", "tokens_pt": "general tokens", "tokens_spec": "specialist tokens", "unique_spec": "distinct specialist tokens",
    "epochs_spec": "epochs", "tokens_per_param": "tokens per parameter", "flops": "compute",
    RAY: "general tokens per parameter", TOTAL: "tokens of both stages",
}  # fmt: skip


def extrapolation_of(law: FittedLaw, plan: Plan | DomainPlan, flops: float | None = None) -> dict[str, float]:
    """Return by what factor a plan lies outside the runs on each axis; 1 is inside. `flops` replaces the plan's own FLOPs."""
    flops = plan.flops if flops is None else flops
    factors = law.support.factors(plan.params_non_embedding, plan.tokens_pt, plan.tokens_spec, plan.unique_spec, flops)
    return {name: float(value) for name, value in factors.items() if name != "flops_6nd"}


def outside(extrapolation: Mapping[str, float]) -> str:
    """Name the axes on which a plan lies outside the runs, with the factors; empty if it lies inside."""
    found = {name: factor for name, factor in extrapolation.items() if factor > NEAR}
    return ", ".join(f"{AXIS_NAMES[name]} {format_number(factor)}×" if factor < np.inf else _never(name) for name, factor in found.items())


def _never(axis: str) -> str:
    """Say what an infinite factor on an axis means: the plan lacks what every run has, or has what no run has."""
    # Runs of a two-stage law include both kinds of tokens, and a single-stage law plans only the kind that its runs have.
    none = axis in ("tokens_pt", "tokens_spec")
    return f"no {AXIS_NAMES[axis]}, which every run has" if none else f"{AXIS_NAMES[axis]}, which no run has"


def refuse_far(
    law: FittedLaw, flops: float, extrapolation: Mapping[str, float], who: str = "the best plan", sized: bool = False, called: str = "the law",
) -> None:  # fmt: skip
    """Refuse a plan that lies more than TOO_FAR beyond the runs on some axis.

    Args:
        law: the law whose runs count.
        flops: of the plan.
        extrapolation: factor by axis.
        who: the plan in words.
        sized: whether its size is that of a checkpoint.
        called: the law in words.

    Raises:
        DataError: it lies too far.
    """
    far = {name: factor for name, factor in extrapolation.items() if np.isfinite(factor) and factor > TOO_FAR}
    if not far:
        return
    said = ", ".join(f"{AXIS_NAMES[name]} {format_number(factor)}×" for name, factor in sorted(far.items(), key=lambda item: -item[1]))
    if "flops" in far:
        remedy = f"train a sweep with runs of up to about {advised(law, flops):.1g} FLOPs (plan sweep design chooses them)"
        if "unique_spec" in far:
            enough = law.support.high["unique_spec"] * far["unique_spec"] / TOO_FAR
            remedy += f", on a corpus of {format_count(enough)} distinct specialist tokens or more"
    else:
        sizes = "..".join(format_count(ends["params"]) for ends in (law.support.low, law.support.high))
        nearer = f"give a --base of {sizes} parameters" if sized else f"keep the plan closer to the runs, for example with --params {sizes}"
        remedy = f"{nearer}, or train runs there"
    raise DataError(
        f"{who} lies too far beyond the runs of {called} to be recommended: {said}; the limit is {TOO_FAR:g}×, and the largest run had "
        f"{law.support.high['flops']:.3g} FLOPs",
        remedy=f"{remedy}; --allow-extrapolation answers anyway",
    )


def refuse_far_general(
    retention: Retention | None, plan: Plan | DomainPlan, flops: float, who: str = "the best plan", sized: bool = False,
) -> None:  # fmt: skip
    """Refuse a plan whose general loss is limited if it lies too far beyond the runs of the general law.

    Raises:
        DataError: it lies too far.
    """
    if retention is not None:
        refuse_far(retention.law, flops, extrapolation_of(retention.law, plan, flops), who, sized, "the general law")


def advised(law: FittedLaw, flops: float) -> float:
    """Return the FLOPs of the largest run of a sweep to train first: half way to the budget in ln C, or nearer to the budget."""
    return max(flops / ADVISED, flops**0.5 * law.support.high["flops"] ** 0.5)


def tell_far(law: FittedLaw, flops: float, extrapolation: Mapping[str, float], who: str = "") -> Iterator[str]:
    """Say how far a plan lies beyond the runs; in capitals beyond FAR.

    Args:
        law: the law whose runs count.
        flops: of the budget.
        extrapolation: factor by axis.
        who: the plan in words if there are several, such as "domain 'medicine': ".
    """
    compute = extrapolation["flops"]
    outside = {name: factor for name, factor in extrapolation.items() if factor > NEAR and name != "flops" and np.isfinite(factor)}
    others = [f"{AXIS_NAMES[name]} {format_number(factor)}×" for name, factor in outside.items()]
    if compute > FAR:
        yield (
            f"EXTRAPOLATION: {who}this plan costs {compute:.3g} times the largest run that the law has seen ({law.support.high['flops']:.3g} FLOPs)"
            + (f"; outside the runs by: {', '.join(others)}" if others else "")
            + f". Do not spend {flops:.3g} FLOPs on it: train a sweep with runs of up to about {advised(law, flops):.2g} FLOPs first"
        )
        if compute > TOO_FAR:
            floor = "" if law.bounded_below else "the law has no irreducible loss, so its loss here can fall to any value; "
            yield f"NOT A FORECAST: {who}{floor}no distance like this was ever tested"
    elif others or compute > NEAR:
        reach = [f"compute {format_number(compute)}× the largest run"] if compute > NEAR else []
        yield f"extrapolation: {who}" + "; ".join([*reach, ", ".join(others)] if others else reach)
    if extrapolation.get(RAY, 1.0) > NEAR:
        least, most = law.support.low[RAY], law.support.high[RAY]
        amount = f"{least:.2g}" if most < 1.1 * least else f"{least:.2g} to {most:.2g}"
        yield (
            f"{who}the runs of the law have {amount} general tokens per parameter, so they hardly separate the effects of size and general tokens: "
            "a plan with another ratio is a guess"
        )
    if extrapolation.get(TOTAL, 1.0) > NEAR:
        least, most = law.support.low[TOTAL], law.support.high[TOTAL]
        amount = format_count(least) if most < 1.1 * least else f"{format_count(least)} to {format_count(most)}, nearly all the same,"
        yield (
            f"{who}the runs of the law have {amount} tokens in both stages together, so the effect of more or fewer is hardly measured: "
            "a plan with another total is a guess"
        )


def tell_never(law: FittedLaw, extrapolation: Mapping[str, float]) -> Iterator[str]:
    """Say which tokens the plan has but no run has, or every run has but not the plan."""
    for name, factor in extrapolation.items():
        if np.isinf(factor) and law.support.high[name] > 0:
            yield f"every run of the table has {AXIS_NAMES[name]}: the effect of having none is not measured"
        elif np.isinf(factor):
            yield f"no run of the table has any {AXIS_NAMES[name]}: their effect is not measured"


def tell_unmeasured(law: FittedLaw, who: str = "") -> Iterator[str]:
    """Name the parameters of a law that the runs do not constrain."""
    for member in law.members:
        if member.unmeasured:
            named = ", ".join(member.unmeasured)
            held = [item.name for item in member.law.parameters if item.name in member.unmeasured and item.prior is not None]
            known = f", and of {', '.join(held)} what the prior says" if held else ""
            yield f"{who}{member.law.name}: no run constrains {named}; the interval of a forecast that depends on this covers the whole start range{known}"


def tell_tied(law: FittedLaw) -> Iterator[str]:
    """Say that the growth of the best size with compute follows from the formula and not from the runs, if so, and which law fits it."""
    if not all(member.law.tied for member in law.members):
        return
    said = (
        f"{law.names}: the formula itself makes the best size grow as the square root of the compute; the interval of the size assumes that too, and no "
        "run has tested it so far out"
    )
    # The best law tried need not be among those chosen, and some may be unknown to this version.
    tried, chosen = [row for row in law.scores if row["mean"] is not None], {member.law.name for member in law.members}
    best = next((row for row in tried if row["law"] in chosen), None)
    free = [row for row in tried if row["law"] in LAWS and not LAWS[row["law"]].tied]
    if best is not None and free and free[0]["mean"] < RIVAL * best["mean"]:
        said += (
            f". {free[0]['law']} fits this growth to the runs; its mean held-out error is {free[0]['mean']:.2g} %, that of {best['law']} "
            f"{best['mean']:.2g} %: try it too, with plan fit --law {free[0]['law']} --out another file"
        )
    yield said


def warnings_of_law(problem: Problem) -> list[str]:
    """List the warnings about the law under a request, whatever the plan."""
    found = []
    request, most = problem.request, problem.law.support.high["epochs_spec"]
    if problem.one_stage:
        found.append("the law was fitted to single-stage runs: it chooses size and tokens, and knows nothing about specialist text")
    if not problem.one_stage:
        found += tell_epochs(request.max_epochs, most)
    if problem.method.name != "full":
        stages = "both stages are" if problem.method.both else "the specialist stage is"
        rest = "" if problem.method.both else ", the general stage as full training"
        counted = f"{stages} counted with {problem.method.adapters}{rest}" if problem.recipe else "FLOPs are 6·N·D, as its table has no recipe"
        found.append(f"the law was fitted to runs with {problem.method.name}: {counted}")
    if problem.law.source.get("based"):
        after = "its general tokens are those trained after the checkpoint"
        found.append(f"the law was fitted to runs from open checkpoints: {after}, and plan launch needs one of the plan's size (--params plans for yours)")
    if problem.law.unexplained:
        found.append(problem.law.unexplained)
    found += tell_unmeasured(problem.law)
    if problem.one_corpus and (fresh := [member.law.name for member in problem.law.members if not member.law.repeats]):
        found.append(f"{', '.join(fresh)}: treats repeated text as fresh, and no run repeats text: the gain from further epochs is overestimated")
    return [*found, *tell_status(problem.law.members)]


def tell_epochs(max_epochs: float | None, covered: float) -> Iterator[str]:
    """Say that more passes are allowed than any run made."""
    if max_epochs is not None and max_epochs > 1.01 * covered:
        yield f"--max-epochs {max_epochs:.3g} is beyond the {covered:.3g} that the runs cover"


def tell_status(members: Sequence[Member]) -> Iterator[str]:
    """Say which laws did not converge, and what to do about it; one sentence for each status."""
    for status in dict.fromkeys(member.status for member in members if member.status != "converged"):
        names = ", ".join(dict.fromkeys(member.law.name for member in members if member.status == status))
        yield f"{names}: {status}: {STATUS_ADVICE[status]}"
