"""Which open checkpoint to specialise, and how far: its general tokens are sunk cost; the budget pays for specialist tokens and inference only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_answer import BaseAllocation, Guess
from planner.allocate.base_beside import base_worths, kept_of, other_laws, scratch, warnings_of_ways, ways
from planner.allocate.base_choice import choice_of, plan_of
from planner.allocate.base_exchange import base_exchange
from planner.allocate.base_feasible import Feasible, feasible
from planner.allocate.base_longer import longer
from planner.allocate.base_warnings import warnings_of_bases
from planner.allocate.budget import cost_of
from planner.allocate.extrapolation import refuse_far, refuse_far_general
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.method import Method


def allocate_bases(
    law: FittedLaw,
    request: Request,
    bases: Sequence[Base],
    method: Method | None = None,
    *,
    general: FittedLaw | None = None,
    kept_back: Sequence[float] = (),
    others: Sequence[FittedLaw] = (),
    robust: bool = True,
    allow_extrapolation: bool = False,
) -> BaseAllocation:
    """Choose among checkpoints.

    Args:
        law: a two-stage law.
        request: budget and specialist text; sizes and general tokens are those of the bases.
        bases: the checkpoints.
        method: how the specialist stage is trained; as in the runs of the law by default.
        general: law of the general loss, if that is limited.
        kept_back: shares of the budget that might be kept back for a later stage.
        others: laws of runs by other methods, to compare those with the method asked for.
        robust: whether to recommend the lowest mean over the resamples, rather than the best guess of the fitted parameters.
        allow_extrapolation: whether to answer further than TOO_FAR beyond the runs.

    Raises:
        InputError: an invalid share, no base, two of one name, limits that contradict a base, or a law or a method with adapters in both stages.
        DataError: no base fits, the law is of one stage, or all lie too far beyond the runs.
    """
    problem = Problem.of(law, request, general, robust=robust)
    method = method or problem.method
    _consistent(problem, bases, method, kept_back)
    found = feasible(problem, bases, method)
    ends = np.stack([stage.end for stage in found.stages])
    wins = np.bincount(ends.argmin(0), minlength=len(ends)) / ends.shape[1]
    order = np.argsort(ends.mean(1) if robust else [stage.guess.min() for stage in found.stages], kind="stable")
    best, stage = found.bases[order[0]], found.stages[order[0]]
    pairs = zip(found.bases, found.stages, wins, strict=True)
    own = np.min([its.resamples.min(1) for its in found.stages], axis=0)
    made = [choice_of(problem, base, method, its, float(win), stage.end, own) for base, its, win in pairs]
    recommended = made[order[0]]
    if not allow_extrapolation:
        refuse_far(law, recommended.plan.flops, recommended.extrapolation, sized=True)
        sunk, counted = best.tokens * flops_per_token(best.shape, best.context), replace(recommended.plan, tokens_pt=best.tokens)
        refuse_far_general(problem.retention, counted, sunk + counted.flops, sized=True)
    alone = scratch(problem, stage.end, allow_extrapolation)
    by_others = other_laws(problem, others)
    every = ways(problem, best, method, stage, by_others)
    prices, why = base_worths(problem, best, method, stage)
    return BaseAllocation(
        request={
            **request.to_dict(),
            "max_epochs": problem.max_epochs,
            "method": asdict(method),
            "bases": [base.to_dict() for base in bases],
        },
        choices=tuple(made[number] for number in order),
        longer=longer(law, found.bases, found.stages),
        scratch=alone,
        worths=tuple(prices),
        ways=tuple(every),
        kept=tuple(kept_of(problem, best, method, stage, share) for share in kept_back),
        warnings=(*warnings_of_ways(every, best, by_others), *warnings_of_bases(problem, found, method, made, recommended, alone)),
        source=law.origin,
        left_out=found.left_out,
        best_guess=_best_guess(problem, found, method),
        exchange="; ".join(text for text in (base_exchange(problem, best, method, stage), why) if text),
        cost=cost_of(request, recommended.plan.flops, recommended.plan.flops_inference),
    )


def _best_guess(problem: Problem, found: Feasible, method: Method) -> Guess:
    """Choose by the fitted parameters alone."""
    number = int(np.argmin([stage.guess.min() for stage in found.stages]))
    base, stage = found.bases[number], found.stages[number]
    return Guess(base.name, plan_of(replace(problem, robust=False), base, method, *stage.amount(stage.best_guess)))


def _consistent(problem: Problem, bases: Sequence[Base], method: Method, kept_back: Sequence[float]) -> None:
    """Refuse what contradicts a base.

    Raises:
        InputError: an invalid share, no base, two of one name, limits that contradict a base, or a law or a method with adapters in both stages.
        DataError: the law is of one stage.
    """
    if problem.method.both or method.both:
        raise InputError(
            f"a --base is specialised in one stage, but {(problem.method if problem.method.both else method).name} uses adapters in both stages",
            remedy="with a law of such runs leave out --base and give the checkpoint to plan launch --base; else choose --method lora or qlora",
        )
    if problem.one_stage or problem.one_corpus:
        raise DataError("the law was fitted to single-stage runs and says nothing about specialising a base", remedy="give a two-stage law")
    if len({base.name for base in bases}) < len(bases) or not bases:
        raise InputError(f"{len(bases)} bases with {len({base.name for base in bases})} names", remedy="give each --base a name of its own")
    request = problem.request
    if request.sized or request.params_range or request.general_tokens:
        raise InputError("a base has its own size and general tokens", remedy="leave out --params and --general-tokens")
    for share in kept_back:
        if not 0 < share < 1:
            raise InputError(f"--kept-back {share:g} is not a share of the budget", remedy="give shares between 0 and 1, such as 0.1,0.3")
