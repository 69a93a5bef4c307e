"""`plan allocate --base`: printing which checkpoint to specialise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.cli.allocation_tables import hundredths
from planner.cli.console import say, table
from planner.errors import InputError
from planner.units import format_count

if TYPE_CHECKING:
    from planner.allocate.base_answer import BaseAllocation
    from planner.fit.fitted import FittedLaw
    from planner.method import Method


def method_of(law: FittedLaw, name: str | None, rank: int | None) -> Method:
    """Return the method asked for; what is left open is as in the runs of the law.

    Raises:
        InputError: a rank where there are no adapters.
    """
    from dataclasses import replace

    from planner.method import Method
    from planner.recipe import Recipe

    name = name or str(law.source.get("method", "full"))
    if name == "full" and rank is not None:
        raise InputError(f"--lora-rank {rank} is of the adapters of lora and qlora", remedy="add --method lora, or leave it away")
    # A law of training all parameters says nothing of adapters: its recipe's are settings that no run has used.
    used = law.source.get("recipe") if law.source.get("method", "full") != "full" else None
    method = Recipe.from_mapping(used).method(name) if used else Method(name)
    return method if rank is None else replace(method, rank=rank)


def show_bases(answer: BaseAllocation) -> None:
    """Print the bases, what more would buy, and how far all this is from the runs."""
    from planner.allocate.beyond import TOO_FAR

    request, method = answer.request, answer.request["method"]
    rows = []
    for choice in answer.choices:
        plan, replayed = choice.plan, choice.general["tokens_replayed"] if choice.general else 0.0
        rows.append(
            [
                choice.base,
                f"{format_count(plan.params_non_embedding)}, {format_count(plan.tokens_pt - replayed)}",
                f"{format_count(plan.tokens_spec)} = {plan.epochs_spec:.3g} epochs",
                f"{choice.loss_before:.4g} ({choice.before_low:.4g} to {choice.before_high:.4g})",
                f"{plan.loss:.4g} ({plan.loss_low:.4g} to {plan.loss_high:.4g})",
                f"{choice.gain_percent:.3g} ({choice.gain_low + 0.0:.3g} to {choice.gain_high + 0.0:.3g})",
                f"{choice.probability:.0%}",
            ]
        )
    far = answer.choices[0].extrapolation["flops"] > TOO_FAR
    given = f"{request['flops']:.3g} FLOPs and {format_count(request['unique_spec'])} distinct specialist tokens"
    title = f"{'ILLUSTRATION, NOT MEASURED: ' if far else ''}Bases specialised with {given}, {method['name']}"
    columns = ["base", "size, general", "specialist tokens", "forecast loss before", "after (90 % interval)", "lower by [%]", "best in"]
    table(title, columns, rows, caption="before, after: specialist loss [nats/token]; best in: share of the resamples")
    kept = [
        [choice.base, f"{general['loss_before']:.4g}", f"{general['loss']:.4g} ({general['loss_low']:.4g} to {general['loss_high']:.4g})",
         f"{general['rise_percent']:+.3g} % ({general['rise_low']:+.3g} to {general['rise_high']:+.3g})",
         f"{100 * general['replay_fraction']:.3g} % = {format_count(general['tokens_replayed'])}", f"{general['probability']:.0%}"]
        for choice in answer.choices if (general := choice.general) is not None
    ]  # fmt: skip
    if kept:
        columns = ["base", "forecast before", "after (90 % interval)", "rise (90 % interval)", "replayed, of the stage", "limit kept in"]
        table("General loss, and the least replay that keeps its limit", columns, kept, caption="before, after: general loss [nats/token]")
    costs = [
        [
            choice.base,
            f"{choice.plan.flops:.3g}",
            format_count(choice.trained),
            f"{choice.bytes_per_gpu / 1e9:.3g} GB",
            f"{math.exp(choice.loss_before):.4g} to {math.exp(choice.plan.loss):.4g}",
        ]
        for choice in answer.choices
    ]
    table("What it takes", ["base", "FLOPs", "trained parameters", f"least memory a GPU, {request['gpus']} of them", "perplexity, before to after"], costs)
    ways = [
        [("* " if way.chosen else "  ") + way.method, f"{format_count(way.tokens_spec)} = {way.epochs_spec:.3g} epochs", f"{way.flops:.3g}",
         format_count(way.trained), f"{way.bytes_per_gpu / 1e9:.3g} GB" + ("" if way.fits else ", too much"),
         f"{round(way.higher_percent, 2) + 0.0:+.2f} %" + ("" if way.measured else ", if its tokens teach as much: not measured")]
        for way in answer.ways
    ]  # fmt: skip
    columns = ["method", "specialist tokens", "FLOPs", "trained parameters", "memory a GPU", "loss higher by"]
    table(f"{answer.choices[0].base} by each method, same budget", columns, ways, caption="* asked for; higher by: than by that, mean over the resamples")
    bought = [[worth.change, *(hundredths(value) for value in (worth.lower_percent, worth.low, worth.high))] for worth in answer.worths]
    table(
        f"What more would buy {answer.choices[0].base}",
        ["", "lower loss by [%]", "from", "to"],
        bought,
        caption="from, to: 90 % interval over the resamples",
    )
    if answer.kept:
        shares = [
            [f"{100 * item.share:.3g} %", format_count(item.tokens_spec), *(hundredths(value) for value in (item.higher_percent, item.low, item.high))]
            for item in answer.kept
        ]
        columns = ["kept back", "specialist tokens left", "specialist loss before it higher by [%]", "from", "to"]
        table("What a share kept back for a later stage costs", columns, shares, caption="what that stage does with it is not measured by any law here")
    scratch = answer.scratch
    if scratch.plan is None or scratch.worse_percent is None or scratch.probability is None:
        say(f"from scratch with the same FLOPs: {scratch.note}")
    else:
        other = scratch.plan
        say(
            f"from scratch with the same FLOPs: {format_count(other.params_non_embedding)} parameters, {format_count(other.tokens_pt)} general + "
            f"{format_count(other.tokens_spec)} specialist tokens, loss {other.loss:.4g} ({other.loss_low:.4g} to {other.loss_high:.4g}), "
            f"{scratch.worse_percent:+.2f} % against the best base in the mean over the resamples, worse in {scratch.probability:.0%} of the resamples"
        )
    if answer.longer:
        say(answer.longer)
