"""Which open checkpoint to specialise, and how far: the general tokens are sunk, the budget buys specialist tokens alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from planner.allocate.allocate import allocate
from planner.allocate.allocation import Arm, Plan, Worth, behind
from planner.allocate.base import Base
from planner.allocate.base_answer import BaseAllocation, Choice, Kept, Way
from planner.allocate.base_stage import Stage, stage_of
from planner.allocate.base_warnings import warnings_of_bases
from planner.allocate.beyond import refuse_far
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.allocate.worth import MORE_COMPUTE, MORE_TEXT, worth_of
from planner.design.spec import MIN_STEPS
from planner.errors import DataError, InputError, PlannerError
from planner.fit.fitted import LEVEL, FittedLaw
from planner.flops import flops_6nd, flops_per_token
from planner.laws.dual import Array
from planner.method import Method
from planner.units import format_count

ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def allocate_bases(
    law: FittedLaw,
    request: Request,
    bases: Sequence[Base],
    method: Method | None = None,
    *,
    general: FittedLaw | None = None,
    kept_back: Sequence[float] = (),
    allow_extrapolation: bool = False,
) -> BaseAllocation:
    """Choose among checkpoints.

    Args:
        law: of two stages.
        request: budget and specialist text; sizes and general tokens are the bases' own.
        bases: the checkpoints.
        method: how the specialist stage is trained; as in the runs of the law by default.
        general: law of the general loss, where that is limited.
        kept_back: shares of the budget that might be kept back for a later stage.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        InputError: a share that is none, no base, two of one name, limits that a base has itself, or a law or a method of adapters in both stages.
        DataError: no base fits, the law is of one stage, or all lie too far beyond the runs.
    """
    problem = Problem.of(law, request, general)
    method = method or problem.method
    if problem.method.both or method.both:
        raise InputError(
            f"a --base is specialised in one stage, and {(problem.method if problem.method.both else method).name} has adapters in two",
            remedy="under a law of such runs leave --base away and give the checkpoint to plan launch --base; else choose --method lora or qlora",
        )
    if problem.one_stage:
        raise DataError("the law was fitted to runs of one stage and says nothing of specialising a base", remedy="give a law of two stages")
    if len({base.name for base in bases}) < len(bases) or not bases:
        raise InputError(f"{len(bases)} bases with {len({base.name for base in bases})} names", remedy="give each --base a name of its own")
    sized = request.params or request.params_range or request.params_among or request.general_tokens or request.inference_tokens
    if sized:
        raise InputError(
            "a base has its own size and general tokens, and its inference is not counted",
            remedy="leave away --params, --general-tokens and --inference-tokens",
        )
    for share in kept_back:
        if not 0 < share < 1:
            raise InputError(f"--kept-back {share:g} is not a share of the budget", remedy="give shares between 0 and 1, such as 0.1,0.3")
    gpus, memory = request.gpus, request.memory_per_gpu
    fitting = [base for base in bases if memory is None or method.bytes_per_gpu(base.shape, gpus, base.context) <= memory]
    if not fitting:
        least = min(bases, key=lambda base: method.bytes_per_gpu(base.shape, gpus, base.context))
        needed = method.bytes_per_gpu(least.shape, gpus, least.context)
        raise DataError(
            f"{least.name} needs {needed / 1e9:.3g} GB on each of {gpus} GPUs with --method {method.name}, and they have {(memory or 0.0) / 1e9:.3g} GB",
            remedy="give more --gpus, a smaller base, or --method lora or qlora",
        )
    cheapest = min(fitting, key=lambda base: method.flops_per_token(base.shape, base.context))
    needed = MIN_STEPS * cheapest.context * method.flops_per_token(cheapest.shape, cheapest.context)
    if request.flops < needed:
        raise DataError(
            f"{request.flops:.3g} FLOPs do not pay {MIN_STEPS} steps of one sequence of {cheapest.context:,} tokens of {cheapest.name}",
            remedy=f"give at least {1.005 * needed:.3g}, or context= if its sequences are shorter",
        )
    stages = [stage_of(problem, base, method, request) for base in fitting]
    if not all(np.isfinite(stage.resamples[:, stage.best]).all() for stage in stages):
        # A limit on the loss itself may be lower than where some base begins.
        able = [number for number, stage in enumerate(stages) if np.isfinite(stage.resamples[:, stage.best]).all()]
        if not able:
            assert problem.retention is not None
            raise DataError(f"no base keeps {problem.retention.limit}, with or without specialising it", remedy="relax the limit")
        fitting, stages = [fitting[number] for number in able], [stages[number] for number in able]
    ends = np.stack([stage.resamples[:, stage.best] for stage in stages])
    wins = np.bincount(ends.argmin(0), minlength=len(stages)) / ends.shape[1]
    made = [_choice(problem, base, method, stage, float(win), gpus) for base, stage, win in zip(fitting, stages, wins, strict=True)]
    order = np.argsort(ends.mean(1), kind="stable")
    if not allow_extrapolation:
        refuse_far(law, made[order[0]].plan.flops, made[order[0]].extrapolation)
    best = int(order[0])
    return BaseAllocation(
        request={
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(request).items()},
            "max_epochs": problem.max_epochs,
            "method": asdict(method),
        },
        choices=tuple(made[number] for number in order),
        longer=_longer(fitting, stages),
        scratch=_scratch(law, request, general, ends[best], allow_extrapolation),
        worths=tuple(_worths(problem, fitting[best], method, ends[best])),
        ways=tuple(_way(problem, fitting[best], way, method, ends[best]) for way in _ways(problem, method)),
        kept=tuple(_kept(problem, fitting[best], method, ends[best], share) for share in kept_back),
        warnings=tuple(warnings_of_bases(problem, bases, fitting, method, made, made[best])),
        source={key: value for key, value in law.source.items() if key != "runs"},
    )


def _choice(problem: Problem, base: Base, method: Method, stage: Stage, probability: float, gpus: int) -> Choice:
    shape, law, unique = base.shape, problem.law, problem.request.unique_spec
    spec, share = float(math.floor(stage.tokens[stage.best] + 1e-6)), float(stage.replay[stage.best])
    replayed = share / (1 - share) * spec
    size = {"non_embedding": [shape.params_non_embedding] * 2, "total": [base.params_total(problem.vocab)] * 2}
    forecast = law.forecast(size, [base.tokens, base.tokens + replayed], [0.0, spec], [unique] * 2)
    cost = (spec + replayed) * method.flops_per_token(shape, base.context)
    plan = Plan(
        shape.params_non_embedding,
        shape.params_total,
        base.tokens + replayed,
        spec,
        unique,
        spec / unique,
        spec / (base.tokens + replayed + spec),
        cost,
        flops_6nd(shape.params_non_embedding, spec + replayed),
        float(forecast.loss[1]),
        float(forecast.low[1]),
        float(forecast.high[1]),
        shape.to_dict() if base.exact else None,
    )
    gain = -100 * np.expm1(stage.resamples[:, stage.best] - stage.before)
    low, high = np.quantile(gain, ENDS)
    sunk = base.tokens * flops_per_token(shape, base.context)
    factors = law.support.factors(shape.params_non_embedding, base.tokens, spec, unique, sunk + cost)
    return Choice(
        base.name,
        plan,
        float(forecast.loss[0]),
        float(forecast.low[0]),
        float(forecast.high[0]),
        float(gain.mean()),
        float(low),
        float(high),
        probability,
        method.trained(shape),
        method.bytes_per_gpu(shape, gpus, base.context),
        {name: float(value) for name, value in factors.items() if name != "flops_6nd"},
        asdict(problem.retention.tell(replace(plan, params_total=base.params_total(problem.vocab)), share, base.tokens)) if problem.retention else None,
    )


def _longer(bases: Sequence[Base], stages: Sequence[Stage]) -> str:
    """Say whether the law has the base of more tokens per parameter adapt less, each specialised as far as is best for it."""
    if len(bases) < 2:
        return ""
    ratio = [base.tokens / base.shape.params_non_embedding for base in bases]
    long, short = int(np.argmax(ratio)), int(np.argmin(ratio))
    gains = [-100 * np.expm1(stages[number].resamples[:, stages[number].best] - stages[number].before) for number in (long, short)]
    if not (gains[0].any() or gains[1].any()):
        return ""  # a limit on the general loss lets neither be specialised
    share = float((gains[0] < gains[1]).mean())
    less, more = (float(gain.mean()) for gain in gains)
    return (
        f"{bases[long].name} ({_ratio(ratio[long])} general tokens per parameter) gains less from specialising than {bases[short].name} "
        f"({_ratio(ratio[short])}) in {share:.0%} of the resamples: {less:.2g} against {more:.2g} % of the loss on average"
    )


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _scratch(law: FittedLaw, request: Request, general: FittedLaw | None, mine: Array, allow_extrapolation: bool) -> Arm:
    """Spend the same FLOPs on a model of one's own."""
    name = "from scratch"
    try:
        other = allocate(law, request, general=general, allow_extrapolation=allow_extrapolation).plan
    except PlannerError as error:
        return Arm(name, None, None, None, error.message)
    size = {"non_embedding": [other.params_non_embedding], "total": [other.params_total]}
    theirs = law.log_loss_resamples(law.points(size, [other.tokens_pt], [other.tokens_spec], [other.unique_spec]), MOST_RESAMPLES)[:, 0]
    return Arm(name, other, *behind(theirs, mine))


