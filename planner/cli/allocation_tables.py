"""A recommendation as tables for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from planner.cli.console import say
from planner.cli.tables import table
from planner.units import format_count, format_epochs, format_interval, format_number

if TYPE_CHECKING:
    from planner.allocate.allocation import Allocation, Plan, Worth

MOST_NATS = 50.0
"""Loss above which only a lower bound of the perplexity is shown [nats/token]."""


def show(answer: Allocation) -> None:
    """Print a recommendation as tables."""
    from planner.allocate.extrapolation import outside

    plan, request = answer.plan, answer.request
    tolerance = f"within {100 * request['tolerance']:.3g} % of the best loss"
    size = [f"{format_count(plan.params_non_embedding)}", f"{format_interval(*answer.params_interval)}", f"{format_interval(*answer.params_within)}"]
    share = [f"{100 * plan.share_spec:.3g} %", percent(answer.share_interval), percent(answer.share_within)]
    rows = [
        ["non-embedding parameters", *size],
        ["share of specialist tokens", *share],
        ["general tokens", format_count(plan.tokens_pt), *_spans(answer.tokens_pt_interval)],
        ["specialist tokens", f"{format_count(plan.tokens_spec)} = {format_epochs(plan.epochs_spec)}", *_passes(answer)],
        ["forecast specialist loss [nats/token]", f"{plan.loss:.4g}", f"{plan.loss_low:.4g} to {plan.loss_high:.4g}", ""],
        ["perplexity", f"{perplexity(plan.loss)}", f"{perplexity(plan.loss_low)} to {perplexity(plan.loss_high)}", ""],
        ["FLOPs (6·N·D)", f"{plan.flops:.3g} ({plan.flops_6nd:.3g})", "", ""],
        ["regret, expected / 90 %", f"{answer.regret_expected_percent:.2f} % / {answer.regret_90_percent:.2f} %", "", ""],
    ]
    if found := answer.accuracy:
        span = f"{100 * found['low']:.3g} to {100 * found['high']:.3g} %"
        rows.insert(-2, [f"accuracy, by {found['rows']} models", f"{100 * found['accuracy']:.3g} %", span, ""])
    if bytes_per_token := answer.source.get("bytes_per_token"):
        nats = bytes_per_token * math.log(2)
        rows.insert(-2, ["bits per byte", f"{plan.loss / nats:.4g}", f"{plan.loss_low / nats:.4g} to {plan.loss_high / nats:.4g}", ""])
    if plan.flops_inference:
        rows.insert(-1, ["FLOPs of inference", f"{plan.flops_inference:.3g}", "", ""])
    if general := answer.general:
        lost = [f"{general['loss']:.4g}", f"{general['loss_low']:.4g} to {general['loss_high']:.4g}", ""]
        rise = [f"{general['rise_percent']:+.3g} %", f"{general['rise_low']:+.3g} to {general['rise_high']:+.3g} %", ""]
        replayed = f"{100 * general['replay_fraction']:.3g} % of the stage = {format_count(general['tokens_replayed'])}"
        rows[-2:-2] = [
            ["forecast general loss [nats/token]", *lost], ["rise by specialising", *rise], ["general tokens replayed", replayed, "", ""],
        ]  # fmt: skip
        rows.insert(-2, ["probability that the limit is kept", f"{general['probability']:.0%}", "", ""])
    if plan.shape:
        rows.insert(1, ["layers × width, heads × head width", _shape(plan), "", ""])
    budget = budget_of(request, plan)
    title = f"Recommended split of {budget} with {format_count(request['unique_spec'])} distinct specialist tokens"
    alone = answer.one_stage
    if alone:
        title = f"Recommended size for {budget}"
        rows = [[row[0].replace("specialist ", ""), *row[1:]] for row in rows if row[0] not in ("share of specialist tokens", "specialist tokens")]
    if answer.one_corpus:
        title = f"Recommended size and passes for {budget} over {format_count(request['unique_spec'])} distinct tokens"
        rows = [[row[0].replace("specialist ", ""), *row[1:]] for row in rows if row[0] not in ("share of specialist tokens", "general tokens")]
    caption = "90 % interval: of a loss, for one run; of sizes and amounts, of each refit's best plan; excludes uncertainty from unchosen laws"
    if outside(answer.extrapolation):  # there an error in the law's form shows, which all refits share
        caption += "; so does regret: if every law has the wrong form this far out, true regret is larger"
    table(title, ["", "recommended", "90 % interval", tolerance], rows, caption=caption)
    _show_arms(answer)
    for arm in answer.arms:
        if arm.plan is not None and arm.note:
            say(f"{arm.name}: {arm.note}")
    show_worths("What more would buy", answer.worths)
    if answer.exchange:
        say(answer.exchange)
    _show_standing(answer)


def _show_standing(answer: Allocation) -> None:
    """Say how far the recommendation lies outside the runs, what the best guess is, and whether more runs are needed."""
    from planner.allocate.extrapolation import outside
    from planner.fit.support import NEAR

    where = outside(answer.extrapolation)
    beyond_general = (answer.general or {}).get("extrapolation", 1.0) > NEAR
    within = "inside the range of the runs of the specialist loss" if beyond_general else "inside the range of the runs"
    inside = f"outside the runs: {where}" if where else within
    guess = answer.best_guess
    split = f" in {format_epochs(guess.epochs_spec)}" if answer.one_corpus else f" at {100 * guess.share_spec:.3g} % specialist"
    special = "" if answer.one_stage else split
    say(f"{inside}; best guess (fitted parameters alone): {format_count(guess.params_non_embedding)}{special}")
    if answer.settled:
        limit = ", if the general law is right about the limit" if answer.general else ""
        say(f"the runs are enough for this decision: in 90 % of resamples its regret is {answer.regret_90_percent:.2g} % or less{limit}")


def _show_arms(answer: Allocation) -> None:
    """Print what else the budget could buy."""
    alone = answer.one_stage
    arms = []
    for arm in answer.alternatives if alone else (*answer.arms, *answer.alternatives):
        if arm.plan is None or arm.worse_percent is None or arm.probability is None:
            arms.append([arm.name, arm.note, "", "", "", ""])
        else:
            other = arm.plan
            loss = f"{other.loss:.4g} ({other.loss_low:.4g} to {other.loss_high:.4g})"
            parts = [other.tokens_pt, other.tokens_spec][answer.one_corpus : 1 if alone else 2]
            split = " + ".join(format_count(part) for part in parts)
            higher = f"{round(arm.worse_percent, 2) + 0.0:+.2f} %"
            arms.append([arm.name, loss, higher, f"{arm.probability:.0%}", format_count(other.params_non_embedding), split])
    tokens = "tokens" if alone or answer.one_corpus else "general + specialist"
    columns = ["alternative", "forecast loss (90 % interval)", "higher by", "loses in", "size", tokens]
    caption = (
        "higher by: extra loss over the recommendation, mean over the law's refits (which is what the recommendation minimises); loses in: share of "
        "refits in which it is worse; neither includes errors that all refits share"
    )
    if arms:
        table("What else the budget could buy", columns, arms, caption=caption)


def wants_runs(answer: Allocation) -> bool:
    """Tell whether to propose runs: the refits disagree, and the law has two stages and a recipe and is of runs from scratch in full training."""
    from planner.allocate.allocation import NOTHING

    source = answer.source
    if answer.regret_expected_percent < NOTHING:
        return False
    return not (answer.settled or answer.one_stage or source.get("based") or source.get("method", "full") != "full" or not source.get("recipe"))


def budget_of(request: Mapping[str, Any], plan: Plan) -> str:
    """Write a budget, and what --hours allows for training where that is less."""
    within = request.get("training_flops")
    short = within is not None and within < request["flops"] - (plan.flops_inference or 0.0)
    return f"{request['flops']:.3g} FLOPs" + (f" ({within:.3g} of training within --hours)" if short else "")


def show_worths(title: str, worths: Sequence[Worth], gain: str = "lower loss by [%]") -> None:
    """Print what more compute or text would buy, where that was computed."""
    if worths:
        bought = [[worth.change, *(hundredths(value) for value in (worth.lower_percent, worth.low, worth.high))] for worth in worths]
        table(title, ["", gain, "from", "to"], bought, caption="from, to: 90 % interval over the resamples")


def perplexity(loss: float) -> str:
    """Write the perplexity of a loss [nats/token]."""
    return f"{math.exp(loss):.4g}" if loss < MOST_NATS else f"over {math.exp(MOST_NATS):.2g}"


def hundredths(value: float) -> str:
    """Write per cent to the hundredth, with no minus before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _spans(interval: tuple[float, float] | None) -> list[str]:
    return ["" if interval is None else format_interval(*interval), ""]


def _passes(answer: Allocation) -> list[str]:
    spans = (answer.epochs_interval, answer.epochs_within)
    return ["" if span is None else f"{' to '.join(map(format_number, span))} epochs" for span in spans]


def percent(span: Sequence[float]) -> str:
    """Write an interval of shares in per cent."""
    return f"{100 * span[0]:.3g} to {100 * span[1]:.3g} %"


def _shape(plan: Plan) -> str:
    shape = plan.model_shape
    return f"{shape.layers} × {shape.hidden}, {shape.heads} × {shape.head_dim}"
