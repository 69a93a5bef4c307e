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
    "With a law (law.json) the new runs are chosen to complement those it was fitted to; with --prior, before any fit, from the laws' start ranges. All\n"
    "trunks are trained anew: states of earlier sweeps are not reused.\n\n"
    "Example: plan sweep design medicine --flops 1e14 --spec-tokens 200k --out next/sweep.toml\n\n"
    "Example: plan sweep design mine --prior --flops 1e18 --target-flops 1e21\n\n"
    "Example: plan sweep design --flops 1e14 --decision allocation.json\n\n"
    "Example: plan sweep design mine --prior --check --target-flops 1e16"
)
TARGET_FACTOR = 100.0
"""Default target: this many times the FLOPs of the law's largest run; of the largest candidate run where nothing is fitted, or where --flops exceeds this
many times the law's largest run."""


def design(
    name: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="Sweep whose recipe and corpus are used; by default the law's.")] = None,
    flops: Annotated[str | None, typer.Option(help="Budget of the runs [FLOPs], such as 1e18; shared trunks count once.")] = None,
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; by default the sweep's, the one here, or the only one under sweeps/.")] = None,
    prior: Annotated[bool, typer.Option("--prior", help="Design before any fit, from the start ranges of --form.")] = False,
    form: Annotated[list[str] | None, typer.Option(help="With --prior: a law by name (plan laws); repeatable.")] = None,
    target_flops: Annotated[
        str | None,
        typer.Option(help=f"Budget of the recommendation; by default {TARGET_FACTOR:g} times the law's largest run, or the largest candidate run."),
    ] = None,
    spec_tokens: Annotated[str | None, typer.Option(help="Distinct specialist tokens at the target; all of the corpus by default.")] = None,
    decision: Annotated[
        Path | None, typer.Option(help="Answer of plan allocate that the runs are for; its law, budget, text, limits and bases are used.")
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(help="What the runs are to narrow. V: contrasts between plans at the target; I: forecasts at the target; D: the law's parameters."),
    ] = "V",
    trunk_share: Annotated[float | None, typer.Option(help="Share of a run's noise variance that is common to its trunk; 0.25 by default.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Sizes to choose from, such as 20k,80k,320k; by default spread up to the largest affordable.")] = None,
    tokens_pt: Annotated[str | None, typer.Option(help="General tokens to choose from, such as 0,1M,4M.")] = None,
    tokens_spec: Annotated[str | None, typer.Option(help="Specialist tokens to choose from.")] = None,
    unique_spec: Annotated[str | None, typer.Option(help="Distinct specialist tokens to choose from.")] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most epochs over the specialist text; by default the sweep's or the law's.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Corpus folder, if neither the sweep nor the law names one.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the runs; with a law by default one above its largest, so that no trunk repeats.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Assess the sweep's own cells instead of choosing new ones.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the design.")] = Path("next/sweep.toml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Design the next runs."""
    from planner.next_runs.information import TRUNK_SHARE

    share = TRUNK_SHARE if trunk_share is None else trunk_share
    _consistent(prior, law, form, check, name, flops, share)
    question = None
    if decision is not None:
        given_too = {"--law": law, "--prior": prior, "--target-flops": target_flops, "--spec-tokens": spec_tokens}
        if doubled := [key for key, value in given_too.items() if value]:
            raise InputError(f"--decision already states {', '.join(doubled)}", remedy="give one or the other")
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
        whatever: whether to propose runs even if they would not change the decision, as where they serve another one.
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
    say(f"chosen from {len(candidates)} candidates; all trunks are trained anew, with seed {seed}: states of earlier sweeps are not reused")
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
    """Return the sweep's own cells, which are only assessed, and NaN for the budget."""
    from planner.next_runs.candidates import long_enough

    sweep, setting = given.sweep, given.setting
    assert sweep is not None
    cells, _ = sweep.cells(setting.vocab, setting.unique_available)
    found = long_enough(cells, setting)
    if len(found) < len(cells):
        say(f"left out: {len(cells) - len(found)} cells with fewer steps than ten times the warm-up, which no fit uses")
    if given.fitted:
        say("the cells are added to the law's runs (counted twice if the law was fitted to this sweep); --prior assesses them alone")
    return found, math.nan


