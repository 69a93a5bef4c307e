"""The target region for a choice among bases: each base after every amount of specialist text that could be as good as the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.allocate.base import Base
from planner.allocate.base_feasible import feasible
from planner.allocate.extrapolation import AXIS_NAMES, TOO_FAR
from planner.allocate.plans import Plans, Size
from planner.allocate.problem import Problem
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.flops import flops_per_token
from planner.method import Method
from planner.next_runs.candidates import Candidates
from planner.next_runs.target import Target
from planner.units import format_count


def target_of_bases(law: FittedLaw, request: Request, bases: Sequence[Base], method: Method, general: FittedLaw | None = None) -> Target:
    """Find the region: pairs of a base and an amount of specialist text, with the base's general tokens and those replayed.

    Args:
        law: the fit so far.
        request: budget, text and limits; plans within its tolerance of the best count as equally good.
        bases: the checkpoints.
        method: how they are specialised.
        general: the law of the general loss, if that is limited.

    Raises:
        DataError: no base can be chosen.
    """
    problem = Problem.of(law, request, general)
    found = feasible(problem, bases, method)
    sizes = tuple(_size(problem, base, method) for base in found.bases)
    number = np.repeat(np.arange(len(sizes)), [len(stage.tokens) for stage in found.stages])
    spec, replay = (np.concatenate([getattr(stage, name) for stage in found.stages]) for name in ("tokens", "replay"))
    sunk = np.array([base.tokens for base in found.bases], dtype=float)[number]
    params = np.array([size.params_non_embedding for size in sizes], dtype=float)[number]
    plans = Plans(number, params, sunk + replay / (1 - replay) * spec, spec, np.full(len(spec), float(request.unique_spec)), sizes, replay)
    resamples = np.concatenate([stage.resamples for stage in found.stages], axis=1)
    return Target.among(plans, resamples, int(np.argmin(resamples.mean(0))), request.tolerance)


def refuse_unreachable(target: Target, given: Candidates, law: FittedLaw) -> None:
    """Refuse a design whose target lies more than TOO_FAR beyond all runs, both those of the law and the possible new ones.

    Raises:
        DataError: it does.
    """
    general, special, _ = given.tokens
    plans = target.plans
    axes = {
        "params": (plans.params, given.params_by["non_embedding"]), "tokens_pt": (plans.tokens_pt, general), "tokens_spec": (plans.tokens_spec, special),
    }  # fmt: skip
    for name, (wanted, runs) in axes.items():
        most, reach = float(wanted.max()), max(float(runs.max()), law.support.high[name])
        if most > TOO_FAR * reach:
            raise DataError(
                f"the bases lie too far beyond any run to design for them: {AXIS_NAMES[name]} {format_count(most)}, {most / reach:.3g}× the "
                f"{format_count(reach)} of all present runs and those that the budget pays for; the limit is {TOO_FAR:g}×",
                remedy=f"give a budget that pays for runs of {format_count(most / TOO_FAR)} or more, or choose bases closer to the runs",
            )


def _size(problem: Problem, base: Base, method: Method) -> Size:
    full = flops_per_token(base.shape, base.context)
    special = method.flops_per_token(base.shape, base.context)
    return Size(base.shape.params_non_embedding, base.params_total(problem.vocab), full, base.shape, special / full)
