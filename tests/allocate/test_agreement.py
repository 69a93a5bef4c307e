"""The recommendation against brute force, on random problems under every law that can be asked."""

from dataclasses import replace

import numpy as np
import pytest

from planner.allocate.allocate import allocate, best_plan
from planner.allocate.problem import Problem
from planner.errors import DataError
from planner.flops import flops_per_token
from planner.laws import LAWS
from tests.allocate.brute_force import brute_force
from tests.allocate.problems import (
    ONE_STAGE,
    RECIPE,
    TWO_STAGE,
    VOCAB,
    allowed_sizes,
    expected,
    method_of,
    random_law,
    random_request,
    rounding,
    violations,
)

TOLERANCE = 1e-4
"""Of expected ln L."""
EACH = 8
"""Problems of each law: 216 in all."""
WHOLE = 2
"""Of these, how many have their whole answer made: its plan is the one that is held against brute force."""


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize("name", [law.name for law in (*TWO_STAGE, *ONE_STAGE)])
def test_the_recommended_plan_is_as_good_as_the_best_of_all(name: str) -> None:
    assert sum(agrees(name, number) for number in range(EACH)) >= EACH - 3


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize("name", [law.name for law in TWO_STAGE][::5])
def test_so_it_is_where_the_specialist_stage_has_adapters(name: str) -> None:
    """Their tokens cost 0.7 to 1 times what general ones do, the less the larger the model."""
    assert sum(agrees(name, number, {"method": "lora"}) for number in range(3)) >= 2


def agrees(name: str, number: int, source: dict[str, str] | None = None) -> bool:
    """Hold one recommendation against brute force; return whether there was any."""
    random = np.random.default_rng([1, *name.encode(), number])
    law, request = random_law(LAWS[name], random), random_request(random)
    if source is not None:
        members = tuple(replace(member, params_kind="total") for member in law.members)
        law = replace(law, members=members, source={"recipe": RECIPE.to_dict(), "vocab_size": VOCAB, **source})
    if not len(allowed_sizes(law, request).params):
        with pytest.raises(DataError, match="too few|no model shape"):
            allocate(law, request, allow_extrapolation=True)
        return False
    plan = best_plan(Problem.of(law, request))
    if number < WHOLE:
        assert allocate(law, request, allow_extrapolation=True).plan == plan
    size = np.array([plan.params_non_embedding]), np.array([plan.params_total or np.nan])
    mine = float(expected(law, *size, np.array([plan.tokens_pt]), np.array([plan.tokens_spec]), plan.unique_spec)[0])
    best, theirs = brute_force(law, request)
    assert mine - rounding(law, plan) < best + TOLERANCE, (number, request, plan, theirs)
    assert mine > best - TOLERANCE, "the brute force missed a plan"
    cost, spec_cost = 6 * plan.params_non_embedding, 1.0
    if plan.shape:
        cost = flops_per_token(plan.model_shape, RECIPE.seq_len)
        spec_cost = RECIPE.method(method_of(law)).flops_per_token(plan.model_shape, RECIPE.seq_len) / cost
    assert plan.flops == pytest.approx(cost * (plan.tokens_pt + spec_cost * plan.tokens_spec), rel=1e-9)
    assert not violations(law, request, plan.params_non_embedding, cost, plan.tokens_pt, plan.tokens_spec, spec_cost), (number, request, plan)
    return True
