"""The choice of a base as tables for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from planner.cli.allocation_tables import budget_of, hundredths, perplexity, show_worths
from planner.cli.console import say
from planner.cli.tables import table
from planner.units import format_bytes, format_count, format_epochs, format_interval

if TYPE_CHECKING:
    from planner.allocate.base_answer import BaseAllocation

NEGLIGIBLE = 0.005
"""Regret below which it is called negligible [% of the loss]."""


def show_bases(answer: BaseAllocation) -> None:
    """Print the bases, what more would buy, and how far all this is from the runs."""
    _show_losses(answer)
    _show_felt(answer)
    _show_within(answer)
    _show_costs(answer)
    _show_changes(answer)
    if guess := answer.best_guess:
        plan = guess.plan
        say(f"best guess (fitted parameters alone): {guess.base}, {format_count(plan.tokens_spec)} specialist tokens = {format_epochs(plan.epochs_spec)}")
    scratch = answer.scratch
    if scratch.plan is None or scratch.worse_percent is None or scratch.probability is None:
        say(f"from scratch with the same budget: {scratch.note}")
    else:
        other = scratch.plan
        counted = f", {other.flops:.3g} FLOPs ({other.flops_6nd:.3g} by 6·N·D)"
        counted += f" and {other.flops_inference:.3g} FLOPs of inference" if other.flops_inference else ""
        say(
            f"from scratch with the same budget: {format_count(other.params_non_embedding)} parameters, {format_count(other.tokens_pt)} general + "
            f"{format_count(other.tokens_spec)} specialist tokens{counted}, loss {other.loss:.4g} ({other.loss_low:.4g} to {other.loss_high:.4g}), "
            f"{scratch.worse_percent:+.2f} % against the best base on average over the resamples, worse in {scratch.probability:.0%} of the resamples"
            + (f"; {scratch.note}" if scratch.note else "")
        )
    if answer.longer:
        say(answer.longer)
    _show_standing(answer)


def wants_runs_of_bases(answer: BaseAllocation) -> bool:
    """Tell whether to propose runs: the refits disagree, the bases are within reach of runs, and the law is of runs from scratch in full training."""
    from planner.allocate.allocation import NOTHING
    from planner.allocate.extrapolation import TOO_FAR

    regret = answer.choices[0].regret_expected_percent
    if regret is not None and regret < NOTHING:
        return False
    source, near = answer.source, all(factor <= TOO_FAR for choice in answer.choices for factor in choice.extrapolation.values() if factor < math.inf)
    return near and not answer.settled and answer.measured and bool(source.get("recipe")) and source.get("method", "full") == "full"


def _show_standing(answer: BaseAllocation) -> None:
    """Say what the text is worth, and whether more runs are needed."""
    if answer.exchange:
        say(answer.exchange)
    if answer.settled:
        best = answer.choices[0]
        assert best.regret_90_percent is not None
        given = f"{best.regret_90_percent:.2g} % or less" if best.regret_90_percent >= NEGLIGIBLE else "negligible"
        limit = ", if the general law is right about the limit" if best.general else ""
        say(
            "the runs are enough for this choice of base and amount, provided that bases behave like the models in the runs: in 90 % of resamples its "
            f"regret is {given}{limit}"
        )


def _show_losses(answer: BaseAllocation) -> None:
    """Print each base's specialist loss, its general loss where that is limited, and its accuracy where a table was given."""
    from planner.allocate.extrapolation import TOO_FAR

    request, method = answer.request, answer.request["method"]
    rows = []
    for choice in answer.choices:
        plan, replayed = choice.plan, choice.general["tokens_replayed"] if choice.general else 0.0
        rows.append(
            [
                choice.base,
                f"{format_count(plan.params_non_embedding)}, {format_count(plan.tokens_pt - replayed)}",
                f"{format_count(plan.tokens_spec)} = {format_epochs(plan.epochs_spec)}",
                f"{choice.loss_before:.4g} ({choice.before_low:.4g} to {choice.before_high:.4g})",
                f"{plan.loss:.4g} ({plan.loss_low:.4g} to {plan.loss_high:.4g})",
                f"{choice.gain_percent:.3g} ({choice.gain_low + 0.0:.3g} to {choice.gain_high + 0.0:.3g})",
                f"{choice.probability:.0%}",
            ]
        )
    far = answer.choices[0].extrapolation["flops"] > TOO_FAR
    given = f"{budget_of(request, answer.choices[0].plan)} and {format_count(request['unique_spec'])} distinct specialist tokens"
    if request["inference_tokens"]:
        given += f", {format_count(request['inference_tokens'])} tokens of inference"
    title = f"{'ILLUSTRATION, NOT MEASURED: ' if far else ''}Bases specialised with {given}, {method['name']}"
    columns = ["base", "size, general tokens", "specialist tokens", "forecast loss before", "after (90 % interval)", "lower by [%]", "best in"]
    table(title, columns, rows, caption="before, after: specialist loss [nats/token]; best in: share of the resamples")
    kept = [
        [choice.base, f"{general['loss_before']:.4g}", f"{general['loss']:.4g} ({general['loss_low']:.4g} to {general['loss_high']:.4g})",
         f"{general['rise_percent']:+.3g} % ({general['rise_low']:+.3g} to {general['rise_high']:+.3g})",
         f"{100 * general['replay_fraction']:.3g} % = {format_count(general['tokens_replayed'])}", f"{general['probability']:.0%}"]
        for choice in answer.choices if (general := choice.general) is not None
    ]  # fmt: skip
    if kept:
        columns = ["base", "forecast before", "after (90 % interval)", "rise (90 % interval)", "replayed share of the stage", "limit kept in"]
        table("General loss, and the least replay that keeps its limit", columns, kept, caption="before, after: general loss [nats/token]")
    if found := answer.accuracy:
        span = f"{100 * found['low']:.3g} to {100 * found['high']:.3g} %"
        rows = [[answer.choices[0].base, f"{100 * found['accuracy']:.3g} %", span]]
        table(f"Accuracy, by {found['rows']} models", ["base", "forecast accuracy", "90 % interval"], rows)


