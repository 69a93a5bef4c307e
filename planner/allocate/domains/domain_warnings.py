"""Warnings about a recommendation for many domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from planner.allocate.domains.answer import DomainPlan, Structure
from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.found import MIXED, Found
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain
from planner.allocate.domains.size_bound import tell_bounded
from planner.allocate.extrapolation import TOO_FAR, tell_epochs, tell_far, tell_never, tell_status, tell_unmeasured
from planner.allocate.plan_warnings import tell_memory, tell_realised
from planner.allocate.replay_cost import said_of
from planner.allocate.request import TAKEN
from planner.allocate.retention import SURE
from planner.fit.support import NEAR
from planner.units import format_count, format_names

NAMED_DOMAINS = 2
"""Domains of one law that a warning names at most."""
SHOWN_REQUIRED = 5
"""Domains whose required losses a warning names at most."""


def warnings_of(problem: DomainsProblem, chosen: Structure, structures: tuple[Structure, ...], found: Found, margin: float) -> Iterator[str]:
    """List the warnings.

    Args:
        problem: the request under its laws.
        chosen: the recommended structure.
        structures: all of them.
        found: its plan, as the search found it.
        margin: by which required losses were tightened.
    """
    request = problem.request
    yield from _differences(problem)
    ways: dict[str, list[str]] = {}
    for domain, one in zip(request.domains, problem.problems, strict=True):
        if one.method.name != "full":
            way = f"{one.method.name}: specialist stages counted with {one.method.adapters}, general ones as full training"
            ways.setdefault(way, []).append(domain.name)
    for way, those in ways.items():
        yield f"the law of {format_names(those)} was fitted to runs with {way}"
    # Of many domains, only the one farthest from the runs of its law is named.
    factors = [max((value for value in plan.extrapolation.values() if np.isfinite(value)), default=1.0) for plan in chosen.domains]
    outside, farthest = sum(value > NEAR for value in factors), int(np.argmax(factors))
    law = request.domains[farthest].law
    who = f"domain {chosen.domains[farthest].name!r}, the farthest of {outside} of {problem.count} domains outside the runs: "
    yield from tell_far(law, request.flops, chosen.domains[farthest].extrapolation, who)
    yield from tell_never_of(request.domains, chosen.domains)
    for structure in structures:
        if structure is not chosen and any(value > TOO_FAR for plan in structure.domains for value in plan.extrapolation.values() if np.isfinite(value)):
            yield f"{structure.name}: more than {TOO_FAR:g}× beyond the runs, so its forecast is worthless"
    yield from tell_bounded(problem, found, margin)
    few = [plan.name for plan, most in zip(chosen.domains, problem.most_spec, strict=True) if most < problem.least_stage]
    if few:
        least = format_count(problem.least_stage)
        yield f"no specialist stage for {format_names(few)}: all allowed passes together hold fewer tokens than the minimum of a stage, {least}"
    idle = [plan.name for plan in chosen.domains if plan.tokens_spec == 0 and plan.weight == 0]
    if idle:
        yield f"no specialist stage for {format_names(idle)}: weight 0"
    bare = [plan.name for plan in chosen.domains if plan.tokens_spec == 0 and plan.name not in (*few, *idle)]
    if bare:
        limit = ", or exceeds the limit on the general loss" if request.limited else ""
        least = format_count(problem.least_stage)
        yield f"no specialist stage for {format_names(bare)}: the minimum of a stage, {least} tokens, gains more elsewhere, or raises the loss{limit}"
    full = [plan.name for plan, most in zip(chosen.domains, problem.most_spec, strict=True) if plan.tokens_spec > TAKEN * most]
    if full:
        yield f"the limit on passes binds for {len(full)} of {problem.count} domains ({format_names(full)}): more text or passes might lower their loss"
    yield from tell_realised(request.params, chosen.domains[0].params_non_embedding)
    yield from tell_memory(problem.problems[0], max(plan.params_non_embedding for plan in chosen.domains), "larger models")
    yield from _of_required(chosen)
    yield from _of_the_limit(problem, chosen)
    yield from tell_epochs(request.max_epochs, min(law.support.high["epochs_spec"] for law, _ in problem.groups))
    for law, members in problem.groups:
        who = f"domain{'s' * (len(members) > 1)} {format_names([repr(request.domains[number].name) for number in members], NAMED_DOMAINS)}"
        yield from tell_unmeasured(law, f"{who}: ")
        if law.unexplained:
            yield f"{who}: {law.unexplained}"
    yield from tell_status([member for law, _ in problem.groups for member in law.members])


def tell_never_of(domains: Sequence[Domain], plans: Sequence[DomainPlan]) -> Iterator[str]:
    """Say for which domains a structure has tokens that no run has, or lacks tokens that every run has; one sentence for each kind."""
    found: dict[str, list[str]] = {}
    for domain, plan in zip(domains, plans, strict=True):
        for text in tell_never(domain.law, plan.extrapolation):
            found.setdefault(text, []).append(domain.name)
    for text, names in found.items():
        yield f"{format_names(names)}: {text}"


def warnings_of_mix(mix: MixWorth | None, chosen: Structure, structures: tuple[Structure, ...]) -> Iterator[str]:
    """Say why one mixed model is not recommended although it is forecast better, and what would change that."""
    mixed = next((structure for structure in structures if structure.name == MIXED), None)
    if mix is None or mixed is None or mixed is chosen or mixed.tokens_general is None or mixed.probability is None or mixed.worse_percent is None:
        return
    special = sum(plan.tokens_spec for plan in mixed.domains)
    share, better = special / (mixed.tokens_general + special), -round(mixed.worse_percent, 2)
    unknown = [plan.name for plan, measured in zip(mixed.domains, mix.measured, strict=True) if not measured]
    plural = "s" * (len(unknown) > 1)
    why = [f"no run of the law{plural} of {format_names(unknown)} has specialist text in its general stage"] if unknown else []
    if share > mix.greatest:
        why.append(f"a share of {share:.2g} of its tokens is specialist, and no run had more than {mix.greatest:.2g}")
    if better > 0 and why:
        sweeps = f"the sweep{plural} of {format_names(unknown)}" if unknown else "the sweeps"
        yield (
            f"{MIXED} is forecast {better:.2f} % lower than {chosen.name}, in {1 - mixed.probability:.0%} of the refits, but is not recommended, because "
            f"{' and '.join(why)}: to make it eligible, add cells with tokens_spec = 0 and early_fraction of up to {share:.2g} to {sweeps}, refit, "
            "and allocate again"
        )


def _of_required(chosen: Structure) -> Iterator[str]:
    """Say with what probability one run reaches the required losses, and what to require instead to be surer."""
    found = [(plan.probability, plan) for plan in chosen.domains if plan.probability is not None and plan.probability < SURE]
    unsure = sorted(found, key=lambda pair: pair[0])
    if not unsure:
        return
    shown = ", ".join(f"{plan.name!r} {plan.max_loss:g} in {share:.0%} of runs" for share, plan in unsure[:SHOWN_REQUIRED])
    asked = ", ".join(f"{plan.surer_max_loss:.4g} for {plan.name!r}" for _, plan in unsure[:SHOWN_REQUIRED] if plan.surer_max_loss is not None)
    more = f" (and {len(unsure) - SHOWN_REQUIRED} more domains)" if len(unsure) > SHOWN_REQUIRED else ""
    surer = f"; max_loss = {asked}, if within reach, would do so in {SURE:.0%} of runs" if asked else ""
    blind = [plan.name for _, plan in unsure[:SHOWN_REQUIRED] if plan.surer_max_loss is None]
    unknown = f"; for {format_names(blind)} no surer max_loss can be named: a law without irreducible loss cannot tell how low a run gets" if blind else ""
    yield f"the mean forecast reaches every required loss, but one run reaches it only with some probability: {shown}{more}{surer}{unknown}"


def _of_the_limit(problem: DomainsProblem, chosen: Structure) -> Iterator[str]:
    """Say how surely the limit on the general loss is kept, and what is not measured about it."""
    stages = [(plan, plan.general) for plan in chosen.domains if plan.general and plan.tokens_spec > 0]
    if not stages:
        return
    plan, general = min(stages, key=lambda pair: float(pair[1]["probability"]))
    yield f"the limit ({general['limit']}) is kept with a probability of at least {general['probability']:.0%} for every domain; lowest for {plan.name!r}"
    if not all(len(one.retention.replays) > 1 for one in problem.problems if one.retention):
        yield "some general law has no runs with replay: its effect on that general loss is not measured, and none is planned"
    if shares := [plan.replay_fraction for plan, _ in stages if plan.replay_fraction]:
        yield said_of(shares)
    plan, general = max(stages, key=lambda pair: float(pair[1].get("extrapolation", 1.0)))
    if general["extrapolation"] > NEAR:
        yield f"extrapolation: domain {plan.name!r} lies a factor of {general['extrapolation']:.3g} outside the runs of its general law"


def _differences(problem: DomainsProblem) -> Iterator[str]:
    """Say in what the laws of the domains differ so that they cannot share the trunk they were measured on."""
    for what, values in (
        ("families", {problem.recipe.family for problem in problem.problems if problem.recipe}),
        ("lengths of a sequence", {problem.recipe.seq_len for problem in problem.problems if problem.recipe}),
        ("vocabularies", {problem.vocab for problem in problem.problems if problem.vocab}),
    ):
        if len(values) > 1:
            said = " and ".join(str(value) for value in sorted(values, key=str))
            yield f"the laws were measured with different {what}, {said}: a shared trunk was not measured; shapes are those of the first law"
    if len({law.source.get("corpus") for law, _ in problem.groups}) > 1:
        yield (
            "the laws come from different corpora: their general text and tokenisers may differ; nats/token of different tokenisers are different units, "
            "so set the weights accordingly; plan launch cannot train a trunk or a mix of them: for that, sweep all domains on one corpus"
        )
