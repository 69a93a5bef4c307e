"""What must hold of the best plan of any request under any law: more never hurts, limits never help, and none is passed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.allocate.optimum import Search, coarse
from planner.allocate.problem import Problem
from planner.allocate.refine import refine_search
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.laws import LAWS
from tests.allocate.problems import LOW, ONE_STAGE, TWO_STAGE, epochs_allowed, random_law, random_request, violations

TOLERANCE = 1e-4
"""Of expected ln L: what the search may miss."""
EACH = 19
"""Problems of each law: 513 in all."""
CHANGES = 2
"""More, and less, that each problem is tried with."""


def best_of(law: FittedLaw, request: Request) -> tuple[Problem, Search]:
    problem = Problem.of(law, request)
    return problem, refine_search(problem, coarse(problem))


def least(law: FittedLaw, request: Request) -> float:
    return float(best_of(law, request)[1].expected.min())


def more(request: Request, factor: float) -> dict[str, Request]:
    found = {"budget": replace(request, flops=factor * request.flops), "specialist text": replace(request, unique_spec=factor * request.unique_spec)}
    if request.general_tokens:
        found["general text"] = replace(request, general_tokens=factor * request.general_tokens)
        found["all general text"] = replace(request, general_tokens=None)
    return found


def tighter(law: FittedLaw, request: Request, found: Search, factor: float) -> Iterator[tuple[str, Request]]:
    """Limit a request further, about where its best plan lies, so that the limit binds."""
    plans, best = found.plans, found.best
    params, pt = float(plans.params[best]), float(plans.tokens_pt[best])
    yield "epochs", replace(request, max_epochs=epochs_allowed(law, request) / factor)
    yield "inference", replace(request, inference_tokens=request.inference_tokens + 0.3 * (factor - 1) * (pt + float(plans.tokens_spec[best])))
    if pt > 0:
        yield "general text", replace(request, general_tokens=min(pt, request.general_tokens or np.inf) / factor)
    if request.params_range:
        low, high = request.params_range
        if high / low > 1.3 * factor:
            yield "range from below", replace(request, params_range=(low * factor, high))
            yield "range from above", replace(request, params_range=(low, high / factor))
    elif request.params_among:
        yield "fewer sizes", replace(request, params_among=request.params_among[1:])
    elif request.params is None:
        yield "smaller size", replace(request, params=max(params / factor, 1e4 if law.source else LOW["params"] / 100))
        yield "range above", replace(request, params_range=(1.05 * params, 3 * params))
        lowest = 1e4 if law.source else LOW["params"] / 100
        if params > 1.5 * lowest:
            yield "range below", replace(request, params_range=(max(params / 4, lowest), params / 1.05))


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize("name", [law.name for law in (*TWO_STAGE, *ONE_STAGE)])
def test_more_never_hurts_and_limits_never_help(name: str) -> None:
    tried = 0
    for number in range(EACH):
        random = np.random.default_rng([2, *name.encode(), number])
        law, request, factor = random_law(LAWS[name], random), random_request(random), float(np.exp(random.uniform(0.05, 1.2)))
        try:
            problem, found = best_of(law, request)
        except DataError:
            continue
        expected = float(found.expected.min())
        easier, harder = more(request, factor), dict(tighter(law, request, found, factor))
        for key in random.permutation(list(easier))[:CHANGES]:
            assert least(law, easier[key]) <= expected + TOLERANCE, (number, "more", key, factor, request)
        for key in random.permutation(list(harder))[:CHANGES]:
            try:
                assert least(law, harder[key]) >= expected - TOLERANCE, (number, "tighter", key, factor, request)
            except DataError:
                continue  # no plan is left
        plans, best = found.plans, found.best
        size = plans.sizes[plans.size[best]]
        whole = problem.realise(size, float(plans.tokens_pt[best]), float(plans.tokens_spec[best]))
        for one, at in ((plans, best), (whole, 0)):
            tokens = float(one.tokens_pt[at]), float(one.tokens_spec[at])
            assert not violations(law, request, size.params_non_embedding, size.flops_per_token, *tokens), (number, request, tokens)
        tried += 1
    assert tried >= EACH - 3


def test_text_too_little_for_any_stage_is_refused(fitted: FittedLaw) -> None:
    with pytest.raises(DataError, match="100k general tokens and 20k specialist tokens with repeats are each too few for a stage of 200 steps"):
        best_of(fitted, Request(1e13, 1e4, max_epochs=2.0, general_tokens=1e5))


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
def test_a_budget_is_left_over_where_more_text_would_do_harm() -> None:
    law = random_law(LAWS["interaction-saturating"], np.random.default_rng(0))
    member = law.members[0]
    names = [parameter.name for parameter in member.law.parameters]
    # (1 + S/s0)^(−γ + ι·ln(1 + D_pt/d0)) rises with D_pt where ι·ln(1 + S/s0) > β.
    values = {"ι": 0.3, "β": 0.1, "γ": 0.5, "s0": 0.01, "d0": 0.1, "B": 2.0}
    theta = np.array([values.get(name, value) for name, value in zip(names, member.theta, strict=True)])
    law = replace(law, members=(replace(member, theta=theta, resamples=theta[None]),))
    answer = allocate(law, Request(1e14, 2e5, params=3e5), allow_extrapolation=True)
    assert answer.plan.flops < 0.5e14 and answer.plan.tokens_pt == 0
    assert any("of the budget is left over: the law forecasts that more general tokens would raise the loss" in text for text in answer.warnings)
