"""What is said where budget, memory or text are too few for any plan, and what would do."""

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
"""Of a budget or an amount of text that is named, rounded up."""
TOO_SMALL = {"memory": "the memory", "text": "the text there is", "time": "the time that training may take", "budget": "the budget"}
"""What may be too little for a size, in words."""
MORE_MEMORY = "GPUs of more --gpu-memory"
"""As a remedy."""
MOST_BUDGET = 1000.0
"""Factor in budget up to which one is looked for that keeps a limit, or reaches a loss."""
BISECTIONS = 9
"""Of that range, so that it is known to 1.4 %."""


def too_small(problem: Problem, size: Size, tokens_per_param: float) -> list[str]:
    """List all that is too little for a size that cannot be trained, as keys of `TOO_SMALL`."""
    causes = [] if problem.fits(size) else ["memory"]
    causes += [] if problem.text_does(size) else ["text"]
    needed = least_training(problem, size, tokens_per_param) * (1 - 1e-9)
    if (problem.request.training_flops or math.inf) < needed:
        causes.append("time")
    if not problem.request.timed and problem.request.flops - size.flops_inference(problem.request.inference_tokens) < needed:
        causes.append("budget")
    return causes


def least_training(problem: Problem, size: Size, tokens_per_param: float) -> float:
    """Return what the shortest training of a size takes, with so many tokens for each parameter [FLOPs]."""
    return problem.least_tokens(size, tokens_per_param) * size.flops_per_token


def least_flops(problem: Problem, size: Size, tokens_per_param: float) -> float:
    """Return the same and what its inference takes [FLOPs]."""
    return least_training(problem, size, tokens_per_param) + size.flops_inference(problem.request.inference_tokens)


def refuse_size(problem: Problem, sizes: Sequence[Size], tokens_per_param: float) -> NoReturn:
    """Say that memory, text, time or budget are too little for some sizes, what would do for the cheapest of them, and what for a smaller one.

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
        said.append(f"{named} take {memory[0]} of each of {request.gpus} GPUs, and they have {memory[1]}")
        said[-1] += "" if gpus else f", where {format_bytes(problem.whole_bytes(size))} are whole on each, however many there are"
        ways.append(f"at least {gpus} --gpus" if gpus else MORE_MEMORY)
    if "text" in lacking[size]:
        enough = format_count(round_up(max(problem.shortest * params, problem.min_tokens_stage)), DIGITS)
        options = [] if problem.one_corpus else ["--general-tokens"]
        options += [] if problem.one_stage or problem.needs_trunk and not problem.texts[0] else ["--spec-tokens", "--max-epochs"]
        said.append(_text(problem, f"{named}, which take {problem.shortest:g} each at least"))
        ways.append(f"{enough} tokens{' of one kind, repeats counted' * (len(options) > 1)}, by {' or '.join(options)}")
    needed, inference = least_training(problem, size, tokens_per_param), size.flops_inference(request.inference_tokens)
    if "time" in lacking[size]:
        said.append(f"{request.training_flops:.3g} FLOPs in the time there is are too few to train {named}")
        ways.append(f"time for {round_up(needed):.{DIGITS}g} FLOPs, by --hours or --gpus")
    if "budget" in lacking[size]:
        paid = f", whose inference takes {inference:.3g} FLOPs" if inference else ""
        said.append(f"{request.flops:.3g} FLOPs are too few to train {named}{paid}")
        ways.append(f"at least {round_up(needed + inference):.{DIGITS}g} FLOPs")
    raise DataError("; ".join(said), remedy=f"give {', and '.join(ways)}{_or_smaller(problem, size)}")


def refuse_shapes(problem: Problem) -> NoReturn:
    """Say that no model has a size in the range asked for, and which are nearest to it.

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
    """Name what would let a limit on the general loss be kept, by its law: a budget, or what else binds, with a budget where it takes that too.

    Args:
        problem: one that no plan of keeps its limit.
        keeps: tells whether some plan of a problem keeps it.

    Returns:
        Words, empty where not even `MOST_BUDGET` times the budget would do.
    """
    request, unit = problem.request, ""
    if request.timed:  # what is called a budget here is time
        request, unit = replace(request, training_flops=None), "time for "
    lifts: list[tuple[str, bool, Callable[[Request], Request]]] = [
        ("more time", request.training_flops is not None, lambda asked: replace(asked, training_flops=None)),
        ("more general text", request.general_tokens is not None, lambda asked: replace(asked, general_tokens=None)),
        ("more memory, by --gpus or --gpu-memory", request.memory_per_gpu is not None, lambda asked: replace(asked, memory_per_gpu=None)),
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
    """Say that there is too little text for a size; what makes no stage counts for nothing."""
    amounts = {"general": problem.general_tokens, "specialist": problem.max_tokens_spec}
    if not problem.text:
        if problem.needs_trunk:
            amounts.pop("specialist")
        there = [f"{format_count(tokens)} {kind} tokens{' with repeats' * (kind == 'specialist')}" for kind, tokens in amounts.items() if tokens]
        each = "each " * (len(there) > 1)
        return f"{' and '.join(there)} are {each}too few for a stage of {MIN_STEPS} steps, {format_count(problem.min_tokens_stage)} tokens"
    lost = [f"; its {format_count(tokens)} {kind} ones make no stage" for kind, tokens in amounts.items() if 0 < tokens < problem.min_tokens_stage]
    return f"the text there is makes {format_count(problem.text)} tokens with its passes{''.join(lost)}, too few for {named}"


def _or_smaller(problem: Problem, size: Size) -> str:
    """Name a smaller size as a remedy where there is one that could be trained."""
    # Sizes without a recipe may be as small as one likes.
    smallest = problem.size(size.params_non_embedding / 2 if problem.recipe is None else SMALLEST)
    smaller = smallest.params_non_embedding < size.params_non_embedding
    return " or a smaller --params" if smaller and (problem.recipe is None or problem.trainable(smallest, problem.shortest)) else ""


def gpus_for(request: Request, needed: float, whole: float) -> int | None:
    """Return how many GPUs do for what needs so much of each of those there are, of which a part is whole on each [bytes]; None where no number does."""
    memory = request.memory_per_gpu or math.inf
    return None if whole >= memory else math.ceil(request.gpus * (needed - whole) / (memory - whole) * (1 - 1e-9))


def round_up(amount: float, digits: int = DIGITS) -> float:
    """Round a budget or an amount of text that does up to the digits with which it is told."""
    step = 10.0 ** (math.floor(math.log10(amount)) - digits + 1)
    return float(f"{step * math.ceil(amount / step - 1e-6):.{digits}g}")
