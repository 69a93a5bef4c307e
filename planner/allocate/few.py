"""What is said where budget, memory or text are too few for any plan, and what would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from planner.allocate.plans import Size
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.ladder import SMALLEST
from planner.units import format_bytes, format_count

if TYPE_CHECKING:
    from planner.allocate.problem import Problem


DIGITS = 4
"""Of a budget or an amount of text that is named, rounded up."""
TOO_SMALL = {"memory": "the memory", "text": "the text there is", "time": "the time that training may take", "budget": "the budget"}
"""What may be too little for a size, in words."""


def too_small(problem: Problem, size: Size, tokens_per_param: float) -> str:
    """Name what is too little for a size that cannot be trained, a key of `TOO_SMALL`."""
    if not problem.fits(size):
        return "memory"
    if problem.text < problem.shortest * size.params_non_embedding:
        return "text"
    return "time" if (problem.request.training_flops or math.inf) < least_training(problem, size, tokens_per_param) else "budget"


def least_training(problem: Problem, size: Size, tokens_per_param: float) -> float:
    """Return what the shortest training of a size takes, with so many tokens for each parameter [FLOPs]."""
    return max(tokens_per_param * size.params_non_embedding, problem.min_tokens_stage) * size.flops_per_token


def refuse_size(problem: Problem, sizes: Sequence[Size], tokens_per_param: float) -> NoReturn:
    """Say that memory, text, time or budget are too little for some sizes, what would do for the cheapest of them, and what for a smaller one.

    Raises:
        DataError: always.
    """
    served = problem.request.inference_tokens
    size = min(sizes, key=lambda size: least_training(problem, size, tokens_per_param) + size.flops_inference(served))
    request, cause, smaller = problem.request, too_small(problem, size, tokens_per_param), _or_smaller(problem, size)
    if cause == "memory":
        raise DataError(
            f"{format_count(size.params_non_embedding)} parameters take {format_bytes(problem.bytes_per_gpu(size))} of each of {request.gpus} GPUs, "
            f"and they have {format_bytes(request.memory_per_gpu or 0.0)}",
            remedy=f"give more --gpus{smaller}",
        )
    if cause == "text":
        enough = format_count(_up(max(problem.shortest * size.params_non_embedding, problem.min_tokens_stage)), DIGITS)
        ways = [] if problem.one_corpus else ["--general-tokens"]
        ways += [] if problem.one_stage else ["--spec-tokens", "--max-epochs"]
        raise DataError(
            f"the text there is makes {format_count(problem.text)} tokens with its passes, too few for {format_count(size.params_non_embedding)} "
            f"parameters, which take {problem.shortest:g} each at least",
            remedy=f"give {enough} tokens, by {', '.join(ways)}{',' * bool(smaller)}{smaller}",
        )
    inference = size.flops_inference(served)
    paid = f", whose inference takes {inference:.3g} FLOPs" if inference else ""
    needed = least_training(problem, size, tokens_per_param)
    if cause == "time":
        raise DataError(
            f"{request.training_flops:.3g} FLOPs in the time there is are too few to train {format_count(size.params_non_embedding)} parameters",
            remedy=f"give time for {_up(needed):.{DIGITS}g} FLOPs, by --hours or --gpus{smaller}",
        )
    raise DataError(
        f"{request.flops:.3g} FLOPs are too few to train {format_count(size.params_non_embedding)} parameters{paid}",
        remedy=f"give at least {_up(needed + inference):.{DIGITS}g} FLOPs{smaller}",
    )


def refuse_text(problem: Problem) -> NoReturn:
    """Say that there is too little text for any stage, or with what is too short for one for any size.

    Raises:
        DataError: always.
    """
    general, special = (format_count(tokens) for tokens in (problem.general_tokens, problem.max_tokens_spec))
    usable = sum(tokens for tokens in (problem.general_tokens, problem.max_tokens_spec) if tokens >= problem.min_tokens_stage)
    if usable:
        raise DataError(
            f"of {general} general tokens, and {special} specialist ones with repeats, what makes stages of {MIN_STEPS} steps, "
            f"{format_count(problem.min_tokens_stage)} tokens, is fewer than {problem.shortest:g} a parameter for every size",
            remedy=f"give more text or a larger --max-epochs{' or a smaller --params' if usable >= problem.shortest * _smallest(problem) else ''}",
        )
    raise DataError(
        f"{general} general tokens, and {special} specialist ones with repeats, are each too few for a stage of {MIN_STEPS} steps, "
        f"{format_count(problem.min_tokens_stage)} tokens",
        remedy="give more text or a larger --max-epochs",
    )


def _or_smaller(problem: Problem, size: Size) -> str:
    """Name a smaller size as a remedy where there is one that could be trained."""
    smallest = problem.size(_smallest(problem) or size.params_non_embedding / 2)
    smaller = smallest.params_non_embedding < size.params_non_embedding
    return " or a smaller --params" if smaller and (problem.recipe is None or problem.trainable(smallest, problem.shortest)) else ""


def _smallest(problem: Problem) -> float:
    """Return the parameters of the smallest shape; sizes without a recipe may be as small as one likes."""
    return 0.0 if problem.recipe is None else problem.size(SMALLEST).params_non_embedding


def _up(amount: float) -> float:
    """Round a budget or an amount of text that does up to few digits."""
    step = 10.0 ** (math.floor(math.log10(amount)) - DIGITS + 1)
    return step * math.ceil(amount / step - 1e-6)
