"""`plan allocate --domains`: how the budget divides among many specialist domains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.cli.allocation_tables import percent, show_worths
from planner.cli.answers import ANSWERS, beside, budget_of_runs, refuse_idle, tell
from planner.cli.console import bar, say
from planner.cli.paths import apart, replaceable
from planner.cli.tables import table
from planner.errors import InputError
from planner.units import format_count, format_names

if TYPE_CHECKING:
    from planner.allocate.domains.answer import DomainPlan, DomainsAllocation, Structure
    from planner.allocate.domains.request import DomainsRequest

SHOWN_DOMAINS = 12
"""Most domains in a table; the file has all."""


def allocate_many(
    path: Path, limits: Mapping[str, Any], others: Mapping[str, Any], general_law: Path | None, *, case: Path | None, next_runs: str | None,
    robust: bool, allow_extrapolation: bool, out: Path, picture: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Answer for the domains of a file: read, solve, write and print, and on request propose runs and draw.

    Args:
        path: the file.
        limits: budget and limits, by their names in the request.
        others: options that apply to one domain only, with their values.
        general_law: law of the general loss for every domain that names none.
        case: file of options, which must not be overwritten.
        next_runs: value of --next-runs.
        robust: see `allocate_domains`.
        allow_extrapolation: the same.
        out: file of the answer.
        picture: file of its figure; None for none.
        as_json: whether to print JSON.

    Raises:
        InputError: options that do not go together.
        DataError: see `allocate_domains`.
    """
    asked = _request(path, limits, others, general_law)
    further = budget_of_runs(next_runs, (domain.law for domain in asked.domains), as_json)
    if further is not None and any(domain.max_loss is not None for domain in asked.domains):
        what = "--next-runs estimates what knowing a law would save, which required losses do not allow"
        raise InputError(what, remedy="leave out either --next-runs or max_loss")
    replaced = out.exists()
    answer = _answer(path, case, asked, robust, allow_extrapolation, out, further is not None)
    tell(out, replaced, answer.warnings, show_domains, answer, as_json)
    if further is not None:
        _runs(answer, asked, further)
    if picture is not None:
        _draw(answer, picture)
        say(f"written: {picture}")


def _answer(
    path: Path, case: Path | None, request: DomainsRequest, robust: bool, allow_extrapolation: bool, out: Path, ask_laws: bool
) -> DomainsAllocation:
    """Compare the structures and write the answer with the hashes of its inputs, none of which it may overwrite."""
    from planner.allocate.domains.allocate import allocate_domains
    from planner.artifacts import sha256_file

    places = [place for domain in request.domains for place in (domain.law_path, domain.general_law_path, domain.accuracy_path)]
    files = dict.fromkeys(place for place in places if place is not None)
    apart(out, path, case, *files)
    replaceable(out, *ANSWERS)
    with bar("what each law is worth", 1.0) if ask_laws else nullcontext() as shown:
        told = (lambda share: shown.update(share, "domains")) if shown is not None else (lambda share: None)
        answer = allocate_domains(request, robust=robust, allow_extrapolation=allow_extrapolation, ask_laws=ask_laws, progress=told)
    answer = replace(answer, sources={law: beside(source, Path(law), out) for law, source in answer.sources.items()})
    answer.save(out, {"domains": sha256_file(path), **{str(file): sha256_file(file) for file in files}})
    return answer


def _runs(answer: DomainsAllocation, request: DomainsRequest, flops: float) -> None:
    """Print the value of knowing each law, and the runs for that many FLOPs that would say most about the domain whose law is worth most."""
    from planner.allocate.allocation import NOTHING
    from planner.cli.decision import Decision
    from planner.cli.design import tell_runs

    first, total = answer.knowing[0], len({id(domain.law) for domain in request.domains})
    rows = [[format_names(item.domains), f"{item.saved_percent:.3f} %", f"{item.most_percent:.3f} %"] for item in answer.knowing]
    table("How much lower the weighted loss would be if one law were known", ["law of", "expected", "at most"], rows)
    say("the other laws keep their uncertainty; no runs for a law can save more than this, if its form holds")
    if total > len(rows):
        say(f"{total - len(rows)} laws, of domains with fewer FLOPs, were not evaluated")
    if answer.settled:
        say(f"the runs are enough: they cover the plan, and in 90 % of resamples its regret is {answer.around['regret_90_percent']:.2g} % or less")
    if first.saved_percent < NOTHING:
        say("no run would change this decision: knowing a law would save next to nothing, so no runs are proposed")
        return
    domain = next(domain for domain in request.domains if domain.name == first.domains[0])
    part = next(plan for plan in answer.recommended.domains if plan.name == domain.name)
    of = f"runs for the law of {format_names(first.domains)}, as if {domain.name!r} alone had the {part.flops_path:.3g} FLOPs that its model costs"
    say(f"{of}, under the limits of the request:")
    assert domain.law_path is not None
    asked = replace(request.of(domain), flops=part.flops_path, inference_tokens=0.0)
    tell_runs(Decision(asked, domain.law_path, domain.general_law if request.limited else None), flops, whatever=True)


