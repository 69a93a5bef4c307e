"""Split training under required losses: no whole steps that branches could give each other, or the trunk, would be better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.domains import split as splitting
from planner.allocate.domains.problem import DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.split import split
from planner.allocate.domains.trade import traded
from planner.allocate.domains.whole import made, worth
from planner.fit.fitted import FittedLaw


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
    assert tried > 20


def test_steps_are_moved_only_where_a_loss_is_required(fitted: FittedLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes of it is never worse than what it began with."""
    asked = problem(fitted, 0.004)
    after = split(asked)
    monkeypatch.setattr(splitting, "traded", lambda problem, found, nearby: found)
    before = split(asked)
    assert before is not None and after is not None
    assert asked.missed(after) <= 0 < asked.missed(before) < 1e-5 or worth(asked, after, 0.0) <= worth(asked, before, 0.0)
    free = DomainsProblem.of(replace(asked.request, domains=tuple(replace(domain, max_loss=None) for domain in asked.request.domains)))
    found = split(free)
    assert found is not None and traded(free, found) is found
