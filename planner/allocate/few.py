"""What is said where budget, memory or text are too few for any plan, and what would do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from planner.allocate.plans import Size
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.units import format_bytes, format_count

if TYPE_CHECKING:
    from planner.allocate.problem import Problem


def refuse_size(problem: Problem, size: Size, tokens_per_param: float) -> NoReturn:
    """Say that the budget, or the memory, is too small for a size, the smallest there is, and what would do.

    Raises:
        DataError: always.
    """
    request = problem.request
    if not problem.fits(size):
        raise DataError(
            f"{format_count(size.params_non_embedding)} parameters take {format_bytes(problem.bytes_per_gpu(size))} of each of {request.gpus} GPUs, "
            f"and they have {format_bytes(request.memory_per_gpu or 0.0)}",
            remedy="give more --gpus or a smaller --params",
        )
    if problem.text < (wanted := problem.shortest * size.params_non_embedding):
        enough = format_count(max(wanted, problem.min_tokens_stage))
        raise DataError(
            f"the text there is makes {format_count(problem.text)} tokens with its passes, too few for {format_count(size.params_non_embedding)} "
            f"parameters, which take {problem.shortest:g} each at least",
            remedy=f"give {enough} tokens, by --general-tokens, --spec-tokens or --max-epochs, or a smaller --params",
        )
    inference = size.flops_inference(request.inference_tokens)
    paid = f", whose inference takes {inference:.3g} FLOPs" if inference else ""
    needed = max(tokens_per_param * size.params_non_embedding, problem.min_tokens_stage) * size.flops_per_token
    if (request.training_flops or math.inf) < needed:
        raise DataError(
            f"{request.training_flops:.3g} FLOPs in the time there is are too few to train {format_count(size.params_non_embedding)} parameters",
            remedy=f"give time for {1.005 * needed:.3g} FLOPs, by --hours or --gpus, or a smaller --params",
        )
    raise DataError(
        f"{request.flops:.3g} FLOPs are too few to train {format_count(size.params_non_embedding)} parameters{paid}",
        remedy=f"give at least {1.005 * (needed + inference):.3g} FLOPs or a smaller --params",
    )


def refuse_text(problem: Problem) -> NoReturn:
    """Say that there is too little text for any stage, or with what is too short for one for any size.

    Raises:
        DataError: always.
    """
    general, special = (format_count(tokens) for tokens in (problem.general_tokens, problem.max_tokens_spec))
    if max(problem.general_tokens, problem.max_tokens_spec) >= problem.min_tokens_stage:
        raise DataError(
            f"of {general} general tokens, and {special} specialist ones with repeats, what makes stages of {MIN_STEPS} steps, "
            f"{format_count(problem.min_tokens_stage)} tokens, is fewer than {problem.shortest:g} a parameter for every size",
            remedy="give more text, a larger --max-epochs or a smaller --params",
        )
    raise DataError(
        f"{general} general tokens, and {special} specialist ones with repeats, are each too few for a stage of {MIN_STEPS} steps, "
        f"{format_count(problem.min_tokens_stage)} tokens",
        remedy="give more text or a larger --max-epochs",
    )