def _worths(problem: Problem, base: Base, method: Method, mine: Array) -> list[Worth]:
    request = problem.request
    more = f"twice the specialist text ({format_count(request.unique_spec)} more distinct tokens)"
    changes = {
        f"{100 * (MORE_COMPUTE - 1):.0f} % more compute": replace(request, flops=MORE_COMPUTE * request.flops),
        more: replace(request, unique_spec=MORE_TEXT * request.unique_spec),
        "one more epoch over the specialist text": replace(request, max_epochs=problem.max_epochs + 1),
    }
    stages = {name: stage_of(replace(problem, request=changed), base, method, changed) for name, changed in changes.items()}
    return [worth_of(name, mine - stage.resamples[:, stage.best]) for name, stage in stages.items()]


def _ways(problem: Problem, method: Method) -> list[Method]:
    """List the methods to set side by side, the adapters being those asked for, or those of the law's recipe."""
    adapters = method if method.name != "full" else problem.recipe.method("lora") if problem.recipe and problem.method.name != "full" else Method("lora")
    return [Method(), replace(adapters, name="lora"), replace(adapters, name="qlora")]


def _way(problem: Problem, base: Base, way: Method, chosen: Method, mine: Array) -> Way:
    """Say what the budget pays of a method's specialist stage, and what that would come to if its tokens taught as those of the law's runs did."""
    stage = stage_of(problem, base, way, problem.request)
    spec, share = float(math.floor(stage.tokens[stage.best] + 1e-6)), float(stage.replay[stage.best])
    memory, need = problem.request.memory_per_gpu, way.bytes_per_gpu(base.shape, problem.request.gpus, base.context)
    higher, _ = behind(stage.resamples[:, stage.best], mine)
    return Way(
        way.name, way.name == chosen.name, way.name == problem.method.name, spec, spec / problem.request.unique_spec,
        spec / (1 - share) * way.flops_per_token(base.shape, base.context), way.trained(base.shape), need, memory is None or need <= memory, higher,
    )  # fmt: skip


def _kept(problem: Problem, base: Base, method: Method, mine: Array, share: float) -> Kept:
    request = replace(problem.request, flops=(1 - share) * problem.request.flops)
    stage = stage_of(problem, base, method, request)
    higher = 100 * np.expm1(stage.resamples[:, stage.best] - mine)
    low, high = np.quantile(higher, ENDS)
    return Kept(share, float(math.floor(stage.tokens[stage.best] + 1e-6)), float(higher.mean()), float(low), float(high))
