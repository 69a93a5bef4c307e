"""Split training under required losses: no whole steps that branches could give each other, or the trunk, would be better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.allocate.domains import split as splitting
from planner.allocate.domains.found import SPLIT
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.rounding import made, objective
from planner.allocate.domains.split import split
from planner.fit.fitted import FittedLaw
from tests.allocate.problems import recorded

SWEEPS = Path(__file__).parents[3] / "sweeps"


def problem(law: FittedLaw, tightness: float, budget: float = 1.2e13, **limits: float) -> DomainsProblem:
    """Require of the first domain less than it would have."""
    some = Domain("a", law, 2e5, weight=0.7), Domain("b", law, 6e5), Domain("c", law, 1e5, weight=1.5)
    free = DomainsProblem.of(DomainsRequest(budget, some, **limits))
    found = split(free)
    assert found is not None
    tight = replace(some[0], max_loss=float(free.losses(found)[0]) * (1 - tightness))
    return DomainsProblem.of(DomainsRequest(budget, (tight, *some[1:]), **limits))


@pytest.mark.parametrize("tightness", [0.002, 0.01])
@pytest.mark.parametrize("limits", [{}, {"general_tokens": 1.5e6}, {"max_epochs": 4.0}])
def test_no_step_given_to_another_is_better(fitted: FittedLaw, tightness: float, limits: dict[str, float]) -> None:
    asked = problem(fitted, tightness, **limits)
    found = split(asked)
    assert found is not None
    size, step = int(found.size[0]), asked.step
    best = float(asked.weights @ asked.losses(found))
    assert asked.missed(found) <= 0 and asked.spent(found) <= asked.request.flops * (1 + 1e-9)
    assert found.tokens_general <= asked.general_tokens * (1 + 1e-9)
    tried = 0
    for change in np.array(np.meshgrid(*[np.arange(-2, 3)] * 4)).reshape(4, -1).T * step:
        spec, trunk = found.tokens_spec + change[:-1], float(found.tokens_general + change[-1])
        other = made(asked, found.name, size, trunk, spec, np.zeros(3))
        fits = asked.spent(other) <= asked.request.flops * (1 + 1e-9) and trunk <= asked.general_tokens and (spec <= asked.most_spec * (1 + 1e-9)).all()
        if fits and (spec >= asked.least_stage).all() and asked.missed(other) <= 0:
            tried += 1
            assert float(asked.weights @ asked.losses(other)) > best * (1 - 2e-5)
    assert tried > 5  # of a branch that has all its text and one of the shortest stage few are left


def test_steps_are_moved_only_where_a_loss_is_required(fitted: FittedLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes of it is never worse than what it began with."""
    asked = problem(fitted, 0.004)
    after = split(asked)
    monkeypatch.setattr(splitting, "traded", lambda problem, found, *_: found)
    before = split(asked)
    assert before is not None and after is not None
    assert asked.missed(after) <= 0 < asked.missed(before) < 1e-5 or objective(asked, after, 0.0) <= objective(asked, before, 0.0)
    free = DomainsProblem.of(replace(asked.request, domains=tuple(replace(domain, max_loss=None) for domain in asked.request.domains)))
    monkeypatch.setattr(splitting, "traded", None)
    assert split(free) is not None


KNOWN = {
    "branches that follow a required loss": (
        7.05e13, {}, [("nature", 1.29e6, 0.197, 1.88328), ("medicine", 1.32e5, 0.127, None)], 787520, 2479104, (8852480, 235520),
    ),
    "another size, where the same branches would leave no trunk": (
        2.51e13, {"general_tokens": 3.57e5}, [("medicine", 8.27e5, 1.25, 2.1016), ("computing", 8.69e5, 0.88, 3.1703), ("medicine", 3.72e6, 0.95, None)],
        284816, 356352, (5856256, 2879488, 692224),
    ),
    "a domain without a stage": (
        1.24e14, {}, [("nature", 3.2e4, 0.94, None), ("medicine", 1.54e6, 0.76, 2.6853), ("nature", 1.22e6, 1.69, 1.869)],
        787520, 8861696, (0, 3062784, 5762048),
    ),
    "two without, or the loss is not reached": (
        6.66e12, {"general_tokens": 5.96e5}, [("nature", 2.99e6, 0.39, 2.579), ("nature", 3.2e4, 2.0, None), ("computing", 2.9e6, 1.22, None)],
        166864, 586752, (3074048, 0, 0),
    ),
}  # fmt: skip
"""Budget, limits, domains and a plan of them that no search found before, each for a reason of its own."""


@pytest.mark.parametrize("reason", KNOWN)
def test_a_plan_that_is_known_is_not_better(reason: str) -> None:
    flops, limits, texts, params, trunk, spec = KNOWN[reason]
    laws = {name: recorded(name) for name, *_ in texts}
    domains = tuple(Domain(f"{at}", laws[name], unique, weight, most) for at, (name, unique, weight, most) in enumerate(texts))
    asked = DomainsProblem.of(DomainsRequest(flops, domains, **limits))
    known = made(asked, SPLIT, int(np.flatnonzero(asked.params == params)[0]), trunk, np.array(spec, dtype=float), np.zeros(len(spec)))
    assert asked.spent(known) <= flops and asked.missed(known) <= 0
    found = split(asked, margin=1e-4)
    assert found is not None and asked.spent(found) <= flops * (1 + 1e-9) and asked.missed(found) <= 0
    assert float(asked.weights @ asked.losses(found)) <= float(asked.weights @ asked.losses(known)) * (1 + 5e-5)
