"""`plan fit`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.console import bar, say
from planner.cli.runs_tables import check_params_kind, column_mapping, give_documents, tables_and_further
from planner.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from pandas import DataFrame

    from planner.fit.data import FitData
    from planner.fit.fitted import FittedLaw

HELP = (
    "Fit a law to a runs table, with intervals; write law.json and figures.\n\n"
    "Example: plan fit sweeps/\n\n"
    "Example: plan fit sweeps/medicine --law auto --bootstrap 1000 --profile\n\n"
    "Example: plan fit sweeps/medicine --target general\n\n"
    "Example: plan fit mine --with next\n\n"
    "Example: plan fit sweeps/medicine/lora --method lora\n\n"
    "Example: plan fit my_runs.csv --map params_non_embedding=N --map tokens_pt=D --map loss_spec=loss"
)

MANY_FLAGGED = 0.15
"""Share of the runs with one flag above which a warning is given."""


def fit(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A sweep's folder, the folder sweeps/, or a table of runs (CSV, JSON Lines, parquet).")],
    law: Annotated[str, typer.Option(help="A law by name (plan laws), several joined by commas, or auto: the best by held-out error.")] = "auto",
    target: Annotated[str, typer.Option(help="Held-out loss to fit: spec, or general (for forgetting).")] = "spec",
    method: Annotated[
        str, typer.Option(help="Method of the runs to fit: full, lora, qlora, lora-both or qlora-both; a law covers one.")
    ] = "full",
    together: Annotated[
        list[Path] | None, typer.Option("--with", help="Another sweep folder or table of runs, fitted together with the first; repeatable.")
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="OURS=THEIRS: the table's name for one of our columns, such as tokens_pt=D; repeatable.")
    ] = None,
    params_kind: Annotated[
        str, typer.Option(help="Which parameters N counts: non_embedding, total, or auto: whichever forecasts better, or both.")
    ] = "auto",
    keep: Annotated[list[str] | None, typer.Option(help="Fit rows with this flag, such as short_stage, which are otherwise left out; repeatable.")] = None,
    resamples: Annotated[
        int, typer.Option("--bootstrap", "--resamples", min=20, max=100000, help="Number of bootstrap refits, resampling whole trunks.")
    ] = 400,
    resampling: Annotated[
        str, typer.Option(help="Weights of trunks in the refits: multinomial, fractional, or auto: by the number of trunks per size.")
    ] = "auto",
    profile: Annotated[bool, typer.Option("--profile", help="Show profile-likelihood intervals beside those of the resamples.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and resamples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write the law; beside the table by default: law.json, law_lora.json and so on.")] = None,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Fit a law."""
    import planner.fit.fit  # noqa: F401  # before what is imported is frozen
    from planner.cli.helpers import helpers
    from planner.fit.data import TARGETS
    from planner.fit.resample import SCHEMES
    from planner.method import METHODS

    check_params_kind(params_kind)
    # Target and method become part of the file's name; a typo in --resampling would otherwise be reported only after all laws are scored.
    for option, value, known in (("target", target, TARGETS), ("method", method, METHODS), ("resampling", resampling, SCHEMES)):
        if value not in known:
            raise InputError(f"--{option} {value!r} is not known", remedy=f"choose one of {', '.join(known)}")
    tables, further = tables_and_further(path, together or [], out)
    if figures and (target != "spec" or method != "full"):
        figures = False
        say("no figures: they are drawn only for the specialist loss in full training")
    options = _Options(law, target, method, mapping or [], params_kind, tuple(keep or ()), resamples, resampling, profile, seed, figures, as_json)
    documents = []
    drawn: dict[Path, Future[None] | None] = {}
    gc.freeze()  # as in `helpers`
    with helpers(context, drawing=figures) as pool:
        for runs in tables:
            place = out or runs.with_name(options.file_name)
            pictures, document = _fit_table(runs, further, place, options, str(runs) if len(tables) > 1 else "", pool)
            drawn |= pictures
            documents.append(document)
            say(f"written: {place}")
        for picture, drawing in drawn.items():  # while the next table was fitted
            if drawing is not None:
                drawing.result()
            say(f"written: {picture}")
    if as_json:
        give_documents(documents)


@dataclass(frozen=True)
class _Options:
    """Options of a fit, the same for every table; see `fit`."""

    law: str
    target: str
    method: str
    mapping: Sequence[str]
    params_kind: str
    keep: tuple[str, ...]
    resamples: int
    resampling: str
    profile: bool
    seed: int
    figures: bool
    as_json: bool

    @property
    def file_name(self) -> str:
        """Name of the law's file: law.json, law_general.json, law_lora.json and so on."""
        parts = [part for part, usual in ((self.target, "spec"), (self.method, "full")) if part != usual]
        return "_".join(["law", *parts]) + ".json"


