"""Which bases can be chosen: those that fit in memory, whose inference the budget pays, and that keep a limit on the general loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_stage import Stage, stage_of
from planner.allocate.infeasible import MORE_MEMORY, gpus_for, round_up
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.design.spec import MIN_STEPS
from planner.errors import DataError
from planner.method import Method
from planner.units import format_bytes, format_count, format_list, format_number

BUDGET_DIGITS = 3
"""Digits of a budget, or a time, in a message."""


@dataclass(frozen=True)
class Feasible:
    """Bases that can be chosen, each with its specialist stage."""

    bases: tuple[Base, ...]
    stages: tuple[Stage, ...]
    left_out: dict[str, str]
    """By name of the others, the reason."""


def feasible(problem: Problem, bases: Sequence[Base], method: Method) -> Feasible:
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
    # A limit on the loss itself may be below the present loss of some base.
    keeps = [bool(np.isfinite(stage.end).all()) for stage in stages]
    if not all(keeps):
        assert problem.retention is not None
        limit = problem.retention.limit
        above = [100 * float(problem.retention.passed_by(base.params_by(problem.vocab), np.array([base.tokens]))[0]) for base in kept]
        if not any(keeps):
            nearest = f"the nearest, {kept[int(np.argmin(above))].name}, is {format_number(min(above), 2)} % above it before specialising"
            raise DataError(f"no base keeps {limit}, specialised or not: {nearest}", remedy="relax the limit")
        left_out |= {
            base.name: f"its general loss before specialising is {format_number(most, 2)} % above the limit, {limit}"
            for base, good, most in zip(kept, keeps, above, strict=True) if not good
        }  # fmt: skip
    pairs = [(base, stage) for base, stage, good in zip(kept, stages, keeps, strict=True) if good]
    return Feasible(tuple(base for base, _ in pairs), tuple(stage for _, stage in pairs), left_out)


def least_tokens(base: Base) -> int:
    """Return the tokens of the shortest stage that is more than a transient, with one sequence per step."""
    return MIN_STEPS * base.context


def _that_fit(problem: Problem, bases: Sequence[Base], method: Method, left_out: dict[str, str]) -> list[Base]:
    """Keep the bases that fit in memory, and note why the others do not; if none fits, keep the one that comes nearest."""
    gpus, memory = problem.request.gpus, problem.request.memory_per_gpu
    if memory is None:
        return list(bases)
    needed = {base.name: method.bytes_per_gpu(base.shape, gpus, base.context) for base in bases}
    if min(needed.values()) > memory:
        return [min(bases, key=lambda base: needed[base.name])]
    there = f"on each of {gpus} GPUs, which have {format_bytes(memory)}"
    left_out |= {name: f"it needs {format_bytes(count)} {there}" for name, count in needed.items() if count > memory}
    return [base for base in bases if needed[base.name] <= memory]


def _that_pay(problem: Problem, bases: Sequence[Base], method: Method, left_out: dict[str, str]) -> list[Base]:
    """Keep the bases whose inference the budget pays, and note by how much it falls short for the others.

    Raises:
        DataError: memory, time or budget is too small for each of them; the message lists all that the cheapest lacks.
    """
    request = problem.request
    inference = {base.name: base.flops_inference(request.inference_tokens) for base in bases}
    stage = {base.name: least_tokens(base) * method.flops_per_token(base.shape, base.context) for base in bases}

    def lacks(base: Base) -> dict[str, tuple[str, str]]:
        """Return by cause what is too small, and what would suffice."""
        served, least = inference[base.name], stage[base.name]
        needs = f"{MIN_STEPS} steps of one sequence of {base.context:,} tokens of {base.name}"
        found = {}
        if request.memory_per_gpu is not None and method.bytes_per_gpu(base.shape, request.gpus, base.context) > request.memory_per_gpu:
            found["memory"] = _of_memory(request, base, method)
        if (request.training_flops or math.inf) < least:
            time = f"the {request.training_flops:.3g} FLOPs of the time limit do not pay for {needs}"
            found["time"] = time, f"time for {round_up(least, BUDGET_DIGITS):.{BUDGET_DIGITS}g} FLOPs, with --hours or --gpus"
        if request.timed or served + least <= request.flops:
            return found
        said = f"{request.flops:.3g} FLOPs do not pay for {needs}" + (f" in addition to {served:.3g} FLOPs of its inference" if served else "")
        ways = f"at least {round_up(served + least, BUDGET_DIGITS):.{BUDGET_DIGITS}g} FLOPs"
        if served > request.flops:
            others = "; the other bases need even more" if len(bases) > 1 and served == min(inference.values()) else ""
            said = (
                f"{format_count(request.inference_tokens)} inference tokens of {base.name} take {served:.3g} FLOPs, "
                f"{served - request.flops:.3g} more than the budget of {request.flops:.3g}{others}"
            )
        found["budget"] = said, ways
        return found

    lacking = {base.name: lacks(base) for base in bases}
    if all(lacking.values()):
        cheapest = min(bases, key=lambda base: (len(lacking[base.name]), inference[base.name] + stage[base.name]))
        said, ways = zip(*lacking[cheapest.name].values(), strict=True)
        also = [] if "memory" in lacking[cheapest.name] else ["context= if its sequences are shorter", "a smaller base"]
        if inference[cheapest.name] > request.flops:
            also = ["fewer --inference-tokens", *also[1:]]
        raise DataError("; ".join(said), remedy=", or ".join(["give " + ", and ".join(ways), *also]))
    left_out |= {
        name: f"its inference takes {cost:.3g} FLOPs, {cost - request.flops:.3g} more than the budget"
        for name, cost in inference.items() if cost > request.flops
    }  # fmt: skip
    return [base for base in bases if inference[base.name] <= request.flops]


def _of_memory(request: Request, base: Base, method: Method) -> tuple[str, str]:
    """Say that a base does not fit on the GPUs, and how many of them, or which method, would suffice."""

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
    whole = f"; {format_bytes(method.whole_bytes(base.shape, base.context))} of the need are whole on every GPU, however many there are"
    need = format_bytes(method.bytes_per_gpu(base.shape, request.gpus, base.context))
    said = f"{base.name} needs {need} on each of {request.gpus} GPUs with --method {method.name}, which have {memory}{'' if own else whole}"
    return said, format_list(ways, "or")
