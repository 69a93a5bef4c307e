"""From a budget for many domains to a recommendation: which structure, what each domain gets, and what must be said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from planner.allocate.beyond import TOO_FAR, refuse_far, tell_far
from planner.allocate.domains.answer import DomainsAllocation, Structure
from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.forecast import Outlook, describe, outlook
from planner.allocate.domains.independent import independent
from planner.allocate.domains.mixed import mixed
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.refuse import losses, refuse
from planner.allocate.domains.request import DomainsRequest
from planner.allocate.domains.split import NO_GENERAL, UNIFORM, split
from planner.allocate.domains.stages import INDEPENDENT, MIXED, SPLIT, Found
from planner.errors import DataError
from planner.fit.diagnosis import STATUS_ADVICE
from planner.units import format_count

MARGINS = (3e-4, 1e-3, 4e-3)
"""Shares by which required losses are tightened in a search, one after the other until whole steps keep them."""
ASSUMPTION = (
    "assumption: the text of the other domains counts as general text for each domain, and its order does not matter. The runs of these laws have not "
    "measured that. By it the mix cannot come out behind split training, so its loss is a bound; in the one check that was made the mix missed it by "
    "9 % and came out behind. Two stages, a trunk and then one specialist stage that all domains share, are this same mix under the laws"
)
UNSPENT = 0.02
LARGER = 1.1
"""Factor in size by which the memory is asked whether it binds."""


def allocate_domains(request: DomainsRequest, *, allow_extrapolation: bool = False) -> DomainsAllocation:
    """Compare the structures at equal FLOPs.

    Args:
        request: budget, domains and limits.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        DataError: the budget allows no plan, a required loss is out of reach, or the best plan lies too far beyond the runs.
    """
    problem = DomainsProblem.of(request)
    mix = MixWorth.of(problem)
    mixing = replace(problem, mix=mix)
    searches: dict[str, Callable[[float], Found | None]] = {
        SPLIT: lambda margin: split(problem, margin=margin),
        INDEPENDENT: lambda margin: independent(problem, margin),
        # With a worth of their own text, domains in a mix divide the budget as they do after a trunk.
        MIXED: lambda margin: mixed(problem, margin) if mix is None else split(mixing, MIXED, margin),
    }
    under = {name: mixing if name == MIXED else problem for name in (*searches, UNIFORM, NO_GENERAL)}
    found = {name: _kept(under[name], search) for name, search in searches.items()}
    able = [name for name, (plan, _) in found.items() if name != MIXED or (mix is not None and plan is not None and mix.covers(plan))]
    if not any(plan is not None and kept for plan, kept in (found[name] for name in able)):
        nearest = [(under[name], nearby) for name in able if (nearby := found[name][0]) is not None]
        if not nearest:
            raise DataError(f"{request.flops:.3g} FLOPs are too few for {problem.count} domains", remedy="give more FLOPs or a smaller --params")
        refuse(problem, nearest)
    free = replace(problem, request=replace(request, domains=tuple(replace(domain, max_loss=None) for domain in request.domains)))
    arms = {name: (split(free, name), True) for name in (UNIFORM, NO_GENERAL)}
    looks = {name: outlook(under[name], plan) for name, (plan, kept) in {**found, **arms}.items() if plan is not None and kept}
    best = min((name for name in able if name in looks), key=lambda name: looks[name].loss)
    structures, bound = (
        tuple(_structure(under[name], name, plan, looks.get(name), looks[best], name == best) for name, (plan, _) in group.items())
        for group in (found, arms)
    )
    chosen = next(structure for structure in structures if structure.name == best)
    if not allow_extrapolation:
        for domain, plan in zip(request.domains, chosen.domains, strict=True):
            refuse_far(domain.law, plan.flops_path, plan.extrapolation, f"the best plan of domain {domain.name!r}")
    return DomainsAllocation(
        request={**{field.name: getattr(request, field.name) for field in fields(request) if field.name != "domains"}, "domains": problem.count},
        best=best,
        structures=structures,
        arms=bound,
        warnings=tuple(_warnings(under[best], chosen, structures)),
        sources=_sources(problem),
    )


def _kept(problem: DomainsProblem, search: Callable[[float], Found | None]) -> tuple[Found | None, bool]:
    """Search, and say whether the plan keeps the required losses in whole steps."""
    found = None
    for margin in MARGINS:
        found = search(margin)
        if found is None or (losses(problem, found) <= problem.max_loss).all():
            return found, found is not None
    return found, False


def _structure(problem: DomainsProblem, name: str, found: Found | None, look: Outlook | None, best: Outlook, itself: bool) -> Structure:
    """Write a structure out, against the recommended one."""
    assumption = _assumption(problem) if name == MIXED else ""
    if found is None or look is None:
        note = "the budget is too small for it" if found is None else f"does not reach the max_loss of {_missed(problem, found)}"
        return Structure(name, assumption, None, None, None, None, None, None, None, None, None, (), note)
    flops, one, bound = found.total_flops, name != INDEPENDENT, name == MIXED and problem.mix is None
    unspent = 1 - flops / problem.request.flops
    idle = f"{100 * unspent:.0f} % of the budget buys nothing: passes or general text bind"
    return Structure(
        name, assumption, look.loss, look.low, look.high, 100 * (look.loss / best.loss - 1),
        None if itself or bound else float((look.resamples - best.resamples > 1e-6).mean()),
        float(problem.params[found.size[0]]) if one else None, found.tokens_general, flops, found.flops_general / problem.request.flops if one else None,
        describe(problem, found, look.losses), idle if unspent > UNSPENT else "",
    )  # fmt: skip


def _assumption(problem: DomainsProblem) -> str:
    """Say what the forecast of a mix rests on."""
    mix = problem.mix
    if mix is None:
        return ASSUMPTION
    ends = [f"{value.min():.2g}" if np.ptp(value) < 5e-3 else f"{value.min():.2g} to {value.max():.2g}" for value in (mix.value, mix.low, mix.high)]
    own = [domain.name for domain, measured in zip(problem.request.domains, mix.measured, strict=True) if measured]
    some = ", ".join(own[:5]) + (" and others" if len(own) > 5 else "")
    where = "for every domain" if all(mix.measured) else f"for {some}, and taken for the other domains"
    return (
        f"assumption: a token of a domain's own text in the mix counts as {ends[0]} ({ends[1]} to {ends[2]}) of a specialist stage, as runs with up to "
        f"{mix.greatest:.0%} of early text have measured {where}, and does not carry far beyond that share; the other domains' text counts for nothing. "
        "The interval reaches down to what it would be if that text counted as general text, and allows for two mixes that were trained and came out "
        "0.7 % below and 5.2 % above such forecasts"
    )


def _missed(problem: DomainsProblem, found: Found) -> str:
    number = int((losses(problem, found) / problem.max_loss).argmax())
    return f"domain {problem.request.domains[number].name!r}"


def _warnings(problem: DomainsProblem, chosen: Structure, structures: tuple[Structure, ...]) -> Iterator[str]:
    request = problem.request
    yield from _differences(problem)
    for method in sorted({one.method.name for one in problem.problems} - {"full"}):
        yield f"there is a law of runs with {method}: among many domains every stage is counted as training all parameters, which that stage does not"
    # Of many domains, the one farthest from the runs of its law speaks for all.
    factors = [max((value for value in plan.extrapolation.values() if np.isfinite(value)), default=1.0) for plan in chosen.domains]
    outside, farthest = sum(value > 1.2 for value in factors), int(np.argmax(factors))
    law = request.domains[farthest].law
    who = f"domain {chosen.domains[farthest].name!r}, the farthest of {outside} of {problem.count} domains outside the runs: "
    yield from tell_far(law, request.flops, chosen.domains[farthest].extrapolation, who)
    for structure in structures:
        if structure is not chosen and any(value > TOO_FAR for plan in structure.domains for value in plan.extrapolation.values() if np.isfinite(value)):
            yield f"{structure.name}: more than {TOO_FAR:g}× beyond the runs, so what is said of it is worth nothing"
    few = [plan.name for plan, most in zip(chosen.domains, problem.most_spec, strict=True) if most < problem.least_stage]
    if few:
        shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
        yield f"no specialist stage for {shown}: all passes allowed hold fewer than the {format_count(problem.least_stage)} tokens that a stage takes"
    bare = [plan.name for plan in chosen.domains if plan.tokens_spec == 0 and plan.name not in few]
    if bare:
        shown = ", ".join(bare[:5]) + (f" and {len(bare) - 5} more" if len(bare) > 5 else "")
        yield f"no specialist stage for {shown}: the {format_count(problem.least_stage)} tokens that a stage takes at least buy more elsewhere, or do harm"
    full = [plan.name for plan, most in zip(chosen.domains, problem.most_spec, strict=True) if plan.tokens_spec > 0.98 * most]
    if full:
        yield f"the limit of passes binds for {len(full)} of {problem.count} domains, {full[0]} among them: more text or passes might lower their loss"
    if request.params is not None and abs(chosen.domains[0].params_non_embedding / request.params - 1) > 0.05:
        yield f"--params {format_count(request.params)} is realised as {format_count(chosen.domains[0].params_non_embedding)} non-embedding parameters"
    first = problem.problems[0]
    if request.memory_per_gpu is not None and not first.fits(first.size(LARGER * max(plan.params_non_embedding for plan in chosen.domains))):
        yield f"the memory binds, {request.memory_per_gpu / 1e9:.3g} GB on each of {request.gpus} GPUs: larger models might be better"
    covered = min(law.support.high["epochs_spec"] for law, _ in problem.groups)
    if request.max_epochs is not None and request.max_epochs > 1.01 * covered:
        yield f"--max-epochs {request.max_epochs:.3g} is beyond the {covered:.3g} that the runs cover"
    for law, members in problem.groups:
        if law.unexplained:
            yield f"domain {request.domains[members[0]].name!r}: {law.unexplained}"
    for status in dict.fromkeys(member.status for law, _ in problem.groups for member in law.members if member.status != "converged"):
        names = ", ".join(dict.fromkeys(member.law.name for law, _ in problem.groups for member in law.members if member.status == status))
        yield f"{names}: {status}: {STATUS_ADVICE[status]}"


def _differences(problem: DomainsProblem) -> Iterator[str]:
    """Name what keeps the laws of the domains from being of one trunk."""
    for what, values in (
        ("families", {problem.recipe.family for problem in problem.problems if problem.recipe}),
        ("lengths of a sequence", {problem.recipe.seq_len for problem in problem.problems if problem.recipe}),
        ("vocabularies", {problem.vocab for problem in problem.problems if problem.vocab}),
    ):
        if len(values) > 1:
            said = " and ".join(str(value) for value in sorted(values, key=str))
            yield f"the laws were measured with different {what}, {said}: the trunk would be another one, not measured; shapes are the first law's"
    if len({law.source.get("corpus") for law, _ in problem.groups}) > 1:
        yield (
            "the laws come from different corpora: their general text and tokenisers may differ, and nats/token of different tokenisers are different "
            "units, which the weights should make up for; plan launch cannot train a trunk or a mix of them: for that, sweep all domains on one corpus"
        )


def _sources(problem: DomainsProblem) -> dict[str, Any]:
    """Say where each law is from."""
    found = {}
    for number, (law, members) in enumerate(problem.groups, 1):
        path = problem.request.domains[members[0]].law_path
        kept = {key: law.source.get(key) for key in ("sweep", "domain", "recipe", "vocab_size", "corpus", "corpus_path", "eval_tokens")}
        found[str(path) if path else f"law {number}"] = {**kept, "domains": [problem.request.domains[member].name for member in members]}
    return found