def _fit_table(
    runs: Path, further: Sequence[Path], place: Path, options: _Options, name: str, pool: Executor | None
) -> tuple[dict[Path, Future[None] | None], Any]:
    """Fit a law to one table, write it, and print it or read it back for --json.

    Args:
        runs: the table.
        further: tables fitted together with it.
        place: file of the law.
        options: of the fit.
        name: of the table in what is printed, where there are several.
        pool: helper processes.

    Returns:
        The figures by path, each with what is still being drawn, and the document for --json, None without it.
    """
    from planner.artifacts import read_json
    from planner.cli.fit_tables import show, show_profiles
    from planner.cli.paths import apart, replaceable
    from planner.fit.data import fit_data
    from planner.fit.fit import fit as fit_law
    from planner.fit.fit_early import with_early
    from planner.fit.fitted import KIND
    from planner.fit.source import digests, source_of
    from planner.runs import read_together

    frame = read_together([runs, *further], column_mapping(options.mapping))
    apart(place, runs, *further)
    replaceable(place, KIND)
    for picture in _pictures(place) if options.figures else ():
        replaceable(picture)
    data = fit_data(frame, keep=options.keep, target=options.target, method=options.method)
    _say_kept_out(frame, data, options.method, f" of {name}" if name else "")
    kinds = _params_kinds(data, options.params_kind)
    _warn_of_many_flagged(frame, options.keep)
    source = source_of(runs, frame, data, place, method=options.method, keep=options.keep, further=further)
    with bar(f"fit of {runs}", 1.0) as shown:
        fitted = fit_law(
            data, options.law, params_kinds=kinds, resamples=options.resamples, scheme=options.resampling, seed=options.seed, source=source,
            progress=shown.tell, pool=pool,
        )  # fmt: skip
    fitted = with_early(fitted, frame, options.keep, options.seed)
    fitted.save(place, digests(runs, further))
    drawn = _draw(fitted, data, place, pool) if options.figures else {}
    if options.as_json:
        return drawn, read_json(place)
    show(fitted, name)
    if options.profile:
        show_profiles(fitted, data)
    return drawn, None


def _say_kept_out(frame: DataFrame, data: FitData, method: str, of: str) -> None:
    """Print which runs of a table the law does not cover."""
    if data.of_others:
        others = ", ".join(sorted({*frame["method"]} - {method}))
        say(f"kept out of the fit{of}: {data.of_others} run{'s' if data.of_others > 1 else ''} of another method ({others}), which --method fits")
    if data.replaying:
        what = f"{data.replaying} run{'s' if data.replaying > 1 else ''} with replayed general text, which no law of the specialist loss describes"
        say(f"kept out of the fit{of}: {what}; --target general fits such runs")


def _params_kinds(data: FitData, asked: str) -> tuple[str, ...]:
    """Return the conventions of N to fit.

    Raises:
        InputError: the column of the convention asked for is missing or has gaps.
    """
    from planner.fit.data import PARAMS_KINDS

    kinds = tuple(data.params_by) if asked == "auto" else (asked,)
    if not set(kinds) <= set(data.params_by):
        raise InputError(f"the column {PARAMS_KINDS[asked]} is missing or has gaps", remedy="fill it, or choose the other --params-kind")
    return kinds


def _warn_of_many_flagged(frame: DataFrame, keep: Sequence[str]) -> None:
    """Warn of flags by comparison that keep a large share of the runs out."""
    from planner.flags import COMPARED, flagged

    for flag, named in flagged(frame).items():
        if flag in COMPARED and flag not in keep and len(named) > MANY_FLAGGED * len(frame):
            what = f"{len(named)} of {len(frame)} runs are flagged {flag} and kept out, too many to be isolated bad runs"
            say(f"warning: {what}; check them, or include them with --keep {flag}")


def _draw(law: FittedLaw, data: FitData, place: Path, pool: Executor | None) -> dict[Path, Future[None] | None]:
    """Draw the figures, in a helper process if there is one: importing matplotlib here would take longer than drawing them there.

    Returns:
        Their paths, each with what is still being drawn.
    """
    from planner.report.fit_page import holdout_page, slices_page

    slices, unseen = _pictures(place)
    pages = {slices: partial(slices_page, place, data, slices)}
    if law.holdout:
        pages[unseen] = partial(holdout_page, place, unseen)
    if pool is None:
        for draw in pages.values():
            draw()
        return dict.fromkeys(pages)
    return {path: pool.submit(draw) for path, draw in pages.items()}


def _pictures(place: Path) -> tuple[Path, Path]:
    """Return the paths of a law file's figures; except for law.json they include its name, so that no law overwrites another's figures."""
    folder, other = place.parent / "figures", "" if place.stem == "law" else f"_{place.stem}"
    return folder / f"law{other}.png", folder / f"holdout{other}.png"
