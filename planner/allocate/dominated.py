"""Under a limit on the rise of the general loss: whether a plan that exceeds it would be better in both losses.

The rise is measured from the same model before its specialist stage, so a worse trunk has less to lose: a tight limit may favour a model that is worse
in both losses.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.optimum import coarse
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost
from planner.allocate.retention import GeneralLoss

CLEARLY = 2e-3
"""In ln L: by how much another plan must be better in each loss to be mentioned."""


def better_in_both(problem: Problem, plan: Plan, kept: GeneralLoss, mine: float) -> str:
    """Say which limit would lower both losses; empty if none does, or if the rise is not limited.

    Args:
        problem: the request, under a limit.
        plan: the recommendation.
        kept: its general loss.
        mine: its ln L, mean over the resamples.
    """
    retention = problem.retention
    if retention is None or problem.request.max_general_rise is None or plan.tokens_spec == 0:
        return ""
    free = replace(problem, request=replace(problem.request, max_general_rise=None, max_general_loss=None), retention=None)
    found = coarse(free)
    two_stage = (found.plans.tokens_spec > 0) & (found.plans.tokens_pt > 0)
    best, said = np.log(kept.loss) - CLEARLY, ""
    for share in retention.replays:
        expected = found.expected + cost(share)
        special = np.flatnonzero(two_stage & (expected < mine - CLEARLY))
        plans = found.plans.rows(special)
        after, before = retention.losses(plans, share, problem.min_tokens_stage)
        if len(after) and np.nanmin(after, initial=np.inf) < best:
            row = int(np.nanargmin(after))
            best, rise = float(after[row]), 100 * float(np.expm1(after[row] - before[row]))
            limit = ceil(1e3 * np.exp(best)) / 1e3
            said = (
                f"a plan whose general loss rises {rise:.2g} % would be better in both losses: {np.exp(after[row]):.4g} general instead of "
                f"{kept.loss:.4g}, {np.exp(expected[special[row]]):.4g} specialist instead of {np.exp(mine):.4g} (means over the refits). A limit on the "
                f"rise favours models that start worse; --max-general-loss {limit:g} limits the final loss instead"
            )
    return said
