"""`plan sweep design`."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.console import bar, give, say
from planner.cli.decision import Decision, read_decision
from planner.cli.design_tables import show
from planner.cli.sizes import read_counts
from planner.errors import DataError, InputError, StateError
from planner.units import format_count, parse_count, parse_flops

if TYPE_CHECKING:
    from planner.design.spec import SweepSpec
    from planner.fit.fitted import FittedLaw
    from planner.next_runs.candidates import Setting
    from planner.next_runs.design import NextRuns

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
EPOCHS = 16.0
"""Most passes, where neither the sweep nor a law says."""
BARE = 1
"""Vocabulary of what a table without a recipe tells of: its N leaves embedding and output out, and so do costs."""


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
    _design(
        name, flops, question, law=law, prior=prior, form=form, target_flops=target_flops, spec_tokens=spec_tokens, criterion=criterion, share=share,
        axes={"sizes": sizes, "tokens_pt": tokens_pt, "tokens_spec": tokens_spec, "unique_spec": unique_spec}, max_epochs=max_epochs, corpus=corpus,
        seed=seed, check=check, out=out, dry_run=dry_run, as_json=as_json,
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
    _design(sweep, f"{flops:.17g}", question, share=TRUNK_SHARE, dry_run=True, whatever=whatever)


def _design(
    name: str | None, flops: str | None, question: Decision | None, *, share: float, law: Path | None = None, prior: bool = False,
    form: Sequence[str] | None = None, target_flops: str | None = None, spec_tokens: str | None = None, criterion: str = "V",
    axes: Mapping[str, str | None] | None = None, max_epochs: float | None = None, corpus: Path | None = None, seed: int | None = None,
    check: bool = False, out: Path = Path("next/sweep.toml"), dry_run: bool = False, as_json: bool = False, whatever: bool = False,
) -> None:  # fmt: skip
    """Design, print and write, as the options of `design` say, for a question where there is one."""
    from planner.allocate.allocation import NOTHING
    from planner.allocate.request import Request
    from planner.cli.paths import law_file, sweep_folder
    from planner.design.spec import read_sweep
    from planner.fit.fitted import FittedLaw
    from planner.laws import law_named
    from planner.next_runs.belief import FORMS, stages_of
    from planner.next_runs.candidates import Candidates, least_size, long_enough
    from planner.next_runs.design import Stakes, affordable, design_runs, judge, no_runs, without_overfitted
    from planner.next_runs.outside import Outside, refuse_too_small

    # The limits of a question are the plan's: runs may pass over their text more often, and tell of it.
    decided, general = (question.request, question.general) if question else (None, None)
    law = question.law if question else law
    sweep = read_sweep(sweep_folder(name)) if name else None
    if sweep is not None and sweep.bases:
        raise InputError(f"sweep {sweep.name} starts from checkpoints, and no design chooses among those", remedy="state its cells in sweep.toml")
    where = None
    if not prior:
        beside = sweep.folder / "law.json" if sweep else None
        try:
            where = law_file(beside if law is None and beside is not None and beside.is_file() else law)
        except InputError as error:
            if law is not None:
                raise
            raise InputError(error.message, remedy=f"{error.remedy}, or --prior where nothing is fitted yet") from error
    fitted = FittedLaw.load(where) if where else None
    laws = [member.law for member in fitted.members] if fitted else [law_named(item) for item in form or FORMS]
    stages = stages_of(laws)
    setting, folder, domain = _setting(sweep, fitted, where, corpus, max_epochs, seed, stages)
    if folder is None and not (dry_run or check):
        raise InputError("nothing says which corpus the runs train on", remedy="name a sweep, give --corpus FOLDER, or only look with --dry-run")
    if decided is not None:
        unique = decided.unique_spec
    else:
        unique = parse_count(spec_tokens) if spec_tokens else setting.unique_available if setting.special else 1.0
    if check:
        assert sweep is not None
        cells, _ = sweep.cells(setting.vocab, setting.unique_available)
        given, budget = long_enough(cells, setting), math.nan
        if len(given) < len(cells):
            say(f"left out: {len(cells) - len(given)} cells with fewer steps than ten times the warm-up, which no fit uses")
        if fitted:
            say("the cells are counted beside the rows of the law, as a second copy where it was fitted to this very sweep; --prior counts them alone")
    else:
        assert flops is not None
        budget = parse_flops(flops)
        chosen = {key: [*read_counts(text)] if text else None for key, text in (axes or {}).items()}
        smallest = least_size(fitted) if fitted else 0.0
        given = affordable(setting, budget, laws, fitted is not None, unique_target=unique, smallest=smallest, **chosen)
        given = without_overfitted(given, fitted) if fitted else given
        if not dry_run and out.exists():
            raise StateError(f"{out} exists", remedy="name another file with --out, or delete it")
    largest = seen = fitted.support.high["flops"] if fitted else 0.0
    if fitted is None or budget > TARGET_FACTOR * seen:  # runs dearer than a plan are not for it: then the plan is one beyond them
        largest = max(seen, float(given.cost.alone.max()))
    if decided is None:
        decided = Request(parse_flops(target_flops) if target_flops else TARGET_FACTOR * largest, unique)
    target = decided.flops
    region = None
    if question is not None and question.bases and question.method is not None and fitted is not None:
        from planner.next_runs.bases import refuse_unreachable, target_of_bases

        region = target_of_bases(fitted, decided, question.bases, question.method, general)
        refuse_unreachable(region, given, fitted)
    stakes = Stakes.of(given, fitted, decided, criterion=criterion, share=share, forms=tuple(form or FORMS), general=general, target=region)
    told = {"criterion": criterion, "candidates": len(given), "target_flops": target, "unique_spec": unique, "trunk_share": share}
    if question is not None and criterion == "V" and not whatever and (none := no_runs(stakes)) is not None:
        if as_json:
            give({**asdict(none), **told})
        for why in none.warnings:
            say(why)
        return
    with bar("design", 1.0) as shown:
        answer = judge(stakes) if check else design_runs(stakes, budget, fitted=fitted is not None, progress=lambda what, done: shown.update(done, what))
    outside = None
    if fitted is not None:
        runs = Candidates(answer.cells, setting)
        refuse_too_small(fitted, runs, spread=not check and not (axes or {}).get("sizes"))
        outside = Outside.of(fitted, runs, stakes.target)
        idle = ["no run would change this decision: these runs would narrow its forecast alone"] if answer.before.regret_percent < NOTHING else []
        answer = replace(answer, warnings=(*answer.warnings, *idle, *outside.warnings()))
    if as_json:
        leaning = {"outside": asdict(outside)} if outside else {}
        give({**asdict(answer), **leaning, **told})
    else:
        show(answer, target, unique, setting.general, setting.special, outside)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    if general is not None:
        say("the limit on the general loss is taken as its law has it: no design asks what runs would say about that")
    if budget > target:
        way = "name yours with --target-flops" if question is None else "give them fewer FLOPs"
        say(f"warning: the runs may cost {budget / target:,.3g} times the target, which is hardly what they are for: {way}")
    if not target_flops and question is None:
        what = "that the law has seen" if largest == seen else "to choose from"
        say(f"target: {target:.3g} FLOPs, {TARGET_FACTOR:g} times the largest run {what}; change it with --target-flops")
    if fitted is None:
        say("nothing is fitted: deviations and regrets are of the laws' start ranges, rough, and good for comparing designs only")
    if check:
        return
    say(f"chosen from {len(given)} candidates; all trunks are trained anew, with seed {setting.seed}: states of earlier sweeps are not counted on")
    if not dry_run:
        assert folder is not None
        _write(out, answer, setting, folder, domain, target=target, unique=unique, criterion=criterion, law=where, fitted=fitted)


def _write(
    out: Path, answer: NextRuns, setting: Setting, corpus: Path, domain: str | None, *, target: float, unique: float, criterion: str, law: Path | None,
    fitted: FittedLaw | None,
) -> None:  # fmt: skip
    """Write a design as a sweep.toml, with what it is for at its head, and say what is next.

    Args:
        out: the file.
        answer: the design.
        setting: what the runs have in common.
        corpus: folder of the corpus.
        domain: specialist domain, None where the corpus has one.
        target: FLOPs of the recommendation.
        unique: distinct specialist tokens at the target.
        criterion: that it was chosen by.
        law: beside whose runs; None where nothing is fitted.
        fitted: what it holds.
    """
    from planner.artifacts import write_text
    from planner.fit.source import tables_of
    from planner.next_runs.write import sweep_toml

    text_there_is = f" with {format_count(unique)} distinct specialist tokens" if setting.special else ""
    notes = [
        f"Designed by plan sweep design: {answer.design.cells} endpoints, {answer.design.flops:.4g} FLOPs as a tree,",
        f"for a recommendation at {target:.3g} FLOPs{text_there_is} (criterion {criterion}, "
        + (f"beside the runs of {law})." if law else "nothing fitted)."),
    ]
    place = os.path.relpath(corpus.resolve(), out.resolve().parent)
    text = sweep_toml(
        answer.cells, setting.recipe, name=out.resolve().parent.name, corpus=place, domain=domain, unique_available=setting.unique_available,
        eval_tokens=setting.eval_tokens, notes=notes,
    )  # fmt: skip
    write_text(out, text)
    named = out.name == "sweep.toml"
    say(f"written: {out}; next: plan sweep plan {shlex.quote(str(out.parent)) if named else 'FOLDER, with this file in it as sweep.toml'}")
    tables = tables_of(law, fitted.source) if law is not None and fitted is not None and fitted.source.get("recipe") else []
    if named and tables and all(table.is_file() for table in tables):
        folders = [table.parent if table.name == "runs.csv" else table for table in tables]
        asked = [f"--with {shlex.quote(str(path))}" for path in (*folders[1:], out.parent)]
        asked += [f"--keep {shlex.quote(flag)}" for flag in (fitted.source.get("kept_flags", ()) if fitted else ())]
        say(f"once they are trained, fit them together with those of the law: plan fit {shlex.quote(str(folders[0]))} {' '.join(asked)}")


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


def _last_seed(sweep: SweepSpec | None, source: Mapping[str, Any], where: Path | None) -> int:
    """Return the largest seed of the runs that there are: of those of the law, and those that its sweep and the one that is named state."""
    from planner.design.spec import read_sweep

    if sweep is None and where is not None and "last_seed" not in source and source.get("recipe") and (where.parent / "sweep.toml").is_file():
        sweep = read_sweep(where.parent)  # a law of an earlier version
    stated = [*(cell.seed for cell in sweep.listed), *(number for grid in sweep.grids for number in grid.seeds)] if sweep else []
    return max(0, int(source.get("last_seed", 0)), *stated)


def _setting(
    sweep: SweepSpec | None, law: FittedLaw | None, where: Path | None, corpus: Path | None, max_epochs: float | None, seed: int | None,
    stages: tuple[bool, bool],
) -> tuple[Setting, Path | None, str | None]:  # fmt: skip
    """Gather recipe, corpus and limits from a sweep, a law and the options; return them with the corpus folder, where one is known, and the domain.

    Raises:
        InputError: nothing says how to train, or the law is of runs off open checkpoints.
        DataError: the sweep's recipe is another than the law's.
    """
    from planner.corpus import Corpus
    from planner.design.spec import SweepSpec
    from planner.next_runs.candidates import Setting
    from planner.recipe import Recipe

    source: dict[str, Any] = law.source if law else {}
    if source.get("based"):
        raise InputError(f"the law {where} is of runs off checkpoints, and no design chooses among those", remedy="state their cells in sweep.toml")
    if source.get("method", "full") != "full":
        what = f"the law {where} is of runs with {source['method']}, and no design chooses among methods"
        raise InputError(what, remedy="state their cells in sweep.toml")
    if sweep is None and law is None:
        raise InputError("neither a sweep nor a law is at hand, so nothing says how to train", remedy="name a sweep with its sweep.toml")
    recipe = sweep.recipe if sweep else Recipe.from_mapping(source.get("recipe") or {})
    if sweep is None and not source.get("recipe"):
        say("the law's table names no recipe: the runs are those of the default one, trunks shared; its batches and warm-up say how long they must be")
    if source.get("recipe") and Recipe.from_mapping(source["recipe"]).fingerprint != recipe.fingerprint:
        what = f"the sweep's recipe is not that of the law {where}, and runs of two recipes are never fitted together"
        raise DataError(what, remedy="use one recipe, or --prior")
    folder = corpus or (sweep.corpus if sweep else None)
    if folder is None and where is not None and source.get("corpus_path"):
        folder = Path(os.path.normpath(where.resolve().parent / source["corpus_path"]))
    domain = sweep.domain if sweep else source.get("domain")
    if folder is not None and ((folder / "corpus.json").is_file() or law is None):
        opened = Corpus.open(folder)
        domain = opened.specialist(domain)
        vocab, unique = opened.vocab_size, float(opened.unique_tokens(domain))
    else:
        assert law is not None  # a sweep has a corpus
        vocab, unique = int(source.get("vocab_size") or BARE), law.support.high["unique_spec"]
        known = f"its {format_count(unique)} distinct specialist tokens" if stages[1] else ""
        if folder is not None:
            say(f"{folder} holds no corpus: the law's vocabulary {f'and {known} are' if known else 'is'} taken")
        elif known:
            say(f"no corpus is named: the runs of the law say what text there is, {known}")
    epochs = sweep.max_epochs if sweep and math.isfinite(sweep.max_epochs) else law.support.high["epochs_spec"] if law else EPOCHS
    if max_epochs is not None:
        epochs = max_epochs
        if not (math.isfinite(epochs) and epochs >= 1):
            raise InputError(f"--max-epochs {epochs:g} is not a number from 1", remedy="give one such as 16")
    chosen = seed if seed is not None else _last_seed(sweep, source, where) + 1 if law else 0
    eval_tokens = sweep.eval_tokens if sweep else int(source.get("eval_tokens", SweepSpec.eval_tokens))
    return Setting(recipe, vocab, unique, max(1.0, epochs), eval_tokens, chosen, *stages), folder, domain
