"""Decisions replayed: among trained runs of equal compute and equal text, which one would have been chosen, and its regret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from planner.arrays import Array
from planner.fit.data import FitData

SAME_COMPUTE = 1.25
"""A budget buys any run that costs as much, or less by at most this factor."""
SAME_TEXT = 1.1
"""Amounts of distinct text within this factor are one amount: caps are whole documents, and a pass may end a little past its text."""
LEAST_CHOICES = 3
"""Fewest distinct splits that make a decision."""
PLAN, HINDSIGHT = "the plan", "in hindsight"
"""Choices by a law: fitted to the runs below, and fitted to all runs, whose regret comes from noise and the law's form, not from extrapolation."""
ANY, LARGEST, MOST_SPECIALIST, COPY = "any run", "largest model", "most special text", "best split so far"
"""Choices by a rule of thumb."""


@dataclass(frozen=True)
class Decision:
    """What to train with a budget and an amount of distinct specialist text, and the regret of each way to choose."""

    flops: float
    """The budget: FLOPs of the most expensive run."""
    unique_spec: float | None
    """Distinct specialist tokens available; None in a table of one stage."""
    runs: tuple[str, ...]
    """The choices; of runs that differ in the seed only, one stands for all."""
    chosen: str
    """The run that the plan would have taken."""
    best: str
    """The run that was best."""
    regret_percent: Mapping[str, float]
    """By way to choose: measured loss over the best one's, minus one [%]. Where a rule leaves several runs, their mean."""


def decide(above: FitData, expected: Mapping[str, Array], below: FitData) -> tuple[Decision, ...]:
    """Replay all decisions that a table allows.

    Args:
        above: the runs to choose among, n of them.
        expected: for each way to choose by a law, `PLAN` first, the values that rank the runs, the least best: forecast losses or a function of those,
            each of shape (n,).
        below: the runs known when the choice is made.
    """
    found = []
    for unique, members in groups(above):
        choices = _choices(above, members)
        # Runs without specialist tokens can be chosen, but do not count as alternatives.
        if sum(unique is None or above.tokens_spec[rows[0]] > 0 for rows in choices) >= LEAST_CHOICES:
            found.append(_decide(above, expected, below, unique, choices))
    return tuple(found)


def groups(data: FitData) -> list[tuple[float | None, Array]]:
    """Group runs between which one might have had to choose.

    From the most expensive run down, a run opens a group of budget C with all that cost C/SAME_COMPUTE to C, so each run has one budget. Within it,
    each amount U of distinct specialist text has the runs that would have been the same with U available: see `with_text`.

    Returns:
        Pairs of U (None where no run of the group has specialist tokens) and row numbers.
    """
    found: list[tuple[float | None, Array]] = []
    rest = np.argsort(-data.flops, kind="stable")
    while len(rest):
        equal = data.flops[rest] * SAME_COMPUTE >= data.flops[rest[0]]
        band, rest = rest[equal], rest[~equal]
        amounts: list[float] = []
        for amount in np.sort(data.unique_spec[band[data.tokens_spec[band] > 0]])[::-1]:
            if not amounts or amount * SAME_TEXT < amounts[-1]:
                amounts.append(float(amount))
        seen: set[frozenset[int]] = set()
        for unique in amounts:
            members = band[with_text(data, unique)[band]]
            # Two amounts that no run exhausts are one decision.
            if frozenset(members) not in seen:
                seen.add(frozenset(members))
                found.append((unique, members))
        if not amounts:
            found.append((None, band))
    return found


def with_text(data: FitData, unique: float) -> Array:
    """Tell which runs would have been the same with `unique` distinct specialist tokens available, shape (runs,).

    They read as many distinct tokens as they then would have: runs with that cap, runs that exhaust neither their own text nor this amount, and runs
    without specialist tokens. A run that repeated less text than is available belongs to another decision.
    """
    spec = data.tokens_spec
    saw, would = np.fmin(spec, data.unique_spec), np.minimum(spec, unique)
    same = np.logical_and(saw <= would * SAME_TEXT, would <= saw * SAME_TEXT)
    return np.logical_or(spec == 0, same)


def _choices(data: FitData, members: Array) -> list[Array]:
    """Group rows of the same size and tokens: they differ in the seed, or in caps that were never reached."""
    cells: dict[tuple[float, float, float], list[int]] = {}
    for row in members:
        cells.setdefault((float(data.params_by["non_embedding"][row]), float(data.tokens_pt[row]), float(data.tokens_spec[row])), []).append(int(row))
    return [np.array(rows) for rows in cells.values()]


def _decide(above: FitData, expected: Mapping[str, Array], below: FitData, unique: float | None, choices: list[Array]) -> Decision:
    def mean(values: Array) -> Array:
        return np.array([values[rows].mean() for rows in choices])

    first, loss = np.array([rows[0] for rows in choices]), mean(np.exp(above.log_loss))
    regret = 100 * (loss / loss.min() - 1)
    chosen = {way: int(mean(values).argmin()) for way, values in expected.items()}
    # No rule of thumb leaves the specialist text unread.
    sensible = np.flatnonzero(above.tokens_spec[first] > 0) if unique is not None else np.arange(len(first))
    naive = {ANY: np.zeros(len(first)), LARGEST: above.params_by["non_embedding"][first]}
    if unique is not None:
        naive[MOST_SPECIALIST] = above.tokens_spec[first]
    naive[COPY] = -_unlike(above, first, below, unique)
    by_way = {way: float(regret[number]) for way, number in chosen.items()}
    for way, values in naive.items():
        by_way[way] = float(regret[sensible][values[sensible] == values[sensible].max()].mean())
    ids = tuple(above.run_ids[row] for row in first)
    return Decision(float(above.flops[np.concatenate(choices)].max()), unique, ids, ids[chosen[PLAN]], ids[int(loss.argmin())], by_way)


def _unlike(above: FitData, rows: Array, below: FitData, unique: float | None) -> Array:
    """Return how far the splits of runs are from that of the best run below with as much text, or of the best run below where none has it.

    The distance is in share of specialist tokens and decades of tokens per parameter, shape (rows,).
    """
    alike = np.arange(below.count) if unique is None else np.flatnonzero(np.logical_and(with_text(below, unique), below.tokens_spec > 0))
    known = alike if len(alike) else np.arange(below.count)
    model = known[below.log_loss[known].argmin()]

    def split(data: FitData) -> tuple[Array, Array]:
        tokens = data.tokens_pt + data.tokens_spec
        return data.tokens_spec / tokens, np.log10(tokens / data.params_by["non_embedding"])

    (share, ratio), (share_best, ratio_best) = split(above), split(below)
    return np.hypot(share[rows] - share_best[model], ratio[rows] - ratio_best[model])
