"""Errors for a budget, memory or text that allow no plan, and what would suffice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from planner.allocate.bisection import bisect_log
from planner.allocate.plans import Size
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.ladder import GAP, LARGEST, SMALLEST
from planner.units import format_bytes, format_count

if TYPE_CHECKING:
    from planner.allocate.problem import Problem
    from planner.allocate.request import Request


DIGITS = 4
"""Digits of a budget or an amount of text in a message, rounded up."""
TOO_SMALL = {"memory": "the memory", "text": "the available text", "time": "the time limit on training", "budget": "the budget"}
"""What may be too small for a size, in words."""
MORE_MEMORY = "GPUs of more --gpu-memory"
"""Remedy."""
MOST_BUDGET = 1000.0
"""Largest factor on the budget that is tried to keep a limit, or to reach a loss."""
BISECTIONS = 9
"""Halvings of that range in its logarithm, so that the budget is known to 1.4 %."""


def too_small(problem: Problem, size: Size, tokens_per_param: float) -> list[str]:
    """List what is too small for a size that cannot be trained, as keys of `TOO_SMALL`."""
    causes = [] if problem.fits(size) else ["memory"]
    causes += [] if problem.text_does(size) else ["text"]
    needed = least_training(problem, size, tokens_per_param) * (1 - 1e-9)
    if (problem.request.training_flops or math.inf) < needed:
        causes.append("time")
    if not problem.request.timed and problem.request.flops - size.flops_inference(problem.request.inference_tokens) < needed:
        causes.append("budget")
    return causes


def least_training(problem: Problem, size: Size, tokens_per_param: float) -> float:
    """Return the FLOPs of the shortest training of a size with at least some tokens per parameter."""
    return problem.least_tokens(size, tokens_per_param) * size.flops_per_token


def least_flops(problem: Problem, size: Size, tokens_per_param: float) -> float:
    """Return the same plus its inference [FLOPs]."""
    return least_training(problem, size, tokens_per_param) + size.flops_inference(problem.request.inference_tokens)


def refuse_size(problem: Problem, sizes: Sequence[Size], tokens_per_param: float) -> NoReturn:
    """Refuse sizes for which memory, text, time or budget are too small, and say what would suffice for the cheapest of them.

    Raises:
        DataError: always.
    """
    lacking = {size: too_small(problem, size, tokens_per_param) for size in sizes}
    size = min(sizes, key=lambda size: (len(lacking[size]), least_flops(problem, size, tokens_per_param)))
    request, params, named = problem.request, size.params_non_embedding, f"{format_count(size.params_non_embedding)} parameters"
    said, ways = [], []
    if "memory" in lacking[size]:
        memory = format_bytes(problem.bytes_per_gpu(size)), format_bytes(request.memory_per_gpu or 0.0)
        gpus = gpus_for(request, problem.bytes_per_gpu(size), problem.whole_bytes(size))
        said.append(f"{named} need {memory[0]} on each of {request.gpus} GPUs, which have {memory[1]}")
        said[-1] += "" if gpus else f"; {format_bytes(problem.whole_bytes(size))} of the need are whole on every GPU, however many there are"
        ways.append(f"at least {gpus} --gpus" if gpus else MORE_MEMORY)
    if "text" in lacking[size]:
        enough = format_count(round_up(max(problem.shortest * params, problem.min_tokens_stage)), DIGITS)
        options = [] if problem.one_corpus else ["--general-tokens"]
        options += [] if problem.one_stage or problem.needs_trunk and not problem.texts[0] else ["--spec-tokens", "--max-epochs"]
        said.append(_text(problem, f"{named}, which need at least {problem.shortest:g} each"))
        ways.append(f"{enough} tokens{' of one kind, repeats counted' * (len(options) > 1)}, with {' or '.join(options)}")
    needed, inference = least_training(problem, size, tokens_per_param), size.flops_inference(request.inference_tokens)
    if "time" in lacking[size]:
        said.append(f"the {request.training_flops:.3g} FLOPs of the time limit are too few to train {named}")
        ways.append(f"time for {round_up(needed):.{DIGITS}g} FLOPs, with --hours or --gpus")
    if "budget" in lacking[size]:
        paid = f", whose inference takes {inference:.3g} FLOPs" if inference else ""
        said.append(f"{request.flops:.3g} FLOPs are too few to train {named}{paid}")
        ways.append(f"at least {round_up(needed + inference):.{DIGITS}g} FLOPs")
    raise DataError("; ".join(said), remedy=f"give {', and '.join(ways)}{_or_smaller(problem, size)}")


def refuse_shapes(problem: Problem) -> NoReturn:
    """Refuse a range of sizes that contains no model shape, and name the nearest shapes.

    Raises:
        DataError: always.
    """
    low, high = problem.request.params_range or (0.0, math.inf)
    params = [size.params_non_embedding for size in problem.every(min(low, LARGEST) / GAP, max(high, SMALLEST) * GAP)]
    near = [*[size for size in params if size < low][-1:], *[size for size in params if size > high][:1]]
    raise DataError(
        f"no model shape has {low:,.10g} to {high:,.10g} parameters",
        remedy=f"widen --params: the nearest {'has' if len(near) == 1 else 'have'} {' and '.join(f'{size:,.0f}' for size in near)}",
    )


def would_keep(problem: Problem, keeps: Callable[[Problem], bool]) -> str:
    """Say what would let the limit on the general loss be kept, by its law: a larger budget, or lifting another limit, or both.

    Args:
        problem: none of whose plans keeps its limit.
        keeps: tells whether some plan of a problem keeps it.

    Returns:
        Words, empty if not even `MOST_BUDGET` times the budget would suffice.
    """
    request, unit = problem.request, ""
    if request.timed:  # the budget is a time here
        request, unit = replace(request, training_flops=None), "time for "
    lifts: list[tuple[str, bool, Callable[[Request], Request]]] = [
        ("more time", request.training_flops is not None, lambda asked: replace(asked, training_flops=None)),
        ("more general text", request.general_tokens is not None, lambda asked: replace(asked, general_tokens=None)),
        ("more memory, with --gpus or --gpu-memory", request.memory_per_gpu is not None, lambda asked: replace(asked, memory_per_gpu=None)),
        ("another --params", bool(request.sized or request.params_range), lambda asked: replace(asked, params=None, params_range=None, params_among=())),
    ]
    bound = [(word, lift) for word, binds, lift in lifts if binds]

    def enough(asked: Request, factor: float = 1.0) -> bool:
        return keeps(replace(problem, request=replace(asked, flops=factor * asked.flops)))

    def budget(asked: Request) -> str:
        _, high = bisect_log(1.0, MOST_BUDGET, lambda factor: enough(asked, factor), BISECTIONS)
        return f"{unit}about {round_up(high * asked.flops, 2):.2g} FLOPs"

    if enough(request, MOST_BUDGET):
        return budget(request)
    for word, lift in bound:
        if enough(lift(request)):
            return word
    free, words = request, [word for word, _ in bound]
    for _, lift in bound:
        free = lift(free)
    if bound and enough(free):
        return " and ".join(words)
    return " and ".join([*words, budget(free)]) if bound and enough(free, MOST_BUDGET) else ""


def _text(problem: Problem, named: str) -> str:
    """Say that there is too little text for a size; text too short for a stage counts for nothing."""
    amounts = {"general": problem.general_tokens, "specialist": problem.max_tokens_spec}
    if not problem.text:
        if problem.needs_trunk:
            amounts.pop("specialist")
        there = [f"{format_count(tokens)} {kind} tokens{' with repeats' * (kind == 'specialist')}" for kind, tokens in amounts.items() if tokens]
        each = "each " * (len(there) > 1)
        return f"{' and '.join(there)} are {each}too few for a stage of {MIN_STEPS} steps, {format_count(problem.min_tokens_stage)} tokens"
    lost = [f"; its {format_count(tokens)} {kind} tokens make no stage" for kind, tokens in amounts.items() if 0 < tokens < problem.min_tokens_stage]
    return f"the available text has {format_count(problem.text)} tokens with its passes{''.join(lost)}, too few for {named}"


def _or_smaller(problem: Problem, size: Size) -> str:
    """Name a smaller size as a remedy if one could be trained."""
    # Sizes without a recipe may be arbitrarily small.
    smallest = problem.size(size.params_non_embedding / 2 if problem.recipe is None else SMALLEST)
    smaller = smallest.params_non_embedding < size.params_non_embedding
    return " or a smaller --params" if smaller and (problem.recipe is None or problem.trainable(smallest, problem.shortest)) else ""


def gpus_for(request: Request, needed: float, whole: float) -> int | None:
    """Return how many GPUs suffice, given the need of each present one and the part of it that is not shared [bytes]; None if no number does."""
    memory = request.memory_per_gpu or math.inf
    return None if whole >= memory else math.ceil(request.gpus * (needed - whole) / (memory - whole) * (1 - 1e-9))


def round_up(amount: float, digits: int = DIGITS) -> float:
    """Round a sufficient budget or amount of text up to the digits of the message."""
    step = 10.0 ** (math.floor(math.log10(amount)) - digits + 1)
    return float(f"{step * math.ceil(amount / step - 1e-6):.{digits}g}")
