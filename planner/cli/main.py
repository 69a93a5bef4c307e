"""`plan`: parses, calls one function of the library, prints."""

from __future__ import annotations

import typer

from planner.cli import allocate, backtest, corpus, demo, evaluate, fit, launch, laws, methods, scaling, sweep, watch
from planner.cli.console import PlanGroup

app = typer.Typer(
    cls=PlanGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure small runs, fit one law, split a big training budget well, and check afterwards that the forecast came true.\n\n"
    "corpus → sweep → fit → allocate → launch → verify; each stage leaves a file that the next one reads.",
)
app.add_typer(corpus.app, name="corpus")
app.add_typer(sweep.app, name="sweep")
app.command("laws", help=laws.HELP)(laws.laws)
app.command("fit", help=fit.HELP)(fit.fit)
app.command("backtest", help=backtest.HELP)(backtest.backtest)
app.command("allocate", help=allocate.HELP)(allocate.allocate)
app.command("scaling", help=scaling.HELP)(scaling.scaling)
app.command("methods", help=methods.HELP)(methods.methods)
app.command("launch", help=launch.LAUNCH_HELP)(launch.launch)
app.command("watch", help=watch.HELP)(watch.watch)
app.command("verify", help=launch.VERIFY_HELP)(launch.verify)
app.command("evaluate", help=evaluate.HELP)(evaluate.evaluate)
app.command("demo", help=demo.HELP)(demo.demo)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
