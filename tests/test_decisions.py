"""Decisions: who belongs to which, and what a choice gives away, against examples worked by hand."""

import numpy as np
import pytest

from planner.decisions import ANY, COPY, HINDSIGHT, LARGEST, MOST_SPECIALIST, PLAN, decide, groups, with_text
from planner.fit.data import FitData

NONE = float("nan")


def table(*rows: tuple[float, float, float, float, float, float]) -> FitData:
    """Make runs of (parameters, general tokens, specialist tokens, distinct ones, loss, FLOPs), named a, b, c, …"""
    n, pt, spec, unique, loss, flops = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return FitData([chr(97 + k) for k in range(len(n))], {"non_embedding": n}, pt, spec, unique, np.log(loss), flops, np.arange(len(n)), None)


BELOW = table((10, 100, 0, NONE, 4.0, 1e3), (10, 50, 50, 50, 3.0, 1e3), (20, 60, 40, 20, 3.5, 1e3))


def test_regret_of_one_stage_by_hand() -> None:
    above = table((10, 400, 0, NONE, 2.0, 1e4), (20, 200, 0, NONE, 2.1, 1e4), (40, 100, 0, NONE, 2.2, 1e4), (10, 100, 0, NONE, 1.0, 7e3))
    below = table((10, 100, 0, NONE, 3.0, 1e3), (20, 60, 0, NONE, 3.2, 1e3))
    (found,) = decide(above, {PLAN: np.array([2.3, 2.0, 2.2, 0.0]), HINDSIGHT: np.array([1.0, 2.0, 3.0, 0.0])}, below)
    assert (found.chosen, found.best, found.runs, found.unique_spec, found.flops) == ("b", "a", ("a", "b", "c"), None, 1e4)
    # The best run below has 10 tokens per parameter, and so has b.
    assert found.regret_percent == pytest.approx({PLAN: 5.0, HINDSIGHT: 0.0, ANY: 5.0, LARGEST: 10.0, COPY: 5.0})


def test_regret_of_two_stages_by_hand() -> None:
    above = table(
        (20, 500, 0, NONE, 5.0, 1e4),  # no rule of thumb takes the run without specialist tokens, but the plan may
        (20, 250, 250, 100, 2.0, 1e4), (20, 100, 400, 100, 2.2, 1e4), (40, 125, 125, 100, 2.4, 1e4), (40, 200, 50, 100, 3.0, 1e4),
    )  # fmt: skip
    (found,) = decide(above, {PLAN: np.array([1.0, 2.0, 2.0, 2.0, 2.0])}, BELOW)
    assert (found.chosen, found.best, found.unique_spec) == ("a", "b", 100)
    # Ties are an average: two runs have the largest model. The best run below with as much text is b with half and half at 10 tokens per parameter.
    assert found.regret_percent == pytest.approx({PLAN: 150.0, ANY: 20.0, LARGEST: 35.0, MOST_SPECIALIST: 10.0, COPY: 20.0})


def test_seeds_and_untouched_caps_are_one_choice() -> None:
    above = table(
        (10, 90, 10, 100, 2.0, 1e4), (10, 90, 10, 900, 2.2, 1e4), (20, 40, 10, 100, 2.05, 1e4), (20, 30, 20, 100, 2.31, 1e4), (20, 10, 40, 100, 3.0, 1e4)
    )  # fmt: skip
    (found,) = decide(above, {PLAN: np.array([1.0, 4.0, 2.0, 3.0, 3.0])}, BELOW)
    assert found.runs == ("a", "c", "d", "e")
    assert found.chosen == "c", "the mean of a and b is not below c"
    assert found.best == "c" and found.regret_percent[PLAN] == 0
    assert found.regret_percent[ANY] == pytest.approx(100 * np.mean([2.1 / 2.05, 1, 2.31 / 2.05, 3 / 2.05]) - 100)


def test_equal_compute_is_within_a_quarter_below_the_dearest() -> None:
    runs = table(*((10, 10, 0, NONE, 2.0, flops) for flops in (100.0, 80.0, 79.0, 64.0, 63.0, 200.0)))
    assert [(unique, sorted(members)) for unique, members in groups(runs)] == [(None, [5]), (None, [0, 1]), (None, [2, 3]), (None, [4])]
    assert sorted(np.concatenate([members for _, members in groups(runs)])) == list(range(6))


@pytest.mark.parametrize(
    ("spec", "own", "unique", "belongs"),
    [
        (0, NONE, 100, True),  # uses none
        (400, 100, 100, True),
        (400, 100, 105, True),  # caps are whole documents
        (400, 100, 200, False),  # repeated less text than there is
        (400, 200, 100, False),  # had text that is not there
        (80, 200, 100, True),  # would not have come to the end either
        (80, 100, 200, True),  # did not come to its end
        (150, 200, 100, False),  # would have had to repeat
    ],
)  # fmt: skip
def test_a_run_belongs_to_the_amounts_of_text_with_which_it_would_have_gone_the_same(spec: float, own: float, unique: float, belongs: bool) -> None:
    assert with_text(table((10, 100, spec, own, 2.0, 1e4)), unique).tolist() == [belongs]


def test_two_amounts_with_the_same_runs_are_one_decision() -> None:
    assert [(unique, sorted(members)) for unique, members in groups(table((10, 9, 80, 100, 2, 9), (10, 9, 80, 400, 2, 9), (9, 9, 0, NONE, 2, 9)))] == [
        (400, [0, 1, 2])
    ]


def test_two_real_alternatives_are_too_few() -> None:
    above = table((10, 400, 0, NONE, 5.0, 1e4), (20, 100, 100, 100, 2.1, 1e4), (40, 50, 50, 100, 2.2, 1e4))
    assert decide(above, {PLAN: np.arange(3.0)}, BELOW) == ()
