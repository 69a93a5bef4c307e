"""Which bases a request lets one choose among: those that the memory holds, whose inference the budget pays, and that keep a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_stage import Stage, stage_of
from planner.allocate.few import MORE_MEMORY, gpus_for
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.method import Method
from planner.units import format_bytes, format_count, format_number


@dataclass(frozen=True)
class Able:
    """Bases that can be chosen, each with what it comes to."""

    bases: tuple[Base, ...]
    stages: tuple[Stage, ...]
    left_out: dict[str, str]
    """By name of the others: why."""


def able(problem: Problem, bases: Sequence[Base], method: Method) -> Able:
    """Leave out what cannot be chosen.

    Args:
        problem: the request.
        bases: all that were given, one at least.
        method: how they are specialised.

    Raises:
        DataError: none is left.
    """
    left_out: dict[str, str] = {}
    kept = _that_pay(problem, _that_fit(problem, bases, method, left_out), method, left_out)
    stages = [stage_of(problem, base, method) for base in kept]
    # A limit on the loss itself may be lower than where some base begins.
    keeps = [bool(np.isfinite(stage.end).all()) for stage in stages]
    if not all(keeps):
        assert problem.retention is not None
        limit = problem.retention.limit
        above = [100 * float(problem.retention.passed_by(base.params_by(problem.vocab), np.array([base.tokens]))[0]) for base in kept]
        if not any(keeps):
            nearest = f"the nearest as it is, {kept[int(np.argmin(above))].name}, is {format_number(min(above), 2)} % above it"
            raise DataError(f"no base keeps {limit}, with or without specialising it: {nearest}", remedy="relax the limit")
        left_out |= {
            base.name: f"{limit} is not kept from the start: as it is, it is {format_number(most, 2)} % above it"
            for base, good, most in zip(kept, keeps, above, strict=True) if not good
        }  # fmt: skip
    pairs = [(base, stage) for base, stage, good in zip(kept, stages, keeps, strict=True) if good]
    return Able(tuple(base for base, _ in pairs), tuple(stage for _, stage in pairs), left_out)


def least_tokens(base: Base) -> int:
    """Return the tokens of the shortest stage that is more than a transient, of one sequence a step."""
    return MIN_STEPS * base.context


def _that_fit(problem: Problem, bases: Sequence[Base], method: Method, left_out: dict[str, str]) -> list[Base]:
    """Keep those that the memory holds, and say of the others why not."""
    gpus, memory = problem.request.gpus, problem.request.memory_per_gpu
    if memory is None:
        return list(bases)
    needed = {base.name: method.bytes_per_gpu(base.shape, gpus, base.context) for base in bases}
    least = min(needed, key=lambda name: needed[name])
    if needed[least] > memory:
        refuse_memory(problem.request, next(base for base in bases if base.name == least), method)
    there = f"on each of {gpus} GPUs, which have {format_bytes(memory)}"
    left_out |= {name: f"it needs {format_bytes(count)} {there}" for name, count in needed.items() if count > memory}
    return [base for base in bases if needed[base.name] <= memory]


def refuse_memory(request: Request, base: Base, method: Method) -> NoReturn:
    """Say that a base does not fit the GPUs, and how many of them, or which method, would hold it.

    Raises:
        DataError: always.
    """

    def enough(way: Method) -> int | None:
        return gpus_for(request, way.bytes_per_gpu(base.shape, request.gpus, base.context), way.whole_bytes(base.shape, base.context))

    own, memory = enough(method), format_bytes(request.memory_per_gpu or 0.0)
    ways = [f"at least {own} --gpus"] if own else []
    for name in ("lora", "qlora"):
        other = replace(method, name=name)
        if name != method.name and other.fits(base.shape) and (count := enough(other)) and count < (own or math.inf):
            ways.append(f"--method {name}" + (f" with at least {count} --gpus" if count > request.gpus else ""))
    short = Method().whole_bytes(base.shape, base.context) >= (request.memory_per_gpu or 0.0)
    ways += [f"context= if sequences are shorter than {base.context:,} tokens"] * short + ["a smaller base", MORE_MEMORY]
    whole = f", where {format_bytes(method.whole_bytes(base.shape, base.context))} are whole on each, however many there are"
    need = format_bytes(method.bytes_per_gpu(base.shape, request.gpus, base.context))
    raise DataError(
        f"{base.name} needs {need} on each of {request.gpus} GPUs with --method {method.name}, and they have {memory}{'' if own else whole}",
        remedy=f"give {', '.join(ways[:-1])} or {ways[-1]}",
    )


def _that_pay(problem: Problem, bases: Sequence[Base], method: Method, left_out: dict[str, str]) -> list[Base]:
    """Keep those whose inference the budget pays, and say of the others by how much it does not.

    Raises:
        DataError: it pays that of none, or no stage of any beside it.
    """
    flops, tokens = problem.request.flops, problem.request.inference_tokens
    inference = {base.name: base.flops_inference(tokens) for base in bases}
    stage = {base.name: least_tokens(base) * method.flops_per_token(base.shape, base.context) for base in bases}
    cheapest = min(bases, key=lambda base: inference[base.name] + stage[base.name])
    remedy = f"give at least {1.005 * (inference[cheapest.name] + stage[cheapest.name]):.3g} FLOPs"
    if min(inference.values()) > flops:
        least = min(inference, key=lambda name: inference[name])
        raise DataError(
            f"{format_count(tokens)} inference tokens of {least} take {inference[least]:.3g} FLOPs, {inference[least] - flops:.3g} more than the budget "
            f"of {flops:.3g}" + (", and those of the other bases more still" if len(bases) > 1 else ""),
            remedy=f"{remedy}, fewer --inference-tokens, or a smaller base",
        )
    within = problem.request.training_flops
    if within is not None and within < min(stage.values()):
        raise DataError(
            f"{within:.3g} FLOPs in the time there is do not pay {MIN_STEPS} steps of any base",
            remedy=f"give time for {1.005 * min(stage.values()):.3g} FLOPs, by --hours or --gpus",
        )
    if flops < inference[cheapest.name] + stage[cheapest.name]:
        beside = f" beside {inference[cheapest.name]:.3g} FLOPs of its inference" if tokens else ""
        raise DataError(
            f"{flops:.3g} FLOPs do not pay {MIN_STEPS} steps of one sequence of {cheapest.context:,} tokens of {cheapest.name}{beside}",
            remedy=f"{remedy}, or context= if its sequences are shorter",
        )
    left_out |= {
        name: f"its inference takes {cost:.3g} FLOPs, {cost - flops:.3g} more than the budget" for name, cost in inference.items() if cost > flops
    }
    return [base for base in bases if inference[base.name] <= flops]
