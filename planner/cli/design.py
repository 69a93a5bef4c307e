"""`plan sweep design`."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import bar, give, say
from planner.cli.decision import Decision, read_decision
from planner.cli.design_inputs import Asked, Given, gather
from planner.cli.design_tables import show
from planner.cli.sizes import read_counts
from planner.errors import InputError, StateError
from planner.units import format_count, parse_count, parse_flops

if TYPE_CHECKING:
    from planner.allocate.request import Request
    from planner.next_runs.candidates import Candidates, Setting
    from planner.next_runs.design import NextRuns, Stakes
    from planner.next_runs.outside import Outside

HELP = (
    "Choose the next runs: the tree of cells that most reduces the uncertainty of the recommendation at a target budget.\n\n"
    "With a fit (law.json) the new runs are chosen to add to its rows; with --prior, nothing fitted yet, from the laws' start ranges. All trunks are\n"
    "trained anew: states of earlier sweeps are not counted on.\n\n"
    "Example: plan sweep design medicine --flops 1e14 --spec-tokens 200k --out next/sweep.toml\n\n"
    "Example: plan sweep design mine --prior --flops 1e18 --target-flops 1e21\n\n"
    "Example: plan sweep design --flops 1e14 --decision allocation.json\n\n"
    "Example: plan sweep design mine --prior --check --target-flops 1e16"
)
TARGET_FACTOR = 100.0
"""Of the default target: times the largest run that the law has seen, or that --flops could pay where nothing is fitted or that would cost less."""


def design(
    name: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Sweep whose recipe and corpus are taken; by default the law's.")] = None,
    flops: Annotated[str | None, typer.Option(help="Budget of the runs, their shared trunks counted once, such as 1e18.")] = None,
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; by default the sweep's, the one here, or the only one under sweeps/.")] = None,
    prior: Annotated[bool, typer.Option("--prior", help="Design from the start ranges of --form, nothing fitted.")] = False,
    form: Annotated[list[str] | None, typer.Option(help="With --prior: a law by name (plan laws); repeatable.")] = None,
    target_flops: Annotated[
        str | None, typer.Option(help=f"Budget of the recommendation; {TARGET_FACTOR:g} times the law's largest run, or the dearest on offer, by default.")
    ] = None,
    spec_tokens: Annotated[str | None, typer.Option(help="Distinct specialist tokens at the target; all of the corpus by default.")] = None,
    decision: Annotated[
        Path | None, typer.Option(help="Answer of plan allocate that the runs are for: its law, its budget, its text, all its limits, and its bases.")
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="V: contrasts between plans at the target; I: forecasts at the target; D: the law's parameters.")
    ] = "V",
    trunk_share: Annotated[float | None, typer.Option(help="Share of a run's variance that its trunk's runs have in common; 0.25 by default.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Sizes to choose from, such as 20k,80k,320k; spread below the largest affordable by default.")] = None,
    tokens_pt: Annotated[str | None, typer.Option(help="General tokens to choose from, such as 0,1M,4M.")] = None,
    tokens_spec: Annotated[str | None, typer.Option(help="Specialist tokens to choose from.")] = None,
    unique_spec: Annotated[str | None, typer.Option(help="Distinct specialist tokens to choose from.")] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most passes over the specialist text; the sweep's or the law's own by default.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Corpus folder, where neither a sweep nor the law leads to it.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the runs; beside a law one more than the sweep's, so that no trunk is a copy.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Judge the sweep's own cells as they stand, and choose none.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the design.")] = Path("next/sweep.toml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Design the next runs."""
    from planner.next_runs.information import TRUNK_SHARE

    share = TRUNK_SHARE if trunk_share is None else trunk_share
    _consistent(prior, law, form, check, name, flops, share)
    question = None
    if decision is not None:
        given_too = {"--law": law, "--prior": prior, "--target-flops": target_flops, "--spec-tokens": spec_tokens}
        if doubled := [key for key, value in given_too.items() if value]:
            raise InputError(f"--decision says what {', '.join(doubled)} says", remedy="give one or the other")
        question = read_decision(decision)
    axes = {"sizes": sizes, "tokens_pt": tokens_pt, "tokens_spec": tokens_spec, "unique_spec": unique_spec}
    _design(
        Asked(
            share, name, flops, question, law=law, prior=prior, form=form or (), target_flops=target_flops, spec_tokens=spec_tokens, criterion=criterion,
            axes=axes, max_epochs=max_epochs, corpus=corpus, seed=seed, check=check, out=out, dry_run=dry_run, as_json=as_json,
        )
    )  # fmt: skip


