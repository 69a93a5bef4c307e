"""Laws written down give what their formulas give, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from planner.arrays import Array
from planner.fit.scale import Scale
from planner.laws import LAWS, Law, Parameter, Points, Reference
from planner.laws.dual import exp, log, minimum


def runs(law: Law, count: int, seed: int) -> Points:
    random = np.random.default_rng(seed)
    general = random.choice([0.0, 3e5, 4e6], count) if law.knows_general and law.knows_special else random.choice([3e5, 4e6], count) * law.knows_general
    special = random.choice([2e5, 1e6, 3e6], count) * law.knows_special
    unique, replay = random.choice([5e4, 2e5, 1e9], count), random.choice([0.0, 0.2], count)
    return Points(Reference(1e5, 1e6, 2e5 if seed % 2 else None), random.choice([2e4, 1e5, 3e5], count), general, special, unique, replay)


def asked(law: Law, theta: Array, points: Points, weights: Array) -> tuple[list[Array], list[Array]]:
    """Return loss, slopes and curvature of the formula as it stands, and as it was written down."""
    forecast, slopes, trace = law.log_loss_slopes_and_trace(theta, points)
    plain = [law.log_loss(theta, points), forecast, slopes, forecast, slopes, law.log_curvature(trace, slopes, weights)]
    written, out, exact = law.on(points), np.full_like(slopes, np.nan), np.full_like(slopes, np.nan)
    loss = written.log_loss(theta)
    first, _ = written.slopes(theta, out)
    second, trace = written.slopes(theta, exact, exact=True)
    return plain, [loss, first, out, second, exact, written.curvature(trace, exact, weights)]


@pytest.mark.parametrize("name", LAWS)
def test_a_law_written_down_is_its_formula_to_the_bit(name: str) -> None:
    """For one problem and several, again, and on runs that are others and more than those it was written down for."""
    law = LAWS[name]
    random = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        for seed, count in ((0, 40), (1, 61), (2, 1)):
            points = runs(law, count, seed)
            for problems in (1, 2, 7, 1, 7):
                theta, weights = Scale(law).draw(random, problems), random.normal(size=(problems, count))
                for plain, written in zip(*asked(law, theta, points, weights), strict=True):
                    np.testing.assert_array_equal(written, plain)
    assert all(law.programs.values()) and len(law.programs) == 6


def _looks(p: Mapping[str, Any], x: Points) -> Any:
    return p["a"] * exp(-x.log_n * p["b"]) * (2.0 if (x.pt > 1.0).any() else 1.0)


def _makes(p: Mapping[str, Any], x: Points) -> Any:
    return p["a"] + np.full(x.pt.shape, 0.5) * exp(-x.log_n * p["b"])


def _least(p: Mapping[str, Any], x: Points) -> Any:
    """No slope is of full shape: one is a number, one stands for two parameters."""
    return log(1.5 + minimum(p["a"] + p["b"], 3.0 - p["a"] * p["b"])) + 1.0


@pytest.mark.parametrize("formula", [_looks, _makes, _least])
def test_a_formula_of_somebody_elses(formula: Any) -> None:
    """One that looks at values or makes arrays of its own is done as it stands; the runs may be others each time."""
    law = Law("own", "", tuple(Parameter(name, 0.1, 9.0, (0.5, 2.0), "ratio") for name in "abc"), formula, "", "")
    random = np.random.default_rng(0)
    for count, general in ((5, 3e6), (5, 3e5), (8, 3e6)):
        points = Points(Reference(1e5, 1e6), random.uniform(1e4, 1e6, count), np.full(count, general), 0.0, 1.0)
        for problems in (1, 3):
            theta, weights = Scale(law).draw(random, problems), random.normal(size=(problems, count))
            for plain, written in zip(*asked(law, theta, points, weights), strict=True):
                np.testing.assert_array_equal(written, plain)
    assert all(law.programs.values()) == (formula is _least)


def _masks(p: Mapping[str, Any], x: Points) -> Any:
    """A mask times one is a number, of which there may be two."""
    return p["a"] * exp(-x.log_n * p["b"]) * (1.0 * (x.log_n > 0.0) + (x.log_n > 1.0) * 1.0 + 1.0)


def _chooses(p: Mapping[str, Any], x: Points) -> Any:
    """Arrays in a list reach numpy's function as the list."""
    return p["a"] * exp(-x.log_n * p["b"]) * np.select([x.log_n > 1.0, x.log_n > 0.0], [3.0, 2.0], 1.0)


def _asks(p: Mapping[str, Any], x: Points) -> Any:
    if not isinstance(x.log_n, np.ndarray):
        raise RuntimeError("arrays are wanted")
    return p["a"] * exp(-x.log_n * p["b"])


def _tells_kinds_apart(p: Mapping[str, Any], x: Points) -> Any:
    return p["a"] * exp(-x.log_n * p["b"]) * (2.0 if isinstance(x.log_n, np.ndarray) else 3.0)


def _knows_their_number(p: Mapping[str, Any], x: Points) -> Any:
    return p["a"] * exp(-x.log_n * p["b"]) * np.broadcast_to(np.sqrt(x.special), x.log_n.shape) / x.log_n.shape[0]


@pytest.mark.parametrize("formula", [_masks, _chooses, _asks, _tells_kinds_apart, _knows_their_number])
def test_a_formula_that_is_written_down_wrongly_is_done_as_it_stands(formula: Any) -> None:
    law = Law("own", "", tuple(Parameter(name, 0.1, 9.0, (0.5, 2.0), "ratio") for name in "ab"), formula, "", "")
    random = np.random.default_rng(0)
    for count in (5, 8, 1):
        points = runs(law, count, count)
        for problems in (1, 3):
            theta, weights = Scale(law).draw(random, problems), random.normal(size=(problems, count))
            for plain, written in zip(*asked(law, theta, points, weights), strict=True):
                np.testing.assert_array_equal(written, plain)
