"""From a budget for many domains to a recommendation: which structure, what each domain gets, and the warnings about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from planner.allocate.budget import cost_of
from planner.allocate.domains import general_limit
from planner.allocate.domains.accuracy import with_accuracy
from planner.allocate.domains.answer import DomainsAllocation, Structure
from planner.allocate.domains.domain_warnings import tell_never_of, warnings_of, warnings_of_mix
from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.forecast import Outlook, describe, outlook
from planner.allocate.domains.found import INDEPENDENT, MIXED, SPLIT, Found
from planner.allocate.domains.independent import independent
from planner.allocate.domains.information_value import information_value
from planner.allocate.domains.left_over import with_less
from planner.allocate.domains.mixed import mixed
from planner.allocate.domains.prices import prices
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.refuse import refuse
from planner.allocate.domains.request import DomainsRequest
from planner.allocate.domains.sensitivity import sensitivity
from planner.allocate.domains.shares import SHARES, of_share
from planner.allocate.domains.split import NO_GENERAL, UNIFORM, split
from planner.allocate.extrapolation import refuse_far, refuse_far_general
from planner.errors import DataError
from planner.flops import flops_6nd
from planner.units import format_names, format_part

MARGINS = (1e-4, 3e-4, 1e-3, 4e-3)
"""Shares by which required losses are tightened in a search, tried in turn until the plan in whole steps keeps them."""
HOPELESS = 5e-4
"""Share by which a plan may miss a required loss because of rounding to whole steps (of 116 plans none missed more): beyond it no margin helps."""
ASSUMPTION = (
    "assumption: for each domain the text of the others counts as general text, and its order does not matter; the runs of these laws have not "
    "measured that. Under it the mix cannot be worse than split training, so its loss is a bound; in the one check made, the mix missed the bound by "
    "9 % and was worse. A trunk followed by one specialist stage that all domains share is this same mix under the laws"
)
UNSPENT = 0.02
"""Share of the budget above which unspent compute is mentioned."""
_KEPT = ("sweep", "domain", "recipe", "vocab_size", "corpus", "corpus_path", "eval_tokens", "method")
COMPARED_EVALUATIONS = 3e5
"""Losses evaluated per grid when searching arms for comparison only: within 4e-4 in ln L."""


def allocate_domains(
    request: DomainsRequest, *, robust: bool = True, allow_extrapolation: bool = False, ask_laws: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> DomainsAllocation:  # fmt: skip
    """Compare the structures at equal FLOPs.

    Args:
        request: budget, domains and limits.
        robust: whether to recommend the plan with the lowest mean over the resamples, or the one that the fitted parameters alone prefer.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.
        ask_laws: whether to compute the value of knowing each law exactly, which takes as long again for every law.
        progress: called with the share of that which is done.

    Raises:
        DataError: the budget allows no plan, a required loss is out of reach, or the best plan lies too far beyond the runs.
    """
    problem = DomainsProblem.of(request, robust=robust)
    mix = MixWorth.of(request.domains)
    mixing = replace(problem, mix=mix)
    searches = _searches(problem, mix)
    under = {name: mixing if name == MIXED else problem for name in searches}
    tried = {name: _tried(under[name], search) for name, search in searches.items()}
    able = [name for name, (plan, _) in tried.items() if _able(name, plan, mix)]
    if not able and request.limited:
        general_limit.refuse(problem)
    if not able:
        raise DataError(f"{request.flops:.3g} FLOPs are too few for {problem.count} domains", remedy="give more FLOPs or a smaller --params")
    if all(tried[name][1] is None for name in able):
        nearest = [(under[name], plan) for name in able if (plan := tried[name][0]) is not None]
        refuse(problem, nearest, lambda flops, names: _missed_with(problem, mix, flops, names))
    looks = {name: outlook(under[name], plan) for name, (plan, margin) in tried.items() if plan is not None and margin is not None}
    # By the measure of the searches, which for the best guess is not the mean over the resamples.
    value = {name: float((problem.weights * under[name].losses(plan)).sum()) for name in able if name in looks and (plan := tried[name][0]) is not None}
    best = min(value, key=lambda name: value[name])
    found, margin = tried[best]
    assert found is not None and margin is not None
    domains = tuple(replace(domain, max_loss=None) for domain in request.domains)
    free = replace(problem, evaluations=COMPARED_EVALUATIONS, request=replace(request, domains=domains, max_general_loss=None, max_general_rise=None))
    arms = {name: split(free, name) for name in (UNIFORM, NO_GENERAL)} | {name: of_share(free, name, found) for name in SHARES}
    looks |= {name: outlook(problem, plan) for name, plan in arms.items() if plan is not None}
    structures, bound = (
        tuple(_structure(under.get(name, problem), name, plan, looks.get(name), looks[best], name == best) for name, plan in group.items())
        for group in ({name: plan for name, (plan, _) in tried.items()}, arms)
    )
    bound = tuple(_compared(problem, arms[arm.name], arm) for arm in bound)
    chosen = next(structure for structure in structures if structure.name == best)
    if not allow_extrapolation:
        for domain, part, own in zip(request.domains, chosen.domains, problem.problems, strict=True):
            who = f"the best plan of domain {domain.name!r}"
            refuse_far(domain.law, part.flops_path, part.extrapolation, who)
            refuse_far_general(own.retention, part, part.flops_path, who)
    chosen, unsure = with_accuracy(chosen, request.domains)
    structures = tuple(chosen if structure.name == best else structure for structure in structures)
    worths, exchange = prices(under[best], found, looks[best].resamples, margin)
    return DomainsAllocation(
        request={**{field.name: getattr(request, field.name) for field in fields(request) if field.name != "domains"}, "domains": problem.count},
        best=best,
        structures=structures,
        arms=bound,
        warnings=(*warnings_of_mix(mix, chosen, structures), *warnings_of(under[best], chosen, structures, found, margin), *unsure),
        sources=_sources(problem),
        around=asdict(sensitivity(under[best], found, margin)),
        worths=tuple(worths),
        exchange=exchange,
        knowing=information_value(under[best], found, margin, progress) if ask_laws else (),
        cost=cost_of(request, found.total_flops, chosen.flops_inference),
    )


def _searches(problem: DomainsProblem, mix: MixWorth | None) -> dict[str, Callable[[float], Found | None]]:
    """Return the search for each structure, given the margin by which required losses are tightened."""
    mixing, less = replace(problem, mix=mix), replace(problem, evaluations=COMPARED_EVALUATIONS)
    return {
        SPLIT: lambda margin: with_less(problem, lambda less, margin: split(less, margin=margin), margin),
        INDEPENDENT: lambda margin: with_less(problem, independent, margin),
        # If the worth of early text is measured, domains in a mix divide the budget as they do after a trunk.
        MIXED: lambda margin: None if _unmeasured(problem) else mixed(less, margin) if mix is None else split(mixing, MIXED, margin),
    }


def _able(name: str, plan: Found | None, mix: MixWorth | None) -> bool:
    """Tell whether a structure can be recommended: a mix only if its share of early text was measured."""
    return plan is not None and (name != MIXED or (mix is not None and mix.covers(plan)))


def _missed_with(problem: DomainsProblem, mix: MixWorth | None, flops: float, names: Sequence[str]) -> float:
    """Search some of the structures with another budget; see `refuse.Missed`."""
    other = DomainsProblem.of(replace(problem.request, flops=flops), robust=problem.robust)
    missed = np.inf
    for name, search in _searches(other, mix).items():
        if missed <= 0 or name not in names or (name == MIXED and mix is None):
            continue
        under = replace(other, mix=mix) if name == MIXED else other
        plan, _ = _tried(under, search)
        if plan is not None and _able(name, plan, mix):
            missed = min(missed, under.missed(plan))
    return missed


def _tried(problem: DomainsProblem, search: Callable[[float], Found | None]) -> tuple[Found | None, float | None]:
    """Search; return the plan and the margin with which it keeps the required losses in whole steps, None for what there is not."""
    found = None
    for margin in MARGINS:
        found = search(margin)
        if found is None:
            return None, None
        if problem.missed(found) <= 0:
            return found, margin
        if problem.missed(found) > HOPELESS:
            break
    return found, None


def _structure(problem: DomainsProblem, name: str, found: Found | None, look: Outlook | None, best: Outlook, itself: bool) -> Structure:
    """Describe a structure, compared with the recommended one."""
    assumption = _assumption(problem) if name == MIXED else ""
    if found is None or look is None:
        small = (_unmeasured(problem) if name == MIXED else "") or "the budget, or the text of some domain, is too small"
        note = small if found is None else f"does not reach the max_loss of {_missed(problem, found)}"
        return Structure.unavailable(name, assumption, note)
    flops, one, bound = found.total_flops, name != INDEPENDENT, name == MIXED and problem.mix is None
    unspent = 1 - problem.spent(found) / problem.request.flops
    limits = "passes, general text or the limit on the general loss bind" if problem.request.limited else "passes or general text bind"
    binding = f"{limits}, or more tokens are forecast to raise the loss"
    idle = f"{format_part(unspent)} of the budget is left over: {binding}"
    plans = describe(problem, found, look.losses)
    general = flops_6nd(float(problem.params[found.size[0]]), found.tokens_general) if one else 0.0
    # For the recommended structure this is among the warnings.
    never = () if itself else tell_never_of(problem.request.domains, plans)
    notes = "; ".join([*([idle] if unspent > UNSPENT else []), *never])
    return Structure(
        name, assumption, look.loss, look.low, look.high, 100 * (look.loss / best.loss - 1),
        None if itself or bound else float((look.resamples - best.resamples > 1e-6).mean()),
        float(problem.params[found.size[0]]) if one else None, found.tokens_general, flops, found.flops_general / problem.request.flops if one else None,
        plans, notes, problem.inference_of(found), general + sum(plan.flops_6nd or 0.0 for plan in plans),
    )  # fmt: skip


def _compared(problem: DomainsProblem, found: Found | None, arm: Structure) -> Structure:
    """Drop the comparison of an arm that does not keep the limits of the recommended plan: it would not be fair."""
    if found is None:
        return arm
    missed = problem.losses(found) > problem.max_loss * (1 + MARGINS[0])
    why = [f"does not reach the max_loss of {_missed(problem, found)}"] if missed.any() else []
    if problem.request.limited:
        # These arms replay nothing; without a trunk there is no general loss to keep.
        share = general_limit.branch_replay(problem, found.size[:, None], found.tokens_general, found.tokens_spec[:, None], 0.0)[:, 0]
        over = [domain.name for domain, keeps in zip(problem.request.domains, share <= 0, strict=True) if not keeps]
        why += [f"exceeds the limit on the general loss for {format_names(over)}"] if over else []
    if not why:
        return arm
    note = f"{' and '.join(why)}, so it is not compared"
    return replace(arm, worse_percent=None, probability=None, note=f"{note}; {arm.note}" if arm.note else note)


def _unmeasured(problem: DomainsProblem) -> str:
    """Say why a mixed model cannot be forecast; empty if it can."""
    if problem.request.limited:
        return "its general loss is not measured"
    return "" if all(one.method.name == "full" for one in problem.problems) else "a mix trains all parameters, and some law is of runs with adapters"


def _assumption(problem: DomainsProblem) -> str:
    """State the assumption behind the forecast of a mix."""
    mix = problem.mix
    if mix is None:
        return ASSUMPTION
    ends = [f"{value.min():.2g}" if np.ptp(value) < 5e-3 else f"{value.min():.2g} to {value.max():.2g}" for value in (mix.value, mix.low, mix.high)]
    own = [domain.name for domain, measured in zip(problem.request.domains, mix.measured, strict=True) if measured]
    some = ", ".join(own[:5]) + (" and others" if len(own) > 5 else "")
    where = "for every domain" if all(mix.measured) else f"for {some}, and assumed for the other domains"
    return (
        f"assumption: a token of a domain's own text in the mix is worth {ends[0]} ({ends[1]} to {ends[2]}) tokens of a specialist stage, as measured by "
        f"runs with up to {mix.greatest:.0%} of early text {where}; this does not carry far beyond that share. The other domains' text counts for "
        "nothing; the interval reaches down to the loss if it counted as general text, and allows for the errors of the two mixes that were trained, "
        "0.7 % below and 5.2 % above such forecasts"
    )


def _missed(problem: DomainsProblem, found: Found) -> str:
    number = int((problem.losses(found) / problem.max_loss).argmax())
    return f"domain {problem.request.domains[number].name!r}"


def _sources(problem: DomainsProblem) -> dict[str, Any]:
    """Return the origin of each law."""
    found = {}
    for number, (law, members) in enumerate(problem.groups, 1):
        path = problem.request.domains[members[0]].law_path
        kept = {key: law.source.get(key) for key in _KEPT}
        found[str(path) if path else f"law {number}"] = {**kept, "domains": [problem.request.domains[member].name for member in members]}
    return found
