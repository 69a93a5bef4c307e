"""The recommendation against brute force, on random problems under every law that can be asked."""

import numpy as np
import pytest

from planner.allocate.allocate import allocate
from planner.errors import DataError
from planner.flops import flops_per_token
from planner.laws import LAWS
from tests.allocate.brute_force import brute_force
from tests.allocate.problems import ONE_STAGE, RECIPE, TWO_STAGE, allowed_sizes, expected, random_law, random_request, rounding, violations

TOLERANCE = 1e-4
"""Of expected ln L."""
EACH = 8
"""Problems of each law: 216 in all."""


@pytest.mark.filterwarnings("ignore::planner.errors.PlannerWarning")
@pytest.mark.parametrize("name", [law.name for law in (*TWO_STAGE, *ONE_STAGE)])
def test_the_recommended_plan_is_as_good_as_the_best_of_all(name: str) -> None:
    answered = 0
    for number in range(EACH):
        random = np.random.default_rng([1, *name.encode(), number])
        law, request = random_law(LAWS[name], random), random_request(random)
        if not len(allowed_sizes(law, request).params):
            with pytest.raises(DataError, match="too few|no model shape"):
                allocate(law, request, allow_extrapolation=True)
            continue
        plan = allocate(law, request, allow_extrapolation=True).plan
        size = np.array([plan.params_non_embedding]), np.array([plan.params_total or np.nan])
        mine = float(expected(law, *size, np.array([plan.tokens_pt]), np.array([plan.tokens_spec]), plan.unique_spec)[0])
        best, theirs = brute_force(law, request)
        assert mine - rounding(law, plan) < best + TOLERANCE, (number, request, plan, theirs)
        assert mine > best - TOLERANCE, "the brute force missed a plan"
        cost = flops_per_token(plan.model_shape, RECIPE.seq_len) if plan.shape else 6 * plan.params_non_embedding
        assert not violations(law, request, plan.params_non_embedding, cost, plan.tokens_pt, plan.tokens_spec), (number, request, plan)
        answered += 1
    assert answered >= EACH - 3