def _affordable(asked: Asked, given: Given, unique: float) -> tuple[Candidates, float]:
    """Return the cells to choose from, and the budget [FLOPs].

    Raises:
        InputError: see `affordable`.
        StateError: the output file exists.
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
    """Return the request whose recommendation the runs are for, and a sentence on its budget where that is the default."""
    from planner.allocate.request import Request

    if asked.question is not None:
        return asked.question.request, ""
    largest = seen = given.fitted.support.high["flops"] if given.fitted else 0.0
    if given.fitted is None or budget > TARGET_FACTOR * seen:  # runs larger than the plan are not meant for it: then the plan is one beyond them
        largest = max(seen, float(candidates.cost.alone.max()))
    if asked.target_flops:
        return Request(parse_flops(asked.target_flops), unique), ""
    target = TARGET_FACTOR * largest
    what = "the law's largest run" if largest == seen else "the largest candidate run"
    return Request(target, unique), f"target: {target:.3g} FLOPs, {TARGET_FACTOR:g} times {what}; change it with --target-flops"


def _stakes(asked: Asked, given: Given, candidates: Candidates, decided: Request) -> Stakes:
    """Return what the runs are judged by: the forecasts and plans at the target, or those of a question's bases.

    Raises:
        InputError: the runs cannot reach a base.
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
    """Add to a design how much it relies on the form of its law outside the runs; without a law nothing is added.

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
    idle = ["no run would change this decision: these runs would only narrow its forecast"] if answer.before.regret_percent < NOTHING else []
    return replace(answer, warnings=(*answer.warnings, *idle, *outside.warnings())), outside


def _say_caveats(answer: NextRuns, asked: Asked, given: Given, budget: float, target: float, says_target: str) -> None:
    """Print a design's warnings, its target, and what it does not account for."""
    for warning in answer.warnings:
        say(f"warning: {warning}")
    if asked.question is not None and asked.question.general is not None:
        say("the general law is taken as exact: a design does not ask what runs would say about the general loss")
    if budget > target:
        way = "set the target with --target-flops" if asked.question is None else "give them fewer FLOPs"
        say(f"warning: the runs may cost {budget / target:,.3g} times the target budget: {way}")
    if says_target:
        say(says_target)
    if given.fitted is None:
        say("nothing is fitted: deviations and regrets come from the laws' start ranges; use them only to compare designs")


def _write(answer: NextRuns, asked: Asked, given: Given, *, target: float, unique: float) -> None:
    """Write a design as a sweep.toml, its purpose in the head, and print the next command.

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
        say(f"once trained, fit them together with the law's runs: plan fit {shlex.quote(str(folders[0]))} {' '.join(options)}")


def _consistent(prior: bool, law: Path | None, form: list[str] | None, check: bool, name: str | None, flops: str | None, share: float) -> None:
    """Refuse options that contradict each other, and missing ones.

    Raises:
        InputError: with the option's name.
    """
    if prior and law is not None:
        raise InputError(f"--prior and --law {law} exclude each other", remedy="leave one out")
    if form and not prior:
        raise InputError(f"--form {form[0]} applies only with --prior", remedy="add --prior, or leave it out")
    if check and name is None:
        raise InputError("--check assesses a sweep's own cells, and no sweep is named", remedy="name the sweep")
    if check == (flops is not None):
        what = f"--flops {flops} has no effect with --check" if check else "no --flops: the budget of the runs is needed"
        raise InputError(what, remedy="leave it out" if check else "give one such as --flops 1e14")
    if not 0 <= share < 1:
        raise InputError(f"--trunk-share {share:g} is not a share", remedy="give a number from 0 to below 1")
