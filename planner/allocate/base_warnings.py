"""Warnings about bases and their forecasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from planner.allocate.allocation import Arm
from planner.allocate.base import VOCAB, Base
from planner.allocate.base_answer import Choice
from planner.allocate.base_feasible import Feasible, least_tokens
from planner.allocate.base_stage import LEAST_SHARE, capped
from planner.allocate.extrapolation import TOO_FAR, outside
from planner.allocate.plan_warnings import why_outside
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import NO_REPLAY, said_of
from planner.allocate.request import TAKEN
from planner.design.spec import MIN_STEPS
from planner.fit.support import NEAR
from planner.method import Method
from planner.units import format_count, format_epochs, format_part

OTHER_COST = 0.02
"""Share by which another sequence length must change the cost of a token to be mentioned."""
LEAST_LOWER = 0.01
"""By how much the loss of a model trained from scratch must be lower to be mentioned [%]."""
FEWER = 0.98
"""Share of a base's general tokens at which the loss is compared, to see whether the rest raise it."""
HARMED = 0.05
"""Share of the resamples in which they must raise it to be mentioned."""


def warnings_of_bases(problem: Problem, able: Feasible, method: Method, made: Sequence[Choice], best: Choice, alone: Arm) -> list[str]:
    """List the warnings.

    Args:
        problem: the request.
        able: the bases that could be chosen, and those that were left out.
        method: how they are specialised.
        made: the choice made for each of those.
        best: the recommended one.
        alone: a model trained from scratch with the same FLOPs.
    """
    found, fitting = [*_better_alone(problem, best, alone), *_harmed(problem, able, best)], able.bases
    recipe = problem.law.source.get("domain") or "their own text"
    found.append(
        f"the law was measured on small models of one recipe, on {recipe}, specialised from states before the cooldown; finished checkpoints "
        "of another recipe and tokenizer were not measured: read the forecasts as what this law implies, not as losses to expect"
    )
    measured = problem.method
    if method.name != measured.name:
        found.append(
            f"the effect of {method.name} on the loss is not measured by this law: its cost is counted, but its loss is that of training "
            f'{measured.adapters}; a sweep with methods = [..., "{method.name}"] measures it, and plan methods compares the two'
        )
    elif method != measured and problem.recipe is not None:
        found.append(f"the law was measured with {measured.adapters}; the cost is that of {method.adapters}, and the loss is assumed to be the same")
    spent = best.plan.flops + best.plan.flops_inference
    left_over = f"{format_part(1 - spent / problem.request.flops)} of the budget is left over"
    far = []
    for choice in made:
        if where := outside(choice.extrapolation):
            found.append(f"EXTRAPOLATION: {choice.base} lies outside the runs by: {where}")
        if any(TOO_FAR < factor < np.inf for factor in choice.extrapolation.values()):
            far.append(choice.base)
    if far:
        illustration = "forecasts and comparisons there are an illustration, not a measured result"
        found.append(f"{', '.join(far)}: no such distance was ever tested; {illustration}")
    found += [f"left out: {name}: {why}" for name, why in able.left_out.items()]
    for base, choice in zip(fitting, made, strict=True):
        if 0 < choice.plan.tokens_spec < least_tokens(base):
            pays = "the budget left after its inference" if choice.plan.flops_inference else "its best stage"
            found.append(f"{base.name}: {pays} is less than {MIN_STEPS} steps of one sequence of {base.context:,} tokens, too short to train")
    found += [*_compromise(problem, best), *_of_the_limit(problem, able, made, best)]
    if any(member.params_kind == "total" for member in problem.law.members) and problem.vocab:
        found.append(f"the law counts embeddings in N: each base is counted with those of the law's vocabulary of {problem.vocab} words, not with its own")
    found += _of_the_windows(problem, next(base for base in fitting if base.name == best.base), method)
    inexact = [base.name for base in fitting if not base.exact]
    if inexact:
        found.append(f"{', '.join(inexact)}: the shape is assumed from the ladder for that size and vocabulary; config=FOLDER counts the real one")
    for base in fitting:
        if base.shape.counted is not None and base.shape.counted.idle:
            idle = f"{format_part(base.shape.counted.idle / base.shape.params_non_embedding)} of its non-embedding parameters"
            found.append(f"{base.name}: each token skips {idle}, which cost no FLOPs but count in N; no law here was fitted to mixtures of experts")
    assumed = [base.name for base in fitting if base.vocab_assumed]
    if assumed:
        found.append(f"{', '.join(assumed)}: a vocabulary of {VOCAB:,} is assumed in FLOPs and memory; give its own with vocab=")
    words = sorted({base.shape.vocab for base in fitting})
    if len(words) > 1:
        found.append(
            f"the bases have vocabularies of {', '.join(f'{count:,}' for count in words)} words, so their own nats/token are different units; "
            "all forecasts are in nats/token of the law's tokenizer"
        )
    if best.plan.tokens_spec > TAKEN * problem.max_tokens_spec:
        found.append(f"the limit of {format_epochs(problem.max_epochs)} binds: {left_over}")
    elif spent < 0.9 * problem.request.flops and (problem.request.training_flops or np.inf) < 1.02 * best.plan.flops:
        found.append(f"{left_over}: the time limit on training binds, not the budget")
    elif spent < 0.9 * problem.request.flops and (best.plan.tokens_spec > 0 or problem.retention is None):
        why = "by this law more specialist text would raise the loss" + (", or exceed the limit" if problem.retention is not None else "")
        found.append(f"{left_over}: {why}")
    return found


