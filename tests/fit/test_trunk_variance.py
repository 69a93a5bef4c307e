"""What runs on trunks of their own differ by, from tables that have one trunk a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from planner.fit.data import fit_data
from planner.fit.identify import trunks_alone
from planner.fit.scale import Scale
from planner.fit.trunk_variance import trunk_deviation
from planner.laws import Points, Reference, law_named
from tests.fit.test_foul_tables import SIZES, fitted_to, grid, read

RATIOS = np.geomspace(5, 80, 8)
RUN, TRUNK = 0.004, 0.01
"""Deviation of ln L of a run, and of a trunk."""


def one_trunk_a_size(seed: int) -> pd.DataFrame:
    name = np.arange(len(SIZES) * len(RATIOS)) // len(RATIOS)
    frame = grid(RUN, seed, ratios=RATIOS, trunk_id=[f"t{number}" for number in name], seed=0)
    frame["loss_spec"] *= np.exp(TRUNK * np.random.default_rng(1000 + seed).normal(size=name.max() + 1)[name])
    return frame


def test_single_trunks_do_not_hide_their_luck(tmp_path: Path) -> None:
    """A fit follows five trunks with three parameters of size; what is left of their luck is counted up to what new trunks differ by."""
    data, law, random = fit_data(read(one_trunk_a_size(0), tmp_path)), law_named("chinchilla"), np.random.default_rng(0)
    points, reference = data.points(data.reference), data.reference
    known = np.array([1.69, 406.4 / reference.params**0.34, 410.7 / reference.tokens**0.28, 0.34, 0.28])
    found = []
    for _ in range(300):
        luck = TRUNK * random.normal(size=len(SIZES))[data.cluster] + RUN * random.normal(size=data.count)
        log_loss = law.log_loss(known[None], points)[0] + luck
        found.append(trunk_deviation(law, points, known, log_loss, data.cluster) ** 2)
    assert 0.9 < np.mean(found) / (RUN**2 + TRUNK**2) < 1.3, "a residual per degree of freedom holds 0.65 of it"


def test_luck_is_not_guessed_where_parameters_of_size_take_it_all() -> None:
    """Three sizes, two exponents and an amplitude that move with them: what is left of trunks is next to nothing, and was blown up tenfold."""
    law, random, found = law_named("transfer-size-saturating"), np.random.default_rng(1), []
    cells = [(n, special, min(special, distinct)) for n in np.geomspace(2e5, 5e6, 3) for special in (1e5, 4e5, 1.6e6) for distinct in (5e4, 4e5)]
    size, special, distinct = np.array(cells).T
    points, cluster = Points(Reference(1e6, 2e7, 4e6), size, 20 * size, special, distinct), np.unique(size, return_inverse=True)[1]
    for _ in range(60):
        theta = Scale(law).draw(random, 1)[0]
        log_loss = law.log_loss(theta[None], points)[0] + RUN * random.normal(size=len(size))
        found.append(trunk_deviation(law, points, theta, log_loss, cluster) / RUN)
    assert max(found) < 3 and 0.8 < np.mean(found) < 1.2


def test_the_noise_of_a_law_holds_it_where_nothing_measures_it(tmp_path: Path) -> None:
    data = fit_data(read(one_trunk_a_size(0), tmp_path))
    law = fitted_to(read(one_trunk_a_size(0), tmp_path))
    member = law.members[0]
    guessed = trunk_deviation(member.law, data.points(member.reference), member.theta, data.log_loss, data.cluster)
    assert law.noise == guessed > 1.2 * law.scores[0]["rms_percent"] / 100
    frame = grid(RUN, ratios=RATIOS, trunk_id=[f"t{number // 4}" for number in range(40)], seed=0)
    law = fitted_to(read(frame, tmp_path))
    assert law.noise == law.scores[0]["rms_percent"] / 100, "trunks beside each other show it"


def test_a_table_that_parameters_exhaust_says_nothing(tmp_path: Path) -> None:
    data = fit_data(read(grid(RUN, trunk_id="t", seed=0), tmp_path)).rows(np.isin(np.arange(25), (0, 4, 11, 17, 20)))
    law, points = law_named("chinchilla"), data.points(data.reference)
    assert trunk_deviation(law, points, np.array([1.7, 0.5, 0.5, 0.3, 0.3]), data.log_loss, data.cluster) == 0.0


def test_of_many_sizes_the_residual_holds_the_luck(tmp_path: Path) -> None:
    few, many = (
        grid(RUN, sizes=np.geomspace(1e7, 1e9, count), ratios=(5, 20, 80), trunk_id=[f"t{number // 3}" for number in range(3 * count)], seed=0)
        for count in (20, 120)
    )
    assert trunks_alone(fit_data(read(few, tmp_path)))
    assert not trunks_alone(fit_data(read(many, tmp_path)))
