"""What the benchmarks share keeps up with the laws."""

import numpy as np
import pytest

from benchmarks.common import LAWS, truth_of
from planner.fit.scale import Scale
from planner.laws import Law


@pytest.mark.parametrize("law", [law for law in LAWS.values() if law.target == "spec"], ids=lambda law: str(law.name))
def test_every_law_has_a_truth_inside_its_bounds(law: Law) -> None:
    share = Scale(law).share(truth_of(law))
    assert ((share > 0) & (share < 1) & np.isfinite(share)).all()
