"""`plan demo`: the whole path on real text, with embedded defaults."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.console import say
from planner.cli.tables import table
from planner.units import format_count, format_epochs, format_seconds

HELP = (
    "Run the whole path on real text: corpus, sweep, fit, allocate, launch, verify. Five to eight minutes on two cores.\n\n"
    "Stopping it loses nothing: the same command continues.\n\nExample: plan demo --out demo-out"
)
UNIQUE_SPEC = "50k"
"""Scarce enough that the best split is inside the range."""
BUDGET_FACTOR = 3.0
"""Budget of the launched run, as a multiple of the sweep's largest run."""


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-out"),
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes of the sweep; one a core by default.")] = None,
) -> None:
    """Run the demo."""
    from planner.artifacts import write_text
    from planner.cli import allocate, corpus, fit, launch, sweep, verify
    from planner.cli.needs import require_torch
    from planner.sweep import Sweep

    require_torch()
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("corpus.toml", "sweep.toml"):
        if not (out / name).exists():
            write_text(out / name, files("planner.demo").joinpath(name).read_text(encoding="utf-8"))
    _stage("1 of 6: corpus — encyclopaedia summaries, and definitions of diseases")
    corpus.build(out / "corpus.toml", out / "corpus", False)
    _stage("2 of 6: sweep — small models over sizes, general tokens, specialist tokens and distinct text")
    sweep.run(str(out), workers)
    _stage("3 of 6: fit — the law of the loss, with intervals")
    law = out / "law.json"
    fit.fit(context, out, law="auto", mapping=None, params_kind="auto", keep=None, resamples=200, seed=0, out=law, figures=True, as_json=False)
    opened = Sweep.open(out)
    budget = BUDGET_FACTOR * max(opened.tree.flops_of_run(tip) for tip in opened.tree.tips)
    _stage(f"4 of 6: allocate — split {budget:.2e} FLOPs, {BUDGET_FACTOR:g} times the sweep's largest run, with {UNIQUE_SPEC} distinct specialist tokens")
    allocation = out / "allocation.json"
    if not (out / "launch" / "launch.json").exists():  # a forecast is not made again once its run has begun
        allocate.allocate(UNIQUE_SPEC, f"{budget:.4g}", law=law, out=allocation, figure=True)
    _stage("5 of 6: launch — train the recommended run")
    launch.launch(allocation, out / "launch", corpus=None, seed=0, device="cpu", threads=None, dry_run=False)
    _stage("6 of 6: verify — compare the outcome with the forecast")
    verify.verify(out / "launch", as_json=False)
    _summary(out)
    say(f"the demo took {format_seconds(time.monotonic() - started)}; figures: {', '.join(str(path) for path in sorted(out.rglob('*.png')))}")


def _stage(text: str) -> None:
    say(f"\n== {text}")


def _summary(out: Path) -> None:
    from planner.allocate.allocation import Allocation
    from planner.verify import verify

    answer, result = Allocation.load(out / "allocation.json"), verify(out / "launch")
    plan = answer.plan
    tokens = f"{format_count(plan.tokens_pt)} general + {format_count(plan.tokens_spec)} specialist tokens"
    rows = [
        ["budget", f"{answer.request['flops']:.2e} FLOPs, {format_count(plan.unique_spec)} distinct specialist tokens"],
        ["recommended split", f"{tokens} ({format_epochs(plan.epochs_spec, 2)})"],
        ["recommended size", f"{format_count(plan.params_non_embedding)} non-embedding parameters"],
        ["forecast specialist loss", f"{plan.loss:.3f} ({plan.loss_low:.3f} to {plan.loss_high:.3f}) nats/token"],
        ["outcome", f"{result.measured:.3f} nats/token, {'inside' if result.inside else 'OUTSIDE'} the interval; error {result.error_percent:+.2f} %"],
    ]
    table("The demo", ["", ""], rows)
