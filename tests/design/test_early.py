"""Specialist text inside the general stage: another trunk, counted where it is read."""

import pytest

from planner.design.cells import Cell, Grid
from planner.design.spec import read_sweep
from planner.design.tree import build_tree
from planner.errors import InputError
from planner.recipe import Recipe

RECIPE = Recipe(seq_len=32, batch_sequences=2, warmup_steps=20)


def test_a_grid_crosses_early_shares_only_where_there_is_a_general_stage() -> None:
    grid = Grid((1e4,), (0.0, 2.4e4), (0.0, 2e4), (5e3, 1e9), early_fractions=(0.0, 0.25))
    cells = grid.cells()
    assert all(cell.tokens_pt > 0 for cell in cells if cell.early_fraction)
    unspecialised = [cell for cell in cells if cell.tokens_spec == 0]
    # Without early text no cap; with it the cap that the 8,000 early tokens pass, and the next larger one.
    assert [(cell.early_fraction, cell.unique_spec) for cell in unspecialised] == [(0.0, None), (0.25, 5e3), (0.25, 1e9)]
    assert unspecialised[1].tokens_trunk == pytest.approx(3.2e4) and unspecialised[1].tokens_early == pytest.approx(8e3)


def test_early_text_makes_a_trunk_of_its_own_and_is_not_shared() -> None:
    plain = [Cell(1e4, 0, 2.4e4, 0.0, None), Cell(1e4, 0, 2.4e4, 2e4, 5e3)]
    cells = [*plain, Cell(1e4, 0, 2.4e4, 2e4, 5e3, 0.0, 0.25), Cell(1e4, 0, 2.4e4, 0.0, 5e3, 0.0, 0.25)]
    tree = build_tree(cells, RECIPE, 300)
    assert {tip.cell for tip in tree.tips} == set(cells)
    early = [segment for segment in tree.segments if segment.early_fraction]
    assert early and not any(segment.shareable for segment in early) and any(segment.shareable for segment in tree.segments)
    mixed = next(tip for tip in tree.tips if tip.cell == cells[3])
    assert mixed.last_step == RECIPE.steps(3.2e4) and mixed.unique_spec == 5e3
    assert {segment.segment_id.split("-pt")[0] for segment in tree.segments} == {"n10000-s0", "n10000-s0-e0.25-u5000"}


def test_two_ends_with_one_start_of_the_cooldown_are_both_kept() -> None:
    recipe = Recipe(seq_len=32, batch_sequences=2, warmup_steps=20, cooldown_fraction=0.5)
    cells = [Cell(1e4, 0, 64.0 * steps, 0.0, None) for steps in (601, 602)]
    tree = build_tree(cells, recipe, 300)
    assert len(tree.tips) == 2


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('{size = "10k", tokens_pt = 0, tokens_spec = "20k", unique_spec = "all", early_fraction = 0.1}', "no general stage"),
        ('{size = "10k", tokens_pt = "20k", tokens_spec = 0, early_fraction = 0.1}', "no unique_spec"),
        ('{size = "10k", tokens_pt = "20k", tokens_spec = 0, unique_spec = "all", early_fraction = 1}', "early_fraction = 1"),
    ],
)
def test_bad_cells_are_named(tmp_path, cell: str, message: str) -> None:
    (tmp_path / "sweep.toml").write_text(f'corpus = "c"\ncell = [{cell}]\n')
    with pytest.raises(InputError, match=message):
        read_sweep(tmp_path)
