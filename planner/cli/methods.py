"""`plan methods`: two ways to train a run, side by side."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import give, say
from planner.cli.sizes import read_counts
from planner.cli.tables import table
from planner.errors import DataError, InputError
from planner.units import format_count, parse_count

if TYPE_CHECKING:
    from planner.allocate.crossing import Crossing
    from planner.fit.fitted import FittedLaw
    from planner.recipe import Recipe
    from planner.shapes import ModelShape

HELP = (
    "Compare the laws of two methods, such as full training and LoRA, and show where they cross.\n\n"
    "Example: plan methods sweeps/medicine/lora/law.json sweeps/medicine/lora/law_lora.json --general-tokens 820k --spec-tokens 50k,200k"
)
MOST_PANELS = 12
"""Of a figure."""


def methods(
    law: Annotated[Path, typer.Argument(help="Law of the first method, as plan fit wrote it.")],
    other: Annotated[Path, typer.Argument(help="Law of the second, fitted to the same table with plan fit --method.")],
    params: Annotated[str | None, typer.Option(help="Sizes, such as 20k,80k; by default the smallest, middle and largest of the runs.")] = None,
    general_tokens: Annotated[str | None, typer.Option(help="General tokens before the specialist stage; by default the most of any run.")] = None,
    spec_tokens: Annotated[
        str | None, typer.Option(help="Distinct specialist tokens, such as 50k,200k; by default the fewest and the most of the runs.")
    ] = None,
    equal_flops: Annotated[bool, typer.Option("--equal-flops", help="Compare at equal FLOPs instead of equal specialist tokens.")] = False,
    figure: Annotated[Path | None, typer.Option(help="PNG file to draw, with the laws' runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two methods."""
    from planner.allocate.crossing import crossing
    from planner.cli.paths import replaceable
    from planner.fit.fitted import FittedLaw
    from planner.ladder import shape_for
    from planner.recipe import Recipe

    if figure is not None:
        replaceable(figure)
    laws = FittedLaw.load(law), FittedLaw.load(other)
    low, high = laws[0].support.low, laws[0].support.high
    source = laws[0].source
    if not source.get("recipe") or not source.get("vocab_size"):
        raise InputError(f"the law {law} records no recipe", remedy="fit it to the runs.csv of a sweep")
    recipe = Recipe.from_mapping(source["recipe"])
    middle = (low["params"] * high["params"]) ** 0.5
    sizes = [*read_counts(params)] if params else [low["params"], middle, high["params"]]
    before = parse_count(general_tokens) if general_tokens else high["tokens_pt"]
    texts = [*read_counts(spec_tokens)] if spec_tokens else sorted({low["unique_spec"], high["unique_spec"]})
    found = []
    for size in sizes:
        shape = shape_for(size, family=recipe.family, vocab=source["vocab_size"])
        for unique in texts:
            least, most = (max(one.support.low["tokens_spec"] for one in laws), min(one.support.high["tokens_spec"] for one in laws))
            most = min(most, unique * high["epochs_spec"])
            _near(laws, shape, recipe, before, most, unique)
            found.append(crossing(*laws, shape, tokens_pt=before, unique_spec=unique, least=least, most=most, equal_flops=equal_flops))
    if as_json:
        give([asdict(item) for item in found])
    else:
        show(found)
    if figure is not None:
        _draw(figure, found, (law, other))
        if len(found) > MOST_PANELS:
            say(f"warning: the figure has the first {MOST_PANELS} of {len(found)} comparisons; select with --params and --spec-tokens")
        say(f"written: {figure}")


def _near(laws: tuple[FittedLaw, FittedLaw], shape: ModelShape, recipe: Recipe, before: float, spec: float, unique: float) -> None:
    """Warn how far a comparison lies outside the runs.

    Raises:
        DataError: too far for a comparison.
    """
    from planner.allocate.extrapolation import AXIS_NAMES, TOO_FAR, outside

    factors: dict[str, float] = {}
    for law in laws:
        general = recipe.method(str(law.source.get("method", "full"))).general
        flops = (before + spec) * general.flops_per_token(shape, recipe.seq_len)
        for name, value in law.support.factors(shape.params_non_embedding, before, spec, unique, flops).items():
            if name in AXIS_NAMES:
                factors[name] = max(factors.get(name, 1.0), float(value))
    said = outside(factors)
    if not said:
        return
    who = f"{format_count(shape.params_non_embedding)} parameters with {format_count(unique)} distinct tokens"
    if max((factor for factor in factors.values() if isfinite(factor)), default=1.0) > TOO_FAR:
        raise DataError(f"{who} lie too far outside the runs to be compared: {said}; the limit is {TOO_FAR:g}×", remedy="stay nearer, or train runs there")
    say(f"warning: extrapolation: {who}: {said}")


def show(found: list[Crossing]) -> None:
    """Print where the laws cross."""
    first, second = found[0].names
    rows = []
    for item in found:
        change = 100 * (item.loss[1][0] / item.loss[0][0] - 1)
        where = "no" if item.crossing is None else format_count(item.crossing)
        interval = "" if item.low is None or item.high is None else f"{format_count(item.low)} to {format_count(item.high)}"
        rows.append([
            format_count(item.params_non_embedding), format_count(item.unique_spec), f"{format_count(item.tokens[0])} to {format_count(item.tokens[-1])}",
            f"{change[0]:+.1f} to {change[-1]:+.1f} %", where, interval, f"{item.crossed:.0%}", f"{item.better[0]:.0%} to {item.better[-1]:.0%}",
        ])  # fmt: skip
    change_of, better = f"{second} against {first}", f"{second} better"
    columns = ["parameters", "distinct text", "specialist tokens", change_of, "cross at", "90 %", "resamples that cross", better]
    basis = "at equal FLOPs" if found[0].equal_flops else "at equal tokens"
    caption = (
        f"{second} against {first}: change of the loss at the fewest and the most tokens, positive where {second} is worse; cross at: specialist tokens; "
        f"{second} better: share of the resamples, at the fewest and the most tokens"
    )
    table(f"{first} and {second} {basis}, after {format_count(found[0].tokens_pt)} general tokens", columns, rows, caption=caption)


def _draw(path: Path, found: list[Crossing], laws: tuple[Path, Path]) -> None:
    from planner.fit.data import fit_data
    from planner.fit.fitted import FittedLaw
    from planner.fit.source import tables_of
    from planner.report.methods import methods as draw
    from planner.report.style import save
    from planner.runs import read_together

    frames = [read_together(tables_of(law, FittedLaw.load(law).source)) for law in laws]
    data = [fit_data(frame, method=name) for frame, name in zip(frames, found[0].names, strict=True)]
    chosen = found[:MOST_PANELS]
    texts = len({item.unique_spec for item in chosen})

    def panels(axes: object) -> None:
        for axis, item in zip(axes, chosen, strict=True):  # type: ignore[call-overload]
            draw(axis, item, data)

    save(path, panels, panels=len(chosen), columns=texts, width=4.4, height=3.6)