def _draw(answer: DomainsAllocation, path: Path) -> None:
    """Draw the answer."""
    from planner.report.domains import MOST_DOMAINS, domains
    from planner.report.style import save

    tall = 0.28 * min(MOST_DOMAINS + 2, len(answer.recommended.domains))
    save(path, lambda axes: domains(axes, answer), panels=3, width=5.6, height=max(4.2, tall))


def _request(path: Path, limits: Mapping[str, Any], others: Mapping[str, Any], general_law: Path | None) -> DomainsRequest:
    """Read a file of domains into a request; the arguments are those of `allocate_many`.

    Raises:
        InputError: an option of one domain is given, or --general-law without a limit.
    """
    from planner.allocate.domains.read import read_domains
    from planner.allocate.domains.request import DomainsRequest

    for name, value in others.items():
        if value:
            why = "states what --domains states: the specialist text" if name == "--spec-tokens" else "applies to one domain only"
            remedy = f"leave out {name}, or --domains"
            if name == "--accuracy":
                remedy = f'write accuracy = "{value}" into its table in {path}, relative to that file'
            raise InputError(f"{name} {why}", remedy=remedy)
    limited = limits["max_general_loss"] is not None or limits["max_general_rise"] is not None
    if not limited:
        refuse_idle(general_law)
    if general_law is not None and not general_law.exists():
        raise InputError(f"there is no law {general_law}", remedy="fit it with plan fit SWEEP --target general, and name its law_general.json")
    return DomainsRequest(domains=read_domains(path, limited=limited, general_law=general_law), **limits)


def show_domains(answer: DomainsAllocation) -> None:
    """Print the structures, split training under further constraints, and what the domains get in the recommended structure."""
    from planner.allocate.domains.found import INDEPENDENT

    rows = [_row(structure, structure.name == answer.best) for structure in answer.structures]
    bound = [_row(arm, False) for arm in answer.arms]
    columns = ["", "weighted loss (90 % interval)", "higher by", "loses in", "size", "general + specialist", "general share", "FLOPs (6·N·D)"]
    verb = "are" if answer.best == INDEPENDENT else "is"
    title = f"{answer.request['flops']:.3g} FLOPs for {answer.request['domains']} domains: {answer.best} {verb} recommended"
    caption = "higher by: extra loss over the recommendation; loses in: share of the laws' refits in which it is worse; loss: weighted mean [nats/token]"
    table(title, columns, rows, caption=caption)
    caption = "no specialisation: the trunk alone for all; 50/50, 90/10: half, a tenth of all tokens are specialist, divided as in the recommended plan"
    if any(arm.loss is not None and arm.worse_percent is None for arm in answer.arms):
        caption += "; higher by is blank where a required loss or the limit is not kept"
    table("Split training under further constraints (ignoring required losses and limits on the general loss)", columns, bound, caption=caption)
    best = answer.recommended
    order = sorted(best.domains, key=lambda plan: -plan.flops * _special(plan, best))
    names = ["domain", "specialist tokens", "epochs", "loss (90 % interval)", "required", "share of budget", "general tokens", "size", "outside the runs"]
    table(f"What each domain gets from {best.name}", names, [_domain(plan) for plan in order[:SHOWN_DOMAINS]])
    if any(plan.general for plan in order):
        names = ["domain", "general loss (90 % interval)", "rise", "90 % interval", "replayed", "limit kept in"]
        table("General loss after the specialist stage", names, [_kept(plan) for plan in order[:SHOWN_DOMAINS] if plan.general])
    if any(plan.accuracy for plan in order):
        names = ["domain", "forecast accuracy", "90 % interval", "models"]
        table("Accuracy, from each domain's own table of models", names, [_able(plan) for plan in order[:SHOWN_DOMAINS] if plan.accuracy])
    if len(order) > SHOWN_DOMAINS:
        say(f"only the {SHOWN_DOMAINS} domains with the most specialist compute are shown; the file has all {len(order)}")
    show_worths("What more would buy", answer.worths, "lower weighted loss by [%]")
    priced = sum(worth.change.startswith("twice the text of ") for worth in answer.worths)
    if 0 < priced < len(order):
        say(f"the value of more text is computed for {priced} of {len(order)} domains, those with the most epochs")
    if answer.exchange:
        say(answer.exchange)
    for line in _flatness(answer):
        say(line)
    for structure in answer.structures:
        if structure.assumption and structure.loss is not None:
            say(f"{structure.name}: {structure.assumption}")
    for structure in (*answer.structures, *answer.arms):
        if structure.note and structure.loss is not None:
            say(f"{structure.name}: {structure.note}")


