"""`plan allocate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.console import give, say, table
from planner.units import format_count, format_interval, parse_count, parse_flops

if TYPE_CHECKING:
    from planner.allocate.allocation import Allocation, Plan

HELP = (
    "Recommend how to split a budget: size, general tokens, specialist tokens, epochs, and the loss to expect.\n\n"
    "Example: plan allocate --flops 2e13 --spec-tokens 200k\n\n"
    'Example: plan allocate --flops "3 GPU-days" --gpu-flops 4e14 --spec-tokens 5B --params 1B'
)


def allocate(
    flops: Annotated[str, typer.Option(help='Budget: 1e22, or a GPU time such as "3 GPU-days" with --gpu-flops.')],
    spec_tokens: Annotated[str, typer.Option(help="Distinct specialist tokens that you have, such as 5e9 or 5B.")],
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; the one under sweeps/ by default.")] = None,
    params: Annotated[str | None, typer.Option(help="Fix the size [non-embedding parameters], such as 7B.")] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most passes over the specialist text; the most that the runs cover by default.")] = None,
    gpu_flops: Annotated[str | None, typer.Option(help="FLOPs one GPU really does in a second: peak times utilisation.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recommendation.")] = Path("allocation.json"),
    figure: Annotated[bool, typer.Option("--figure/--no-figure", help="Whether to draw the split curve beside it; takes longer than the answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Recommend a split."""
    from dataclasses import replace

    from planner.allocate.allocate import allocate as recommend
    from planner.allocate.problem import Request
    from planner.artifacts import sha256_file
    from planner.cli.paths import law_file
    from planner.fit.fitted import FittedLaw

    found = law_file(law)
    throughput = parse_count(gpu_flops) if gpu_flops else None
    request = Request(
        parse_flops(flops, flops_per_gpu_second=throughput), parse_count(spec_tokens), parse_count(params) if params else None, max_epochs
    )  # fmt: skip
    answer = recommend(FittedLaw.load(found), request)
    if answer.source.get("corpus_path"):
        where = os.path.normpath(found.resolve().parent / answer.source["corpus_path"])
        answer = replace(answer, source={**answer.source, "corpus_path": os.path.relpath(where, out.resolve().parent)})
    answer.save(out, {"law": sha256_file(found)})
    if as_json:
        from planner.artifacts import read_json

        give(read_json(out))
    else:
        show(answer)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    say(f"written: {out}")
    if figure:
        from planner.report.plans import split_curve
        from planner.report.style import save

        save(out.with_suffix(".png"), lambda axes: split_curve(axes[0], answer))
        say(f"written: {out.with_suffix('.png')}")


def show(answer: Allocation) -> None:
    """Print a recommendation as tables."""
    from planner.allocate.optimum import TOLERANCE

    plan, request = answer.plan, answer.request
    tolerance = f"within {100 * TOLERANCE:g} % of the best loss"
    size = [f"{format_count(plan.params_non_embedding)}", f"{format_interval(*answer.params_interval)}", f"{format_interval(*answer.params_within)}"]
    share = [f"{100 * plan.share_spec:.3g} %", _percent(answer.share_interval), _percent(answer.share_within)]
    rows = [
        ["non-embedding parameters", *size],
        ["share of specialist tokens", *share],
        ["general tokens", format_count(plan.tokens_pt), "", ""],
        ["specialist tokens", f"{format_count(plan.tokens_spec)} = {plan.epochs_spec:.3g} epochs", "", ""],
        ["forecast specialist loss [nats/token]", f"{plan.loss:.4g}", f"{plan.loss_low:.4g} to {plan.loss_high:.4g}", ""],
        ["FLOPs (6·N·D)", f"{plan.flops:.3g} ({plan.flops_6nd:.3g})", "", ""],
        ["regret, expected / 90 %", f"{answer.regret_expected_percent:.2f} % / {answer.regret_90_percent:.2f} %", "", ""],
    ]
    if plan.shape:
        rows.insert(1, ["layers × width, heads × head width", _shape(plan), "", ""])
    title = f"Recommended split of {request['flops']:.3g} FLOPs with {format_count(request['unique_spec'])} distinct specialist tokens"
    table(title, ["", "recommended", "90 % interval", tolerance], rows)
    arms = []
    for arm in answer.arms:
        if arm.plan is None or arm.worse_percent is None or arm.probability is None:
            arms.append([arm.name, arm.note, "", "", "", ""])
        else:
            other = arm.plan
            loss = f"{other.loss:.4g} ({other.loss_low:.4g} to {other.loss_high:.4g})"
            split = f"{format_count(other.tokens_pt)} + {format_count(other.tokens_spec)}"
            arms.append([arm.name, loss, f"{arm.worse_percent:+.2f} %", f"{arm.probability:.0%}", format_count(other.params_non_embedding), split])
    columns = ["instead", "forecast loss (90 % interval)", "against it", "worse in", "size", "general + specialist"]
    table("What else the budget could buy", columns, arms, caption="worse in: share of the resamples in which the recommendation is better")
    outside = {name: factor for name, factor in answer.extrapolation.items() if factor > 1.2}
    inside = "inside what the runs cover" if not outside else "outside the runs: " + ", ".join(f"{name} {factor:.3g}×" for name, factor in outside.items())
    guess = answer.best_guess
    say(f"{inside}; best guess of the parameters alone: {format_count(guess.params_non_embedding)} at {100 * guess.share_spec:.3g} % specialist")


def _percent(span: tuple[float, float]) -> str:
    return f"{100 * span[0]:.3g} to {100 * span[1]:.3g} %"


def _shape(plan: Plan) -> str:
    shape = plan.model_shape
    return f"{shape.layers} × {shape.hidden}, {shape.heads} × {shape.head_dim}"