def _better_alone(problem: Problem, best: Choice, alone: Arm) -> Iterator[str]:
    """Say by how much a model trained from scratch is forecast better than the best base, by the measure that bases are chosen by."""
    if alone.plan is None or alone.worse_percent is None or alone.probability is None:
        return
    lower, by = -alone.worse_percent, "on average over the resamples"
    if not problem.robust:
        lower, by = 100 * (1 - alone.plan.loss / best.plan.loss), "by the fitted parameters"
    if lower >= LEAST_LOWER:
        theirs, mine = (plan.flops + plan.flops_inference for plan in (alone.plan, best.plan))
        spent = "for the same FLOPs" if theirs < 1.02 * mine else f"for {theirs:.3g} FLOPs (the base takes {mine:.3g})"
        yield (
            f"FROM SCRATCH IS FORECAST BETTER: {spent} its loss is {lower:.3g} % lower than that of the best base, {best.base}, {by}, and lower in "
            f"{1 - alone.probability:.0%} of the resamples; {best.base} is recommended only as the best of the bases"
        )


def _harmed(problem: Problem, able: Feasible, best: Choice) -> Iterator[str]:
    """Say in what share of the resamples the best base would reach a lower loss with fewer general tokens."""
    base = next(base for base in able.bases if base.name == best.base)
    fewer = np.array([best.plan.tokens_pt, best.plan.tokens_pt - (1 - FEWER) * base.tokens])
    points = problem.law.points(base.params_by(problem.vocab), fewer, best.plan.tokens_spec, best.plan.unique_spec)
    ends = problem.law.log_loss_resamples(points)
    share = float((ends[:, 1] < ends[:, 0] - 1e-9).mean())
    if share >= HARMED:
        yield (
            f"in {share:.0%} of the resamples {base.name} would reach a lower loss if it had been trained on fewer general tokens: this law is not sure "
            "that a longer-trained base is better here"
        )


def _of_the_windows(problem: Problem, base: Base, method: Method) -> Iterator[str]:
    """Say that `plan launch` trains on sequences of another length than the base is counted with, if that changes the cost."""
    if problem.recipe is None:
        return
    taken = problem.recipe.seq_len
    less = 1 - method.flops_per_token(base.shape, taken) / method.flops_per_token(base.shape, base.context)
    if abs(less) >= OTHER_COST:
        yield (
            f"{base.name} is counted with sequences of {base.context:,} tokens, but plan launch trains on the recipe's {taken:,}, which cost "
            f"{format_part(abs(less))} {'less' if less > 0 else 'more'} per token: context={taken} counts what it will spend"
        )


def _compromise(problem: Problem, best: Choice) -> Iterator[str]:
    """Say if the amount lies outside the 90 % interval of the refits' own best."""
    assert best.tokens_interval is not None
    low, high = best.tokens_interval
    if not low <= best.plan.tokens_spec <= high:
        amount, ends = format_count(best.plan.tokens_spec), f"{format_count(low)} to {format_count(high)}"
        yield f"{best.base}: {amount} specialist tokens lie outside {ends}, the 90 % interval of the refits' own best: {why_outside(problem.robust)}"


def _of_the_limit(problem: Problem, able: Feasible, made: Sequence[Choice], best: Choice) -> Iterator[str]:
    """Say how surely a limit on the general loss is kept, and what is not measured about it."""
    if problem.retention is None or best.general is None:
        return
    yield f"the general loss is forecast by {problem.retention.law.names}: the limit is kept with a probability of {best.general['probability']:.0%}"
    if best.general["extrapolation"] > NEAR:
        yield f"EXTRAPOLATION: {best.base} lies a factor of {best.general['extrapolation']:.3g} outside the runs of the general law"
    if len(problem.retention.replays) == 1:
        yield NO_REPLAY
    if shares := [choice.plan.replay_fraction for choice in made if choice.plan.replay_fraction]:
        yield f"{said_of(shares)}; for a base the gain from the replayed text is capped at that"
    for base, stage, choice in zip(able.bases, able.stages, made, strict=True):
        if said := capped(problem, stage):
            yield f"{base.name}: {format_count(choice.plan.tokens_spec)} specialist tokens, since {said}"
    if best.plan.tokens_spec == 0:
        least = f"{LEAST_SHARE:.1%} of what budget and passes allow"
        yield f"no amount of specialist text from {least} upward keeps {problem.retention.limit}, so none is planned"