def _flatness(answer: DomainsAllocation) -> Iterator[str]:
    """Describe how flat the optimum is, the regret, and the FLOPs of inference."""
    around, best = answer.around, answer.recommended
    general = "general text" if best.assumption else "trunks"
    if around.get("params_within") and around.get("share_within"):
        params, share = ([around[f"{name}_{kind}"] for kind in ("within", "interval")] for name in ("params", "share"))
        yield (
            f"within {100 * answer.request['tolerance']:.3g} % of the best loss: {_counts(params[0])} parameters, "
            f"{general} of {percent(share[0])} of the training tokens; 90 % interval of the best plan over "
            f"refits of the laws: {_counts(params[1])}, {percent(share[1])}"
        )
    if around.get("regret_expected_percent") is not None:
        yield f"regret, expected / 90 %: {around['regret_expected_percent']:.2f} % / {around['regret_90_percent']:.2f} %"
    if best.flops_inference:
        yield f"inference takes {best.flops_inference:.3g} FLOPs of the budget"


def _counts(span: Sequence[float]) -> str:
    return f"{format_count(span[0])} to {format_count(span[1])}"


def _kept(plan: DomainPlan) -> list[str]:
    general = plan.general or {}
    return [
        plan.name,
        f"{general['loss']:.4g} ({general['loss_low']:.4g} to {general['loss_high']:.4g})",
        f"{general['rise_percent']:+.3g} %",
        f"{general['rise_low']:+.3g} to {general['rise_high']:+.3g} %",
        f"{100 * general['replay_fraction']:.3g} % of the stage = {format_count(general['tokens_replayed'])}",
        f"{general['probability']:.0%}",
    ]


def _able(plan: DomainPlan) -> list[str]:
    found = plan.accuracy or {}
    return [plan.name, f"{100 * found['accuracy']:.3g} %", f"{100 * found['low']:.3g} to {100 * found['high']:.3g} %", str(found["rows"])]


def _special(plan: DomainPlan, structure: Structure) -> float:
    """Return the share of a domain's FLOPs that pays for specialist tokens: 1 for a branch or its part of a mix, less for a model of its own."""
    return 1.0 if structure.share_general is not None else plan.tokens_spec / (plan.tokens_pt + plan.tokens_spec)


def _row(structure: Structure, itself: bool) -> list[str]:
    name = structure.name + (" (see the assumption)" if structure.assumption else "")
    bound = not itself and structure.probability is None and structure.worse_percent is not None
    if structure.loss is None or structure.tokens_general is None:
        return [structure.name, structure.note]  # left out, so its assumption is not shown
    special = sum(plan.tokens_spec for plan in structure.domains)
    sizes = [plan.params_non_embedding for plan in structure.domains]
    size = format_count(sizes[0]) if min(sizes) == max(sizes) else f"{format_count(min(sizes))} to {format_count(max(sizes))}"
    return [
        name,
        f"at least {structure.loss:.4g}, no forecast" if bound else f"{structure.loss:.4g} ({structure.loss_low:.4g} to {structure.loss_high:.4g})",
        "" if itself or bound or structure.worse_percent is None else f"{structure.worse_percent:+.2f} %",
        "" if structure.probability is None else f"{structure.probability:.0%}",
        size,
        f"{format_count(structure.tokens_general)} + {format_count(special)}",
        "" if structure.share_general is None else f"{100 * structure.share_general:.3g} %",
        f"{structure.flops:.3g}" + ("" if structure.flops_6nd is None else f" ({structure.flops_6nd:.3g})"),
    ]


def _domain(plan: DomainPlan) -> list[str]:
    from planner.allocate.extrapolation import outside

    most = max(plan.extrapolation, key=lambda name: plan.extrapolation[name])
    return [
        plan.name,
        format_count(plan.tokens_spec),
        f"{plan.epochs_spec:.3g}",
        f"{plan.loss:.4g} ({plan.loss_low:.4g} to {plan.loss_high:.4g})",
        "" if plan.max_loss is None else f"{plan.max_loss:g}" + ("" if plan.probability is None else f", reached in {plan.probability:.0%}"),
        f"{100 * plan.share_flops:.3g} %",
        format_count(plan.tokens_pt),
        format_count(plan.params_non_embedding),
        outside({most: plan.extrapolation[most]}) or "no",
    ]