def tell_runs(question: Decision, flops: float, *, whatever: bool = False) -> None:
    """Print the runs that would say most about a decision, for so many FLOPs.

    Args:
        question: the decision.
        flops: of the runs.
        whatever: whether to propose runs that would not change the decision too, where they are to serve another one.
    """
    from planner.next_runs.information import TRUNK_SHARE

    sweep = str(question.law.parent) if (question.law.parent / "sweep.toml").is_file() else None
    _design(Asked(TRUNK_SHARE, sweep, f"{flops:.17g}", question, dry_run=True, whatever=whatever))


def _design(asked: Asked) -> None:
    """Design, print and write."""
    from planner.next_runs.design import design_runs, judge, no_runs

    given = gather(asked)
    unique = _distinct_text(asked, given.setting)
    candidates, budget = _listed(asked, given) if asked.check else _affordable(asked, given, unique)
    decided, says_target = _target(asked, given, candidates, budget, unique)
    stakes = _stakes(asked, given, candidates, decided)
    told = {
        "criterion": asked.criterion, "candidates": len(candidates), "target_flops": decided.flops, "unique_spec": unique, "trunk_share": asked.share,
    }  # fmt: skip
    if asked.question is not None and asked.criterion == "V" and not asked.whatever and (none := no_runs(stakes)) is not None:
        if asked.as_json:
            give({**asdict(none), **told})
        for why in none.warnings:
            say(why)
        return
    with bar("design", 1.0) as shown:
        if asked.check:
            answer = judge(stakes)
        else:
            answer = design_runs(stakes, budget, fitted=given.fitted is not None, progress=lambda what, done: shown.update(done, what))
    answer, outside = _beyond(answer, stakes, asked, given)
    if asked.as_json:
        leaning = {"outside": asdict(outside)} if outside else {}
        give({**asdict(answer), **leaning, **told})
    else:
        show(answer, decided.flops, unique, given.setting.general, given.setting.special, outside)
    _say_caveats(answer, asked, given, budget, decided.flops, says_target)
    if asked.check:
        return
    seed = given.setting.seed
    say(f"chosen from {len(candidates)} candidates; all trunks are trained anew, with seed {seed}: states of earlier sweeps are not counted on")
    if not asked.dry_run:
        _write(answer, asked, given, target=decided.flops, unique=unique)


def _distinct_text(asked: Asked, setting: Setting) -> float:
    """Return the distinct specialist tokens at the target."""
    if asked.question is not None:
        return asked.question.request.unique_spec
    if asked.spec_tokens:
        return parse_count(asked.spec_tokens)
    return setting.unique_available if setting.special else 1.0


def _listed(asked: Asked, given: Given) -> tuple[Candidates, float]:
    """Return the sweep's own cells, to be judged as they stand, and no budget."""
    from planner.next_runs.candidates import long_enough

    sweep, setting = given.sweep, given.setting
    assert sweep is not None
    cells, _ = sweep.cells(setting.vocab, setting.unique_available)
    found = long_enough(cells, setting)
    if len(found) < len(cells):
        say(f"left out: {len(cells) - len(found)} cells with fewer steps than ten times the warm-up, which no fit uses")
    if given.fitted:
        say("the cells are counted beside the rows of the law, as a second copy where it was fitted to this very sweep; --prior counts them alone")
    return found, math.nan


