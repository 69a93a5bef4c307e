"""Limits on the general loss of every domain's model after its specialist stage, and the least replay that keeps them.

Replayed text is general text inside a branch, in addition to the trunk's: it makes the branch longer, counts like trunk text for the specialist loss,
and adds to that loss the cost in `planner.allocate.replay_cost`. A model without a specialist stage is its trunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from planner.allocate.plans import Plans
from planner.allocate.retention import Retention
from planner.arrays import Array
from planner.errors import DataError

if TYPE_CHECKING:
    from planner.allocate.domains.problem import DomainsProblem

MARGIN = 2e-4
"""In ln L, by which a search tightens a limit, to allow for rounding to whole steps."""


def groups(problem: DomainsProblem) -> list[tuple[Retention, Any]]:
    """List the limits, one for each law, with the numbers of its domains; empty if there is no limit."""
    found: dict[int, tuple[Retention, list[int]]] = {}
    for number, one in enumerate(problem.problems):
        if one.retention is not None:
            found.setdefault(id(one.retention.law), (one.retention, []))[1].append(number)
    return [(retention, np.array(members)) for retention, members in found.values()]


def branch_replay(problem: DomainsProblem, size: Any, trunk: Any, spec: Array, margin: float = MARGIN) -> Array:
    """Return the least share of replay with which branches keep the limit, NaN if none does, shape (..., domains, plans).

    Args:
        problem: the domains.
        size: numbers of sizes of the ladder, broadcast against `spec` like the trunk.
        trunk: general tokens of the trunk; replayed text comes on top.
        spec: specialist tokens of the branches.
        margin: by how much the limit is tightened, in ln L.
    """
    size, trunk, spec = np.broadcast_arrays(size, np.asarray(trunk, dtype=float), spec)
    result = np.zeros(spec.shape)
    for retention, members in groups(problem):
        at, general, special = (item[..., members, :].reshape(-1) for item in (size, trunk, spec))
        unique = np.broadcast_to(problem.unique[members][:, None], spec[..., members, :].shape).reshape(-1)
        share = np.full(len(at), np.nan)
        some = np.flatnonzero((general >= problem.least_stage * (1 - 1e-9)) & (general > 0))  # without a trunk there is no general loss to keep
        share[some] = retention.replay_after(problem.params_by(at[some]), general[some], special[some], unique[some], np.inf, margin)
        result[..., members, :] = share.reshape(spec[..., members, :].shape)
    return result


def model_replay(
    problem: DomainsProblem, size: Any, general: Array, spec: Array, margin: float = MARGIN, asked: Any = True, closely: bool = True
) -> Array:
    """Return the same for models of their own, whose general tokens include what is replayed; arrays have shape (domains, plans).

    Args:
        problem, size, spec, margin: as for `branch_replay`.
        general: general tokens.
        asked: mask of the plans to look at; NaN for the others.
        closely: whether to search between the shares that are tried.
    """
    result = np.zeros(spec.shape)
    for retention, members in groups(problem):
        at, pt, special, ask = (np.broadcast_to(item, spec.shape)[members].reshape(-1) for item in (size, general, spec, asked))
        unique = np.broadcast_to(problem.unique[:, None], spec.shape)[members].reshape(-1)
        share = np.full(len(at), np.nan)
        some = np.flatnonzero((pt > 0) & ask)
        plans = Plans(at[some], problem.params[at[some]], pt[some], special[some], unique[some], problem.ladder)
        share[some] = retention.replay(plans, problem.least_stage, margin, closely)
        result[members] = share.reshape(len(members), -1)
    return result


def refuse(problem: DomainsProblem) -> NoReturn:
    """Refuse a limit that not even a trunk with the whole budget keeps for every domain.

    Raises:
        DataError: always.
    """
    retention = groups(problem)[0][0]
    size = np.arange(len(problem.ladder))
    trunk = np.minimum(problem.tokens(size), problem.general_tokens)
    enough = np.flatnonzero(trunk >= np.maximum(problem.least_ratio.min() * problem.params, problem.least_stage))
    if not len(enough):
        raise DataError(f"no budget is left for a general stage that could keep {retention.limit}", remedy=f"give {_scarce(problem)}")
    size, trunk = size[enough], trunk[enough]
    losses = []
    for one, _ in groups(problem):
        none = np.zeros(len(size))
        losses.append(float(np.exp(one.law.log_loss(one.law.points(problem.params_by(size), trunk, none, np.ones(len(size)), none))).min()))
    raise DataError(
        f"no plan of this budget keeps {retention.limit}: even the best trunk without a specialist stage is forecast to reach only {max(losses):.4g}",
        remedy=f"relax the limit, or give {_scarce(problem)}",
    )


def _scarce(problem: DomainsProblem) -> str:
    """Name what limits a trunk that has the whole budget: FLOPs, general text, or either, depending on its size."""
    paid = problem.tokens(np.arange(len(problem.ladder)))
    ways = ["more FLOPs"] * bool(paid.min() <= problem.general_tokens) + ["more general text"] * bool(paid.max() > problem.general_tokens)
    return " or ".join(ways)