def _show_felt(answer: BaseAllocation) -> None:
    """Print the losses as perplexities, and in bits per byte where the bytes per token of the law's text are known."""
    rows = [[choice.base] for choice in answer.choices]
    columns = ["base", "perplexity before (90 % interval)", "after (90 % interval)"]
    losses = [
        ((choice.loss_before, choice.before_low, choice.before_high), (choice.plan.loss, choice.plan.loss_low, choice.plan.loss_high))
        for choice in answer.choices
    ]
    units: list[Callable[[float], str]] = [perplexity]
    if bytes_per_token := answer.source.get("bytes_per_token"):
        columns += ["bits per byte before (90 % interval)", "after (90 % interval)"]
        units.append(lambda loss: f"{loss / (bytes_per_token * math.log(2)):.4g}")
    for row, pair in zip(rows, losses, strict=True):
        row += [f"{unit(loss)} ({unit(low)} to {unit(high)})" for unit in units for loss, low, high in pair]
    table("The same in perplexity" + " and bits per byte" * (len(units) > 1), columns, rows)


def _show_within(answer: BaseAllocation) -> None:
    """Print which plans are as good as each base's best, and which bases are as good as the best one."""
    tolerance = f"{100 * answer.request['tolerance']:.3g} %"
    rows = []
    for number, choice in enumerate(answer.choices):
        assert choice.tokens_within is not None and choice.epochs_within is not None and choice.cheapest is not None
        assert choice.regret_expected_percent is not None and choice.regret_90_percent is not None and choice.tokens_interval is not None
        (least, most), (fewest, passes), cheapest = choice.tokens_within, choice.epochs_within, choice.cheapest
        rows.append(
            [
                choice.base,
                format_interval(*choice.tokens_interval),
                format_interval(least, most),
                f"{fewest:.3g} to {passes:.3g}",
                format_count(cheapest.tokens_spec) if cheapest.tokens_spec else "none",
                f"{cheapest.flops:.3g}",
                f"{cheapest.loss:.4g}",
                "best" if number == 0 else f"{round(choice.higher_percent, 2) + 0.0:+.2f} %" + (", as good" * choice.as_good),
                f"{choice.regret_expected_percent:.2f} % / {choice.regret_90_percent:.2f} %",
            ]
        )
    columns = [
        "base", "90 % interval", "tokens within", "epochs within", "cheapest of them", "its FLOPs", "its loss",
        "against the best base", "regret, expected / 90 %",
    ]  # fmt: skip
    caption = (
        "90 % interval: of the specialist tokens that each refit finds best; within, cheapest: by the mean over the refits; against the best base: extra "
        "loss of this base's best plan; regret: extra loss over the best base and amount of each resample"
    )
    table(f"Plans within {tolerance} of each base's best", columns, rows, caption=caption)


