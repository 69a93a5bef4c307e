"""Refusal of designs that cannot determine a law, with the reason: by explicit rules on the axes, and by the rank of the information matrix.

The rules say in words what is missing; the rank finds what no rule covers. Both consider the cells alone, without prior knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.arrays import Array
from planner.errors import DataError
from planner.fit.identify import MIN_SIZES, MIN_TOKENS, SAME, levels
from planner.laws import Law
from planner.next_runs.belief import ParameterDraws
from planner.next_runs.candidates import Candidates
from planner.next_runs.information import fisher
from planner.units import format_count, format_list

SINGULAR = 1e-8
"""Smallest eigenvalue of the information matrix, scaled to a unit diagonal, below which a direction of the parameters counts as not measured. Grids in
which one axis follows another have 1e-8 and less (rounding leaves 1e-15), crossed ones of a few dozen cells 1e-7 and more."""
_NAMED = 0.3
"""Weight in a direction above which a parameter is named."""
_REPETITION = ("repeats", "passes", "distinct")
"""Needs of parameters that only repeated text can meet."""


def refuse_collinear(given: Candidates, every: Sequence[ParameterDraws], noise: float, share: float) -> None:
    """Refuse cells from which a law's parameters cannot be separated.

    Args:
        given: the cells.
        every: the laws to measure, with the parameter vectors at which slopes are taken.
        noise: standard deviation of ln L of one run.
        share: share of its variance common to the runs of a trunk.

    Raises:
        DataError: the message says what does not vary between runs, or names the parameters.
    """
    for draws in every:
        reason = against_axes(given, draws.law)
        if reason:
            raise DataError(f"this design cannot determine the law {draws.law.name}: {reason[0]}", remedy=reason[1])
    for draws in every:
        names = not_separated(given, draws, noise, share)
        if names:
            what = f"{format_list(names)} cannot be {'measured' if len(names) == 1 else 'separated'}"
            raise DataError(
                f"this design cannot determine the law {draws.law.name}: by the rank of its information matrix {what}",
                remedy="give more FLOPs, vary sizes, tokens_pt, tokens_spec and unique_spec apart from each other, or take a simpler law",
            )


def against_axes(given: Candidates, law: Law) -> tuple[str, str] | None:
    """Say what the axes lack for a law, and the remedy; None if they lack nothing."""
    general, special, unique = given.tokens
    params = given.params_by["non_embedding"]
    names = [parameter.name for parameter in law.parameters]
    sizes = levels(params)
    if len(sizes) < MIN_SIZES:
        found = ", ".join(format_count(value) for value in sizes)
        lost = _named(names, ("E", "A", "α", "η"))
        many = "sizes" if len(sizes) != 1 else "size"
        return f"it has {len(sizes)} distinct model {many} ({found}), so {lost} cannot be separated", f"take at least {MIN_SIZES} sizes, preferably five"
    ratio = np.log((general + special) / params)
    if np.ptp(ratio) < SAME:
        lost = _named(names, ("A", "α", "B", "β"))
        return f"every run has {np.exp(ratio.mean()):.3g} tokens per parameter, so {lost} cannot be separated", "vary the ratio"
    if law.stages == 1:
        if len(levels(general + special)) < MIN_TOKENS:
            return f"it has fewer than {MIN_TOKENS} token counts, so {_named(names, ('E', 'B', 'β'))} cannot be separated", "vary the tokens"
        return _against_repetition(special, unique, law)
    if (general > 0).all() and (special > 0).all() and np.ptp(np.log(special / general)) < SAME:
        lost = _named(names, ("β", "κ", "ρ", "γ"))
        return f"every run has tokens_spec / tokens_pt = {(special / general).mean():.3g}, so {lost} cannot be separated", "vary the ratio"
    for name, values, wanted in (("tokens_pt", general, ("B", "β", "κ", "ρ")), ("tokens_spec", special, ("β", "κ", "G", "s0", "γ"))):
        positive = levels(values)
        if len(positive) < 2 or len(positive) + bool((values == 0).any()) < MIN_TOKENS:
            text = ", ".join([*(["zero"] if (values == 0).any() else []), *(format_count(value) for value in positive)])
            remedy = f"take zero and at least two values of {name}, or three"
            return f"it has only {text} for {name}, so {_named(names, wanted)} cannot be separated", remedy
    return _against_repetition(special, unique, law)


def _against_repetition(special: Array, unique: Array, law: Law) -> tuple[str, str] | None:
    concerned = [parameter.name for parameter in law.parameters if parameter.needs in _REPETITION]
    if not concerned:
        return None
    with np.errstate(invalid="ignore"):
        epochs = np.where(special > 0, special / unique, 0.0)
    passes = levels(epochs[epochs > 1 + SAME])
    lost = format_list(concerned)
    if not len(passes):
        return f"no run repeats its specialist text, so {lost} cannot be measured", "take unique_spec below tokens_spec in some runs"
    if len(passes) < 2 and "passes" in law.needs:
        return f"all runs with repeats have {passes[0]:.3g} epochs, so {lost} cannot be separated", "vary the epochs above one"
    if len(levels(unique[epochs > 1 + SAME])) < 2 and "distinct" in law.needs:
        amount = format_count(float(unique[epochs > 1 + SAME][0]))
        return f"all runs with repeats have {amount} distinct specialist tokens, so {lost} cannot be separated", "vary unique_spec among runs with repeats"
    return None


def not_separated(given: Candidates, draws: ParameterDraws, noise: float, share: float) -> list[str]:
    """Name the parameters in the direction that cells do not measure, by the median of the draws; empty if they measure all."""
    slopes = draws.slopes(draws.points(given.params_by, *given.tokens))
    names = [parameter.name for parameter in draws.law.parameters]
    found = []
    for rows in slopes:
        information = fisher(rows, given.group, noise, share)
        length = np.sqrt(np.diag(information))
        if not (length > 0).all():
            return [name for name, size in zip(names, length, strict=True) if not size > 0]
        values, vectors = np.linalg.eigh(information / np.outer(length, length))
        found.append((float(values[0]), np.abs(vectors[:, 0])))
    least, direction = sorted(found, key=lambda pair: pair[0])[len(found) // 2]
    if least > SINGULAR:
        return []
    return [names[place] for place in np.argsort(-direction) if direction[place] > _NAMED]


def _named(names: Sequence[str], wanted: Sequence[str]) -> str:
    """Join those of some parameters that a law has; a law with other names still has terms of the two stages."""
    found = [name for name in wanted if name in names]
    return format_list(found) if found else "the effects of the two stages"
