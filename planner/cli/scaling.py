"""`plan scaling`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import give, say
from planner.cli.sizes import read_counts, read_sizes
from planner.cli.tables import table
from planner.errors import InputError
from planner.units import format_count, format_interval, format_number, parse_count, parse_flops

if TYPE_CHECKING:
    from planner.allocate.curves import BreakEven, Optimum, Scaling

HELP = (
    "Show how the best plan changes with the budget: loss, size, tokens and epochs, their exponents, and how much compute more text is worth.\n\n"
    "Example: plan scaling --law sweeps/medicine --spec-tokens 50k,200k,1M\n\n"
    "Example: plan scaling --law sweeps/medicine --from 1e12 --to 1e14 --spec-tokens 200k --max-epochs 4 --figure"
)
MOST_PAIRS = 6
"""Most pairs of amounts in the printed table; the file has all."""
FORM = 1e-3
"""Width of an exponent's interval below which the law's formula fixes it: all refits agree to rounding."""
SYMBOLS = {"params_non_embedding": "N", "tokens_pt": "D_pt", "tokens_spec": "D_spec"}


def scaling(
    spec_tokens: Annotated[
        str | None, typer.Option(help="Distinct specialist tokens, one amount or several: 50k,200k,1M; a single-stage law without repeats needs none.")
    ] = None,
    least: Annotated[str | None, typer.Option("--from", help="Smallest budget [FLOPs]; by default about the law's smallest run.")] = None,
    most: Annotated[str | None, typer.Option("--to", help="Largest budget [FLOPs]; by default 10 times the law's largest run.")] = None,
    points: Annotated[int, typer.Option(help="Number of budgets, evenly spaced in the logarithm.")] = 9,
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; by default the one here, or the only one under sweeps/.")] = None,
    general_tokens: Annotated[str | None, typer.Option(help="Distinct general tokens available; as many as needed by default.")] = None,
    params: Annotated[
        str | None, typer.Option(help="Model size [non-embedding parameters]: fixed (7B), one of a list (1B,3B,8B), or in a range (1B..8B).")
    ] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most epochs over the specialist text; by default the most that the runs cover.")] = None,
    allow_extrapolation: Annotated[bool, typer.Option("--allow-extrapolation", help="Answer even where a plan lies far outside the runs.")] = False,
    out: Annotated[Path, typer.Option(help="Where to write the curves.")] = Path("scaling.json"),
    figure: Annotated[bool, typer.Option("--figure/--no-figure", help="Draw the curves beside it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show how the best plan changes with the budget."""
    from planner.allocate.curves import KIND
    from planner.allocate.request import Request
    from planner.allocate.scaling import budget_range
    from planner.allocate.scaling import scaling as follow
    from planner.artifacts import read_json, sha256_file
    from planner.cli.paths import apart, law_file, replaceable
    from planner.fit.fitted import FittedLaw

    found, picture = law_file(law), out.with_suffix(".png")
    apart(out, found)
    replaceable(out, KIND)
    if figure:
        apart(picture, out)
        replaceable(picture)
    fitted = FittedLaw.load(found)
    if spec_tokens is None and (fitted.one_corpus or fitted.members[0].law.knows_special):
        raise InputError("the amount of specialist text is not given", remedy="give --spec-tokens, one amount or several")
    amounts = read_counts(spec_tokens or "1")  # a single-stage law without repeats ignores it
    first, last = (parse_flops(value) if value else None for value in (least, most))
    fixed, between, among = read_sizes(params)
    general = parse_count(general_tokens) if general_tokens else None
    # Its own budget is not used.
    limits = Request(first or last or fitted.support.high["flops"], amounts[0], fixed, max_epochs, general, between, among)
    budgets = budget_range(fitted, amounts, limits, least=first, most=last, points=points)
    answer = follow(fitted, budgets, amounts, limits, allow_extrapolation=allow_extrapolation)
    answer.save(out, {"law": sha256_file(found)})
    if as_json:
        give(read_json(out))
    else:
        show(answer)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    say(f"written: {out}")
    if figure:
        from planner.report.scaling import draw
        from planner.report.style import save

        save(picture, lambda axes: draw(axes, answer), panels=2, height=4.8)
        say(f"written: {picture}")


