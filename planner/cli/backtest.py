"""`plan backtest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import bar, say
from planner.cli.runs_tables import check_params_kind, column_mapping, give_documents, tables_and_further
from planner.cli.tables import table
from planner.units import GROUPED, format_count, parse_flops

if TYPE_CHECKING:
    from planner.backtest import Backtest

HELP = (
    "Replay history: at each compute cut-off fit the runs below, forecast those above, and report the regret of the law's choices among runs of equal "
    "compute; write backtest.json and a figure.\n\n"
    "Example: plan backtest sweeps/\n\n"
    "Example: plan backtest sweeps/medicine --law gap-competing --cutoffs 1.2e12,2e12\n\n"
    "Example: plan backtest theirs.csv --map params_non_embedding=N --map tokens_pt=D --map loss_spec=loss"
)


def backtest(
    path: Annotated[Path, typer.Argument(help="A sweep's folder, the folder sweeps/, or a table of runs (CSV, JSON Lines, parquet).")],
    law: Annotated[
        str, typer.Option(help="A law by name (plan laws), several joined by commas, or auto: selected at each cut-off from the runs below it.")
    ] = "auto",
    together: Annotated[
        list[Path] | None, typer.Option("--with", help="Another sweep folder or table of runs, taken together with the first; repeatable.")
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="OURS=THEIRS: the table's name for one of our columns, such as tokens_pt=D; repeatable.")
    ] = None,
    params_kind: Annotated[
        str, typer.Option(help="Which parameters N counts: non_embedding, total, or auto: whichever forecasts better, or both.")
    ] = "auto",
    cutoffs: Annotated[str | None, typer.Option(help="Cut-offs in FLOPs, separated by commas; by default gaps near 30, 40, … 80 % of the runs.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Include rows with this flag, such as short_stage, which are otherwise left out; repeatable.")
    ] = None,
    resamples: Annotated[
        int, typer.Option("--bootstrap", "--resamples", min=20, max=100000, help="Number of bootstrap refits, resampling whole trunks.")
    ] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and resamples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write the result; backtest.json beside the table by default.")] = None,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw the figure.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Replay history."""
    from planner.artifacts import read_json
    from planner.backtest import KIND
    from planner.backtest import backtest as replay
    from planner.cli.paths import apart, replaceable
    from planner.fit.source import digests
    from planner.runs import read_together

    check_params_kind(params_kind)
    limits = [parse_flops(text) for text in ([cutoffs] if GROUPED.match(cutoffs) else cutoffs.split(","))] if cutoffs else []
    tables, further = tables_and_further(path, together or [], out)
    kinds = () if params_kind == "auto" else (params_kind,)
    documents = []
    for runs in tables:
        target = out or runs.with_name("backtest.json")
        apart(target, runs, *further)
        replaceable(target, KIND)
        picture = target.parent / "figures" / f"{target.stem}.png"
        if figures:
            replaceable(picture)
        frame = read_together([runs, *further], column_mapping(mapping or []))
        with bar(f"backtest of {runs}", 1.0) as shown:
            result = replay(
                frame, law, params_kinds=kinds, cutoffs=limits, keep=tuple(keep or ()), resamples=resamples, seed=seed,
                progress=shown.tell,
            )  # fmt: skip
        result.save(target, digests(runs, further))
        written = [target]
        if figures:
            from planner.report.backtest import page

            written.append(picture)
            page(picture, result)
        if as_json:
            documents.append(read_json(target))
        else:
            show(result, str(runs) if len(tables) > 1 else "")
        for item in written:
            say(f"written: {item}")
    if as_json:
        give_documents(documents)


def show(result: Backtest, name: str = "") -> None:
    """Print a backtest as a table, below the name of its runs where there are several."""
    from planner.decisions import PLAN

    rules = [way for way in next((item.regret_percent for item in result.cutoffs if item.decisions), {}) if way != PLAN]
    rows = []
    for item in result.cutoffs:
        found = item.summary()
        errors = [f"{found[name]:.2f}" for name in ("mean_absolute_percent", "worst_percent")]
        regrets = ["", ""]
        if item.decisions:
            regrets = [f"{item.regret_percent[PLAN]:.2f}", f"{item.worst_regret_percent[PLAN]:.2f}", *(f"{item.regret_percent[way]:.2f}" for way in rules)]
        factor = f"{item.factor:.3g}×" if item.factor < 100 else f"{item.factor:,.0f}×"
        rows.append(
            [f"{item.flops:.3g}", item.rows_below, found["rows_above"], factor, *errors, f"{found['bias_percent']:+.2f}", f"{item.coverage:.0%}",
             len(item.decisions), *regrets]
        )  # fmt: skip
    columns = ["FLOPs", "below", "above", "up to", "error %", "worst", "bias", "inside", "choices", PLAN, "its worst"]
    columns += [way.replace("special text", "specialist text") for way in rules]
    noise = "no seeds are repeated, so how much of the regret is noise is not known" if result.seed_percent is None else (
        f"seed noise is {result.seed_percent:.2f} % of the loss: a regret of that size is not significant"
    )  # fmt: skip
    caption = (
        "up to: FLOPs of the largest run over those of the largest fitted run; error: mean absolute forecast error [% of the loss]\n"
        "inside: share of the runs above inside their 90 % interval; choices: decisions among at least 3 runs of equal compute and text\n"
        "then the mean regret of each way to choose [% of the best run's loss]; in hindsight: by the law fitted to all runs\n" + noise
    )
    of = f"{name}: " if name else ""
    table(f"{of}Laws fitted to the runs up to a cut-off, tested on those above", columns, rows, caption=caption)
    for item in result.cutoffs:
        if item.flagged:
            sound = item.summary()["unflagged_mean_absolute_percent"]
            count = "1 run is flagged because of its" if item.flagged == 1 else f"{item.flagged} runs are flagged because of their"
            without = "" if sound is None else f"; without them the error is {sound:.2f} %"
            say(f"above {item.flops:.3g} FLOPs: {count} loss, which was unknown at decision time, so they count here{without}")
        say(f"below {item.flops:.3g} FLOPs: {', '.join(item.laws)}" + "".join(f"; {note}" for note in item.notes))
    for gap in result.skipped:
        say(f"not replayed: {gap.flops:.3g} FLOPs with {format_count(gap.rows_below)} runs below: {gap.reason}")
