"""The tree trains every cell, and what runs share only once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from planner.design.cells import Cell
from planner.design.tree import build_tree
from planner.errors import InputError
from planner.recipe import Recipe

RECIPE = Recipe()
CELLS = [
    Cell(size, 0, pt, spec, unique if spec else None)
    for size in (2e4, 8e4)
    for pt in (0.0, 4e5, 9e5)
    for spec in (0.0, 2.1e5, 8.2e5)
    for unique in (5e4, 2e5)
    if pt + spec > 0
]


@pytest.mark.parametrize("longest", [None, 150])
def test_every_path_is_one_whole_run(longest: int | None) -> None:
    tree = build_tree(CELLS, RECIPE, 1024, max_segment_steps=longest)
    assert Counter(tip.cell for tip in tree.tips) == Counter(set(CELLS))
    for tip in tree.tips:
        assert tip.cell is not None
        path = [tip]
        while path[0].parent_id is not None:
            path.insert(0, tree.by_id[path[0].parent_id])
        steps = {stage: [segment for segment in path if segment.stage == stage] for stage in ("general", "special")}
        for stage, tokens in (("general", tip.cell.tokens_pt), ("special", tip.cell.tokens_spec)):
            ends = [(segment.first_step, segment.last_step) for segment in steps[stage]]
            assert sum(last - first for first, last in ends) == RECIPE.steps(tokens)
            assert all(a[1] == b[0] for a, b in zip(ends, ends[1:], strict=False))
            assert longest is None or all(last - first <= longest for first, last in ends)
        cooled = [segment for segment in path if segment.cooldown_from is not None]
        total = tip.last_step
        assert sum(segment.steps for segment in cooled) == round(RECIPE.cooldown_fraction * total)
        assert tree.flops_of_run(tip) == pytest.approx(sum(tree.flops(segment) for segment in path))


def test_the_tree_costs_less_than_its_cells() -> None:
    tree = build_tree(CELLS, RECIPE, 1024)
    assert tree.flops_total == pytest.approx(sum(tree.flops(segment) for segment in tree.segments))
    assert tree.flops_cell_by_cell == pytest.approx(sum(tree.flops_of_run(tip) for tip in tree.tips))
    assert tree.flops_total < 0.6 * tree.flops_cell_by_cell


def test_cells_that_round_to_one_run_are_refused() -> None:
    with pytest.raises(InputError, match="same 200 steps"):
        build_tree([Cell(2e4, 0, 0.0, 204800.0, 5e4), Cell(2e4, 0, 0.0, 204801.0, 5e4)], RECIPE, 1024)


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [("size", 80000.01, 80000.02), ("unique_spec", 100000.2, 100000.4), ("replay_fraction", 0.1, 0.1000001), ("early_fraction", 0.1, 0.10000001)],
)
def test_values_whose_names_round_to_one_are_refused(key: str, first: float, second: float) -> None:
    cell = Cell(8e4, 0, 9e5, 8.2e5, 2e5, 0.0, 0.0)
    with pytest.raises(InputError, match=f"{key}.* has {first!r} and {second!r}, too close"):
        build_tree([replace(cell, **{key: first}), replace(cell, **{key: second})], RECIPE, 1024)
    apart = [replace(cell, **{key: first}), replace(cell, **{key: second, "seed": 1})]
    assert len(build_tree(apart, RECIPE, 1024).tips) == 2


def test_the_rate_follows_warm_up_constant_and_cooldown() -> None:
    from planner.train.segment import rate_at

    tip = next(tip for tip in build_tree(CELLS, RECIPE, 1024).tips if tip.cell and tip.cell.tokens_pt == 0)
    rates = [rate_at(tip, RECIPE, step) for step in range(tip.last_step)]
    assert rates[0] == pytest.approx(tip.learning_rate / RECIPE.warmup_steps)
    assert tip.cooldown_from is not None
    assert rates[tip.cooldown_from - 1] == tip.learning_rate
    assert np.all(np.diff(rates[tip.cooldown_from :]) < 0) and 0 < rates[-1] < 0.01 * tip.learning_rate