def _affordable(asked: Asked, given: Given, unique: float) -> tuple[Candidates, float]:
    """Return the cells to choose from, and the budget [FLOPs].

    Raises:
        InputError: see `affordable`.
        StateError: the file to be written is there already.
    """
    from planner.next_runs.candidates import least_size
    from planner.next_runs.design import affordable, without_overfitted

    assert asked.flops is not None
    fitted, budget = given.fitted, parse_flops(asked.flops)
    chosen = {key: [*read_counts(text)] if text else None for key, text in asked.axes.items()}
    smallest = least_size(fitted) if fitted else 0.0
    found = affordable(given.setting, budget, given.laws, fitted is not None, unique_target=unique, smallest=smallest, **chosen)
    found = without_overfitted(found, fitted) if fitted else found
    if not asked.dry_run and asked.out.exists():
        raise StateError(f"{asked.out} exists", remedy="name another file with --out, or delete it")
    return found, budget


def _target(asked: Asked, given: Given, candidates: Candidates, budget: float, unique: float) -> tuple[Request, str]:
    """Return the request whose recommendation the runs are for, and what to say of its budget where that is the default."""
    from planner.allocate.request import Request

    if asked.question is not None:
        return asked.question.request, ""
    largest = seen = given.fitted.support.high["flops"] if given.fitted else 0.0
    if given.fitted is None or budget > TARGET_FACTOR * seen:  # runs dearer than a plan are not for it: then the plan is one beyond them
        largest = max(seen, float(candidates.cost.alone.max()))
    if asked.target_flops:
        return Request(parse_flops(asked.target_flops), unique), ""
    target = TARGET_FACTOR * largest
    what = "that the law has seen" if largest == seen else "to choose from"
    return Request(target, unique), f"target: {target:.3g} FLOPs, {TARGET_FACTOR:g} times the largest run {what}; change it with --target-flops"


def _stakes(asked: Asked, given: Given, candidates: Candidates, decided: Request) -> Stakes:
    """Return what the runs are judged by: the forecasts and the plans at the target, or those of a question's bases.

    Raises:
        InputError: the runs can say nothing of a base.
    """
    from planner.next_runs.belief import FORMS
    from planner.next_runs.design import Stakes

    question, fitted = asked.question, given.fitted
    general = question.general if question else None
    region = None
    if question is not None and question.bases and question.method is not None and fitted is not None:
        from planner.next_runs.bases import refuse_unreachable, target_of_bases

        region = target_of_bases(fitted, decided, question.bases, question.method, general)
        refuse_unreachable(region, candidates, fitted)
    return Stakes.of(
        candidates, fitted, decided, criterion=asked.criterion, share=asked.share, forms=tuple(asked.form or FORMS), general=general, target=region
    )  # fmt: skip


def _beyond(answer: NextRuns, stakes: Stakes, asked: Asked, given: Given) -> tuple[NextRuns, Outside | None]:
    """Add to a design what its law's form is leant on beyond the runs; without a law there is nothing to add.

    Raises:
        DataError: its runs are too small for the law.
    """
    from planner.allocate.allocation import NOTHING
    from planner.next_runs.candidates import Candidates
    from planner.next_runs.outside import Outside, refuse_too_small

    if given.fitted is None:
        return answer, None
    runs = Candidates(answer.cells, given.setting)
    refuse_too_small(given.fitted, runs, spread=not asked.check and not asked.axes.get("sizes"))
    outside = Outside.of(given.fitted, runs, stakes.target)
    idle = ["no run would change this decision: these runs would narrow its forecast alone"] if answer.before.regret_percent < NOTHING else []
    return replace(answer, warnings=(*answer.warnings, *idle, *outside.warnings())), outside


