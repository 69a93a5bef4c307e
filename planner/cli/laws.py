"""`plan laws`."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.console import give

HELP = (
    "List the laws that can be fitted: formula, parameters, units, source, when to use.\n\n"
    "Example: plan laws\n\nExample: plan laws gap-competing\n\n"
    "A law of your own is one file with a tuple LAWS, named in the environment variable PLANNER_LAWS; docs/laws.md shows one."
)


def laws(
    name: Annotated[str | None, typer.Argument(help="One law; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """List the laws."""
    from planner.laws import LAWS, law_named

    chosen = [law_named(name)] if name else list(LAWS.values())
    if as_json:
        give([{"name": law.name, "formula": law.formula, "source": law.source, "use": law.use, "stages": law.stages, "repeats": law.repeats,
               "target": law.target, "candidate": law.candidate,
               "parameters": [{"name": item.name, "unit": item.unit, "low": item.low, "high": item.high, "prior": item.prior}
                              for item in law.parameters]} for law in chosen])  # fmt: skip
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, emoji=False)
    for law in chosen:
        stages = "one stage, with repeats" if law.repeats else "one stage" if law.stages == 1 else "two stages"
        of = "general" if law.target == "general" else "specialist"
        untried = "" if law.candidate else "; by name only, --law auto does not try it"
        console.print(f"[bold]{escape(law.name)}[/bold]  ({stages}, {of} loss, {len(law.parameters)} parameters{untried})")
        priors = [f", prior {item.prior[0]:g} ± {item.prior[1]:g}" if item.prior else "" for item in law.parameters]
        units = ", ".join(f"{item.name} [{item.unit}{prior}]" for item, prior in zip(law.parameters, priors, strict=True))
        for what, text in (("L =", law.formula), ("parameters:", units), ("source:", law.source), ("use:", law.use)):
            console.print(f"    {what} {text}", markup=False)