def _show_costs(answer: BaseAllocation) -> None:
    """Print what each base costs, and what the recommended one costs by each method."""
    from planner.allocate.extrapolation import TOO_FAR

    request = answer.request
    counted = bool(request["inference_tokens"])
    costs = [
        [
            choice.base,
            f"{choice.plan.flops:.3g} ({choice.plan.flops_6nd:.3g})",
            *([f"{choice.plan.flops_inference:.3g}"] if counted else []),
            format_count(choice.trained),
            format_bytes(choice.bytes_per_gpu),
        ]
        for choice in answer.choices
    ]
    memory = f"least memory per GPU, with {request['gpus']} GPU{'s' if request['gpus'] > 1 else ''}"
    columns = ["base", "FLOPs (6·N·D)", *(["inference FLOPs"] if counted else []), "trained parameters", memory]
    table("What each base costs", columns, costs)
    far = any(TOO_FAR < factor < math.inf for factor in answer.choices[0].extrapolation.values())
    illustration = ", an illustration" if far else ""
    ways = [
        [("* " if way.chosen else "  ") + way.method, f"{format_count(way.tokens_spec)} = {format_epochs(way.epochs_spec)}", f"{way.flops:.3g}",
         format_count(way.trained), format_bytes(way.bytes_per_gpu) + ("" if way.fits else ", does not fit"),
         "" if way.loss is None else f"{way.loss:.4g} ({way.loss_low:.4g} to {way.loss_high:.4g})",
         "" if way.higher_percent is None else f"{round(way.higher_percent, 2) + 0.0:+.2f} %",
         "no runs" if not way.measured else f"{'runs of another law' if way.other_law else 'runs of the law'}{illustration}"]
        for way in answer.ways
    ]  # fmt: skip
    columns = ["method", "specialist tokens", "FLOPs", "trained parameters", "memory per GPU", "forecast loss (90 % interval)", "higher by", "based on"]
    caption = "* the method asked for; higher by: extra loss over that method, means over each law's resamples"
    if not all(way.measured for way in answer.ways):
        caption += "; no runs: no run used this method, so its loss is not known"
    if any(way.other_law for way in answer.ways):
        caption += "; another law: of runs with that method, found beside the law"
    if illustration:
        caption += "; illustration: too far from the runs to be a forecast"
    table(f"{answer.choices[0].base} by each method, same budget", columns, ways, caption=caption)


def _show_changes(answer: BaseAllocation) -> None:
    """Print what more compute or text would buy the recommended base, and what shares kept back would cost."""
    show_worths(f"What more would buy {answer.choices[0].base}", answer.worths)
    if answer.kept:
        shares = [
            [f"{100 * item.share:.3g} %", format_count(item.tokens_spec), *(hundredths(value) for value in (item.higher_percent, item.low, item.high))]
            for item in answer.kept
        ]
        columns = ["kept back", "specialist tokens left", "specialist loss before that stage higher by [%]", "from", "to"]
        table("What a share kept back for a later stage costs", columns, shares, caption="no law here covers what the later stage does with its share")
        for item in answer.kept:
            if item.note:
                say(f"{100 * item.share:.3g} % kept back: {format_count(item.tokens_spec)} specialist tokens, since {item.note}")