def _say_caveats(answer: NextRuns, asked: Asked, given: Given, budget: float, target: float, says_target: str) -> None:
    """Say what a design does not count, and what its target is."""
    for warning in answer.warnings:
        say(f"warning: {warning}")
    if asked.question is not None and asked.question.general is not None:
        say("the limit on the general loss is taken as its law has it: no design asks what runs would say about that")
    if budget > target:
        way = "name yours with --target-flops" if asked.question is None else "give them fewer FLOPs"
        say(f"warning: the runs may cost {budget / target:,.3g} times the target, which is hardly what they are for: {way}")
    if says_target:
        say(says_target)
    if given.fitted is None:
        say("nothing is fitted: deviations and regrets are of the laws' start ranges, rough, and good for comparing designs only")


def _write(answer: NextRuns, asked: Asked, given: Given, *, target: float, unique: float) -> None:
    """Write a design as a sweep.toml, with what it is for at its head, and say what is next.

    Args:
        answer: the design.
        asked: its options.
        given: what it was made from.
        target: FLOPs of the recommendation.
        unique: distinct specialist tokens at the target.
    """
    from planner.artifacts import write_text
    from planner.fit.source import tables_of
    from planner.next_runs.write import sweep_toml

    out, setting, law, fitted = asked.out, given.setting, given.law_path, given.fitted
    assert given.corpus is not None  # as `gather` has checked
    text_there_is = f" with {format_count(unique)} distinct specialist tokens" if setting.special else ""
    notes = [
        f"Designed by plan sweep design: {answer.design.cells} endpoints, {answer.design.flops:.4g} FLOPs as a tree,",
        f"for a recommendation at {target:.3g} FLOPs{text_there_is} (criterion {asked.criterion}, "
        + (f"beside the runs of {law})." if law else "nothing fitted)."),
    ]
    place = os.path.relpath(given.corpus.resolve(), out.resolve().parent)
    text = sweep_toml(
        answer.cells, setting.recipe, name=out.resolve().parent.name, corpus=place, domain=given.domain, unique_available=setting.unique_available,
        eval_tokens=setting.eval_tokens, notes=notes,
    )  # fmt: skip
    write_text(out, text)
    named = out.name == "sweep.toml"
    say(f"written: {out}; next: plan sweep plan {shlex.quote(str(out.parent)) if named else 'FOLDER, with this file in it as sweep.toml'}")
    tables = tables_of(law, fitted.source) if law is not None and fitted is not None and fitted.source.get("recipe") else []
    if named and tables and all(table.is_file() for table in tables):
        folders = [table.parent if table.name == "runs.csv" else table for table in tables]
        options = [f"--with {shlex.quote(str(path))}" for path in (*folders[1:], out.parent)]
        options += [f"--keep {shlex.quote(flag)}" for flag in (fitted.source.get("kept_flags", ()) if fitted else ())]
        say(f"once they are trained, fit them together with those of the law: plan fit {shlex.quote(str(folders[0]))} {' '.join(options)}")


def _consistent(prior: bool, law: Path | None, form: list[str] | None, check: bool, name: str | None, flops: str | None, share: float) -> None:
    """Refuse options that contradict each other, and the lack of what is needed.

    Raises:
        InputError: with the option's name.
    """
    if prior and law is not None:
        raise InputError(f"--prior and --law {law} exclude each other", remedy="leave one out")
    if form and not prior:
        raise InputError(f"--form {form[0]} is for designs with nothing fitted", remedy="add --prior, or leave it out")
    if check and name is None:
        raise InputError("--check judges a sweep's own cells, and no sweep is named", remedy="name the sweep")
    if check == (flops is not None):
        what = f"--flops {flops} says nothing with --check" if check else "no --flops: the budget of the runs is needed"
        raise InputError(what, remedy="leave it out" if check else "give one such as --flops 1e14")
    if not 0 <= share < 1:
        raise InputError(f"--trunk-share {share:g} is not a share", remedy="give a number from 0 to below 1")