def show(answer: Scaling) -> None:
    """Print the curves as tables."""
    budgets = answer.request["budgets"]
    general, special = answer.takes("tokens_pt"), answer.takes("tokens_spec")
    taken = ["tokens_pt"] * general + ["tokens_spec"] * special
    for curve in answer.curves:
        found = [{"budget": f"{flops:.3g}", **_optimum(item, taken)} for flops, item in zip(budgets, curve.optima, strict=True)]
        columns, rows = list(found[0]), [list(row.values()) for row in found]
        about = "90 % intervals: of the loss, for one run; of the plan, over each resample's best. beyond: factor outside the runs, on the farthest axis"
        table("Best plans" + (f" with {format_count(curve.unique_spec)} distinct specialist tokens" if special else ""), columns, rows, caption=about)
    rows = []
    for curve in answer.curves:
        for item in curve.exponents:
            if item.quantity not in ["params_non_embedding", *taken]:
                continue
            name = f"{format_count(curve.unique_spec)}: " * special + f"d ln {SYMBOLS[item.quantity]} / d ln C"
            where = f"{item.budgets} of {len(budgets)}"
            if item.value is None:
                rows.append([name, "none", "fewer than 3 budgets not at a limit", "", where, f"{item.resamples_share:.0%}"])
            else:
                span = f"{item.low:.3f} to {item.high:.3f}"
                if item.low is not None and item.high is not None and item.high - item.low < FORM:
                    span += ", by the law's form"
                rows.append([name, f"{item.value:.3f}", span, f"{item.off_percent:.1f} %", where, f"{item.resamples_share:.0%}"])
    about = (
        "off: RMS distance of the plans from the power law, large where it bends; budgets: those at which the quantity is not at a limit; "
        "resamples: share that has a slope"
    )
    if any("form" in row[2] for row in rows):
        about += "; by the law's form: the formula fixes this exponent, so all refits agree and the runs do not measure it"
    table("Exponents of the best plan", ["", "exponent", "90 % interval", "off", "budgets", "resamples"], rows, caption=about)
    if answer.break_evens:
        _show_break_evens(answer)


def _optimum(item: Optimum, taken: Sequence[str]) -> dict[str, str]:
    """Write a plan as columns, with the kinds of tokens that any plan has."""
    plan = item.plan
    known = {name: factor for name, factor in item.extrapolation.items() if factor > 1}
    farthest = max(known, key=lambda name: known[name]) if known else ""
    # Infinite where it lacks a kind of tokens that every run has; a warning says so.
    far = f"{format_number(known[farthest], 2)}×" if farthest and known[farthest] < math.inf else "unmeasured"
    row = {
        "loss [nats/token]": f"{plan.loss:.3f} [{plan.loss_low:.3f}, {plan.loss_high:.3f}]",
        "N": f"{format_count(plan.params_non_embedding)} {format_interval(*item.params_interval)}",
    }
    for name, title in (("tokens_pt", "general tokens"), ("tokens_spec", "specialist tokens")):
        if name in taken:
            row[title] = f"{format_count(getattr(plan, name))} {format_interval(*getattr(item, f'{name}_interval'))}"
    if "tokens_spec" in taken:
        row["epochs"] = "{} [{}, {}]".format(*(format_number(value, 2) for value in (plan.epochs_spec, *item.epochs_interval)))
    return row | {"at a limit": ", ".join(item.limits), "beyond": "" if item.inside else far}


def _show_break_evens(answer: Scaling) -> None:
    """Print how many times the compute the smaller of two amounts needs."""
    amounts = answer.request["amounts"]
    pairs = list(dict.fromkeys((item.unique_less, item.unique_more) for item in answer.break_evens))
    if len(pairs) > MOST_PAIRS:
        pairs = [*zip(amounts, amounts[1:], strict=False)]
    found = {(item.unique_less, item.unique_more, item.flops): item for item in answer.break_evens}
    rows = [[f"{flops:.3g}", *(_factor(found[(*pair, flops)]) for pair in pairs)] for flops in answer.request["budgets"][:-1]]
    columns = ["budget with more", *(f"{format_count(less)} for {format_count(more)}" for less, more in pairs)]
    about = f"90 % interval over the resamples; > and never: not reached up to {answer.request['budgets'][-1]:.3g} FLOPs, the end of this range"
    table("How many times the compute reaches the same loss with less text", columns, rows, caption=about)


def _factor(item: BreakEven) -> str:
    over = f">{format_number(item.most)}"
    if item.low is None:
        return f"{over}×, never"
    low, high = (over if value is None else format_number(value) for value in (item.low, item.high))
    return f"{over if item.factor is None else format_number(item.factor)}× [{low}, {high}]"
