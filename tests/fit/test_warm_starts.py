"""A law starts from what laws of the same words have found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.fit.data import fit_data
from planner.fit.estimate import estimate
from planner.fit.scale import Scale
from planner.fit.select import score_laws
from planner.fit.warm_starts import BOUND_MARGIN, FIRST_IRREDUCIBLE, MOST_RELATED, warm_starts
from planner.laws import law_named
from planner.runs import read_runs

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


@pytest.mark.parametrize("seed", range(3))
def test_a_law_with_a_floor_fits_no_worse_than_the_one_without(seed: int) -> None:
    """Six starts of its own leave `floor-rote` at up to six times the residual of `ceiling-rote`, which it holds."""
    data = fit_data(read_runs(SWEEPS / "nature" / "runs.csv"))
    tables = [data.under(kind) for kind in data.params_by]
    scores = score_laws(tables, [law_named(name) for name in ("ceiling-rote", "floor-rote")], seed)
    found = {(score.params_kind, score.estimate.law.name): score.rms_percent for score in scores}
    for kind in data.params_by:
        assert found[kind, "floor-rote"] < 1.1 * found[kind, "ceiling-rote"]


def test_what_kin_know_is_taken_and_the_rest_is_drawn() -> None:
    data = fit_data(read_runs(SWEEPS / "medicine" / "runs.csv"))
    points = data.points(data.reference)
    known = [estimate(law_named(name), points, data.log_loss, np.random.default_rng(0), starts=4) for name in ("ceiling-rote", "root-rote", "chinchilla")]
    law = law_named("floor-near-rote")
    starts = warm_starts(law, known, points, data.log_loss, np.random.default_rng(0))
    assert len(starts) == 2, "chinchilla shares too little"
    best = min(known[:2], key=lambda item: item.objective)
    names = [parameter.name for parameter in law.parameters]
    for name, value in zip([parameter.name for parameter in best.law.parameters], best.theta, strict=True):
        assert starts[0, names.index(name)] == pytest.approx(value, rel=0.05), "but for a bound"
    assert starts[:, names.index("E")] == pytest.approx(FIRST_IRREDUCIBLE * np.exp(data.log_loss.min()))
    assert starts[0, names.index("p0")] != starts[1, names.index("p0")]
    share = Scale(law).share(starts)
    assert share.min() > 0.99 * BOUND_MARGIN and share.max() < 1 - 0.99 * BOUND_MARGIN
    assert len(warm_starts(law, known * 5, points, data.log_loss, np.random.default_rng(0))) == MOST_RELATED
    assert not len(warm_starts(law, known[2:], points, data.log_loss, np.random.default_rng(0)))


def test_a_value_out_of_range_is_not_taken() -> None:
    """A law of one's own may have a parameter of the same name that may be negative, where another takes its logarithm."""
    data = fit_data(read_runs(SWEEPS / "medicine" / "runs.csv"))
    points = data.points(data.reference)
    known = estimate(law_named("root-rote"), points, data.log_loss, np.random.default_rng(0), starts=4)
    odd = replace(known, theta=np.where(np.arange(len(known.theta)) == 0, -1.0, known.theta))
    starts = warm_starts(law_named("ceiling-rote"), [odd], points, data.log_loss, np.random.default_rng(0))
    assert np.isfinite(starts).all() and starts[0, 0] > 0
    assert starts[0, 1:3] == pytest.approx(known.theta[1:3])
