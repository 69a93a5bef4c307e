"""Cells listed one by one in sweep.toml, and designs that come back from their file as they were."""

from pathlib import Path

import pytest

from planner.design.cells import Cell
from planner.design.spec import read_sweep
from planner.errors import InputError
from planner.next_runs.candidates import candidates
from planner.next_runs.write import sweep_toml
from tests.next_runs.shared import SETTING


def test_a_design_survives_its_file(tmp_path: Path) -> None:
    given = candidates(SETTING, 3e13, unique_target=2e5)
    text = sweep_toml(
        given.cells, SETTING.recipe, name='a "quoted" name', corpus="../corpus", domain="medicine", unique_available=SETTING.unique_available,
        eval_tokens=4096, notes=["first", "second"],
    )  # fmt: skip
    (tmp_path / "sweep.toml").write_text(text, encoding="utf-8")
    spec = read_sweep(tmp_path)
    assert (spec.name, spec.domain, spec.eval_tokens, spec.grids) == ('a "quoted" name', "medicine", 4096, ())
    assert spec.recipe == SETTING.recipe and spec.corpus == (tmp_path / "../corpus").resolve()
    cells, left_out = spec.cells(SETTING.vocab, SETTING.unique_available)
    assert set(cells) == set(given.cells) and not left_out


def read(tmp_path: Path, text: str) -> list[Cell]:
    (tmp_path / "sweep.toml").write_text('corpus = "c"\n' + text, encoding="utf-8")
    return read_sweep(tmp_path).cells(1024, 1e6)[0]


ONE = '[[cell]]\nsize = "80k"\ntokens_pt = "1M"\n'


def test_cells_stand_beside_grids_and_count_once(tmp_path: Path) -> None:
    grid = '[[grid]]\nsizes = ["80k"]\ntokens_pt = ["1M", "2M"]\ntokens_spec = [0]\nunique_spec = ["all"]\n'
    found = read(tmp_path, ONE + 'tokens_spec = "400k"\nunique_spec = "all"\nseed = 3\n' + ONE + "tokens_spec = 0\n" + grid)
    assert found == [Cell(8e4, 0, 1e6, 0.0, None), Cell(8e4, 0, 2e6, 0.0, None), Cell(8e4, 3, 1e6, 4e5, 1e6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE, "cell 1 has no tokens_spec"),
        (ONE + "tokens_spec = 0\nunique_spec = 5\n", "a unique_spec without specialist tokens"),
        (ONE + 'tokens_spec = "1M"\n', "no unique_spec beside its specialist tokens"),
        (ONE + "tokens_spec = 0\nsizes = 3\n", "no setting 'sizes'"),
        (ONE + 'tokens_spec = "much"\n', "tokens_spec: 'much' is not a count"),
        (ONE + "tokens_spec = 0\nseed = 1.5\n", "seed = 1.5"),
        ("[[cell]]\nsize = 80000\ntokens_pt = 0\ntokens_spec = 0\n", "0 tokens"),
        ("cell = 3\n", "cell is not a list of tables"),
        ("grid = []\n", "no grid and no cell"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)
