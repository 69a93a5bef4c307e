"""What a parameter needs of the runs is declared, and what it is called says nothing: a law of one's own may call a size exponent δ, or its floor L∞."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.design.cells import Cell
from planner.fit.data import FitData, fit_data
from planner.fit.estimate import estimate
from planner.fit.fitted import FittedLaw
from planner.fit.identify import reason_against
from planner.fit.warm_starts import FIRST_IRREDUCIBLE, warm_starts
from planner.laws import LAWS, Law, Parameter
from planner.next_runs.candidates import Candidates
from planner.next_runs.collinear import against_axes
from planner.runs import read_runs
from tests.next_runs.shared import SETTING

MEDICINE = Path(__file__).resolve().parents[2] / "sweeps" / "medicine" / "runs.csv"


def renamed(law: Law, names: Mapping[str, str]) -> Law:
    """Return a law with other names of some parameters, given as old: new."""

    def loss(p: Mapping[str, Any], x: Any) -> Any:
        return law.loss({item.name: p[names.get(item.name, item.name)] for item in law.parameters}, x)

    return replace(law, loss=loss, parameters=tuple(replace(item, name=names.get(item.name, item.name)) for item in law.parameters))


SIZED = renamed(LAWS["additive-saturating"], {"E": "L∞", "A": "P", "α": "δ", "B": "λ_P", "C": "b", "γ": "ε", "R*": "E"})
PENALISED = renamed(LAWS["transfer-penalised"], {"P": "h", "δ": "g", "κ_P": "i", "λ_P": "j"})
FRESH, ONE_TEXT = [1e7], [1e5]


def table(unique: list[float], **more: Any) -> FitData:
    """Draw a table of two stages; of 1e7 distinct tokens no run repeats any."""
    n, d, s, u = (grid.ravel() for grid in np.meshgrid([1e4, 3e4, 1e5, 3e5], [1e6, 3e6, 9e6], [2e5, 8e5, 3e6], unique, indexing="ij"))
    ids = [str(k) for k in range(len(n))]
    return FitData(ids, {"non_embedding": n}, d, s, u, np.ones(len(n)), 6 * n * (d + s), np.arange(len(n)), None, **more)


def test_names_alone_refuse_no_law() -> None:
    assert reason_against(SIZED, table(FRESH)) is None
    general = table(FRESH, target="general")
    assert reason_against(replace(SIZED, target="general"), general) is None
    assert "no effect of replay" in str(reason_against(replace(SIZED, target="general"), replace(general, replay_fraction=np.full(36, 0.1))))
    cells = tuple(Cell(*cell) for cell in product((2e4, 8e4, 3.2e5), (0,), (1.1e6, 4.4e6, 8.8e6), (3e5, 1.2e6, 2.4e6), (1.5e5,)))
    assert against_axes(Candidates(cells, SETTING), SIZED) is None, "passes differ, and it has nothing that needs two amounts of text"


def test_what_is_declared_holds_under_any_name() -> None:
    assert "passes" in str(reason_against(PENALISED, table(FRESH)))
    assert "fewer than two amounts" in str(reason_against(PENALISED, table(ONE_TEXT)))
    cells = tuple(Cell(*cell) for cell in product((2e4, 8e4, 3.2e5), (0,), (1.1e6, 4.4e6, 8.8e6), (3e5, 1.2e6, 2.4e6), (4e6,)))
    reason = against_axes(Candidates(cells, SETTING), PENALISED)
    assert reason is not None and reason[0] == "no run repeats its specialist text, so h, g, i and j cannot be measured"
    replayed = table(ONE_TEXT, target="general", replay_fraction=np.full(36, 0.1))
    assert reason_against(renamed(LAWS["forgetting"], {"b": "k"}), replayed) is None
    assert "no run replays" in str(reason_against(renamed(LAWS["forgetting"], {"b": "k"}), replace(replayed, replay_fraction=None)))


def test_the_irreducible_loss_may_have_any_name(fitted: FittedLaw) -> None:
    def under(law: Law) -> FittedLaw:
        return replace(fitted, members=tuple(replace(member, law=law) for member in fitted.members))

    assert under(SIZED).bounded_below
    bare = LAWS["root-rote"]
    assert not under(bare).bounded_below and not under(renamed(bare, {"A": "E"})).bounded_below
    data = fit_data(read_runs(MEDICINE))
    points = data.points(data.reference)
    known = estimate(LAWS["ceiling-rote"], points, data.log_loss, np.random.default_rng(0), starts=4)
    starts = warm_starts(renamed(LAWS["floor-rote"], {"E": "L∞"}), [known], points, data.log_loss, np.random.default_rng(0))
    assert starts[0, 0] == pytest.approx(FIRST_IRREDUCIBLE * np.exp(data.log_loss.min()))


def test_a_need_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="h needs 'epochs', which is none of repeats, passes, distinct, replay"):
        Parameter("h", 1e-4, 1.0, (0.1, 0.5), "ratio", needs="epochs")
