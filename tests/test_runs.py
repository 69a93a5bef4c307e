"""The runs table says what it holds, and survives being written and read."""

import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from planner.errors import InputError
from planner.flags import FLAGS, flag_runs
from planner.recipe import Recipe
from planner.runs import SCHEMA, one_recipe, read_runs, write_runs

ROOT = Path(__file__).parents[1]


def test_the_documented_schema_is_the_one_in_use() -> None:
    text = (ROOT / "sweeps" / "README.md").read_text(encoding="utf-8")
    for name, (unit, meaning) in SCHEMA.items():
        assert f"| `{name}` | {unit} | {meaning} |" in text
    for flag, meaning in FLAGS.items():
        assert f"| `{flag}` | {meaning} |" in text


def test_the_recorded_sweep_is_whole() -> None:
    frame = read_runs(ROOT / "sweeps" / "medicine" / "runs.csv")
    assert len(frame) >= 100 and (frame["status"] == "ok").all()
    sizes = frame["params_non_embedding"].nunique()
    assert sizes >= 5 and frame["tokens_pt"].nunique() >= 5 and frame["tokens_spec"].nunique() >= 5
    assert frame["unique_spec"].nunique() >= 3 and frame["epochs_spec"].max() > 16 and frame["epochs_spec"].min() < 1
    assert frame["seed"].nunique() == 2 and {"stable", "zero_shot", "scratch"} == set(frame["branch_kind"])


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_reads_back_the_same(form: str, tmp_path: Path) -> None:
    frame = read_runs(ROOT / "sweeps" / "medicine" / "runs.csv")
    path = tmp_path / f"runs.{form}"
    if form == "csv":
        write_runs(path, frame)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    again = read_runs(path)
    pd.testing.assert_frame_equal(again[["loss_spec", "unique_spec", "flags"]], frame[["loss_spec", "unique_spec", "flags"]], check_dtype=False)


def test_overfitted_rows_are_those_past_their_best(tmp_path: Path) -> None:
    rows = ["params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec"]
    rows += [f"1e5,1e6,{spec},5e4,{loss}" for spec, loss in ((2e5, 3.4), (4e5, 3.35), (8e5, 3.4), (1.6e6, 3.7))]
    rows += ["1e5,1e6,1.6e6,1e6,3.7", "1e5,1e6,0,,5.0"]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows) + "\n")
    assert list(read_runs(path)["flags"]) == ["", "", "", "overfitted", "", ""]


def flags_of(tmp_path: Path, columns: str, rows: list[str]) -> list[str]:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return list(read_runs(path)["flags"])


def test_a_rate_that_was_beaten_is_flagged(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,tokens_spec,loss_spec,learning_rate"
    rows = ["1e5,1e6,0,3.00,1e-3", "1e5,1e6,0,3.02,2e-3", "1e5,1e6,0,3.20,4e-3", "1e5,2e6,0,2.9,4e-3"]
    assert flags_of(tmp_path, columns, rows) == ["", "", "off_learning_rate", ""]


def test_many_seeds_of_a_run_are_not_compared_pair_by_pair(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec,seed"
    flags_of(tmp_path, columns, ["1e5,1e6,2e5,1e9,3.0,0", "2e5,1e6,2e5,1e9,2.9,0"])
    frame = read_runs(tmp_path / "runs.csv")
    frame = frame.loc[[0] * 3000 + [1] * 3000].assign(seed=range(6000)).reset_index(drop=True)
    tracemalloc.start()
    assert set(flag_runs(frame)["flags"]) == {""}
    assert tracemalloc.get_traced_memory()[1] < 6000**2
    tracemalloc.stop()


def test_a_larger_model_that_is_worse_on_fresh_text_is_flagged(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,tokens_spec,unique_spec,loss_spec"
    fresh = ["1e5,1e6,2e5,1e9,3.0", "2e5,1e6,2e5,1e9,2.9", "4e5,1e6,2e5,1e9,3.02"]
    repeated = ["1e5,1e6,8e5,5e4,3.0", "2e5,1e6,8e5,5e4,3.4"]
    assert flags_of(tmp_path, columns, fresh + repeated) == ["", "", "larger_but_worse", "", ""]


@pytest.mark.parametrize(
    ("row", "factor", "flagged"),
    [(1, 0.7, {1: "smaller_but_better"}), (2, 0.93, {2: "smaller_but_better"}), (3, 1.1, {3: "larger_but_worse"})],
)
def test_one_bad_run_has_no_sound_one_thrown_out(tmp_path: Path, row: int, factor: float, flagged: dict[int, str]) -> None:
    """A loss that is too low is below those of larger models; they are not worse for that."""
    sizes = [1e5, 2e5, 4e5, 8e5, 1.6e6]
    losses = [4.0 * (size / 1e5) ** -0.06 * (factor if number == row else 1.0) for number, size in enumerate(sizes)]
    rows = [f"{size},1e7,{loss}" for size, loss in zip(sizes, losses, strict=True)]
    assert flags_of(tmp_path, "params_non_embedding,tokens_pt,loss_spec", rows) == [flagged.get(number, "") for number in range(5)]


def test_a_run_above_the_chord_of_its_neighbours_is_flagged(tmp_path: Path) -> None:
    columns = "params_non_embedding,tokens_pt,loss_spec"
    rows = [f"1e5,{d},{loss}" for d, loss in ((1e6, 4.0), (2e6, 3.5), (4e6, 3.4), (8e6, 3.0), (1.6e7, 2.9))]
    assert flags_of(tmp_path, columns, rows) == ["", "", "negative_curvature", "", ""]


def test_a_column_that_stands_twice_is_refused_where_it_is_read(tmp_path: Path) -> None:
    path, names = tmp_path / "runs.csv", {"params_non_embedding": "N", "tokens_pt": "D", "loss_spec": "loss"}
    path.write_text("N,D,loss,loss\n1e6,1e7,3,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="the column 'loss' 2 times"):
        read_runs(path, names)
    path.write_text("N,D,loss,note,note\n1e6,1e7,3,2,2\n", encoding="utf-8")
    assert len(read_runs(path, names)) == 1
    frame = pd.read_csv(path)
    frame.to_csv(tmp_path / "runs.csv.gz", index=False)
    assert len(read_runs(tmp_path / "runs.csv.gz", names)) == 1


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("params_total", 9e5, "row 2: params_total = 900000 is less than params_non_embedding"),
        ("replay_fraction", -1, "row 2: replay_fraction = -1 is not a share from 0 to 1"),
        ("replay_fraction", 1, "row 2: replay_fraction = 1 leaves the specialist stage no specialist token"),
        ("early_fraction", 1.5, "row 2: early_fraction = 1.5 is not a share from 0 to 1"),
        ("flops", -1, "row 2: flops = -1 is not positive"),
        ("loss_general", 0, "row 2: loss_general = 0 is not positive"),
        ("loss_general", 1e-300, "row 2: loss_general = 1e-300 is below 0.001 nats/token, which no language model reaches"),
        ("unique_spec", 1e-9, "row 2: unique_spec = 1e-09 is less than one; columns count single parameters and tokens"),
        ("steps_pt", -3, "row 2: steps_pt = -3 is negative"),
    ],
)
def test_a_value_that_no_run_has_is_refused_with_its_row(tmp_path: Path, column: str, value: float, sentence: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(f"params_non_embedding,tokens_pt,loss_spec,{column}\n1e6,1e7,3,{value:g}\n2e6,1e7,2.9,\n", encoding="utf-8")
    with pytest.raises(InputError) as refusal:
        read_runs(path)
    assert sentence in str(refusal.value)


def test_one_column_of_theirs_may_be_two_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("N,D,loss,tokens_pt\n1e6,1e7,3,5\n2e6,2e7,2.9,5\n", encoding="utf-8")
    named = {"params_non_embedding": "N", "params_total": "N", "tokens_spec": "D", "unique_spec": "D", "loss_spec": "loss", "tokens_pt": "D"}
    frame = read_runs(path, named)
    for column, theirs in named.items():
        assert frame[column].tolist() == pd.read_csv(path)[theirs].tolist(), column


def test_sizes_in_millions_beside_whole_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("params_non_embedding,tokens_pt,loss_spec\n70,1.4e9,3\n160,3.2e9,2.9\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2: params_non_embedding = 70 has over 1,000,000 tokens per parameter: is it in millions"):
        read_runs(path)


def test_an_empty_column_of_tokens_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("params_non_embedding,tokens_pt,tokens_spec,loss_spec\n1e6,1e7,,3\n2e6,2e7,,2.9\n", encoding="utf-8")
    assert read_runs(path)["tokens_spec"].tolist() == [0.0, 0.0]
    path.write_text("params_non_embedding,tokens_pt,tokens_spec,loss_spec\n1e6,1e7,,3\n2e6,2e7,1e6,2.9\n", encoding="utf-8")
    with pytest.raises(InputError, match="row 2: tokens_spec is missing; fix or delete the row"):
        read_runs(path)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["params_non_embedding", "tokens_pt"])
def test_a_number_that_is_missing_is_called_so(form: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"runs.{form}"
    row = {"params_non_embedding": "1e6", "tokens_pt": "1e7", "loss_spec": "3"}
    rows = [row, {**row, name: "NaN"}]
    if form == "csv":
        path.write_text("\n".join([",".join(row), *(",".join(values.values()) for values in rows)]), encoding="utf-8")
    else:
        path.write_text("\n".join("{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}" for values in rows), encoding="utf-8")
    with pytest.raises(InputError, match=f"row {3 if form == 'csv' else 2}: {name} is missing; fix or delete the row"):
        read_runs(path)


def test_a_recipe_is_one_whether_its_numbers_are_whole_or_not() -> None:
    whole, written = Recipe.from_mapping({"clip_norm": 1, "lr_reference_params": 100000}), Recipe.from_mapping({"clip_norm": 1.0})
    assert whole == written and whole.fingerprint == written.fingerprint == written.earlier_fingerprint == Recipe().fingerprint
    assert whole.earlier_fingerprint == "0ac1e7dfecc46e5b", "as the version that told them apart had it"


def test_an_empty_column_of_numbers_names_no_checkpoint() -> None:
    """A column that no row fills is read as numbers; pandas warns where words are filled into it, and warnings are errors here."""
    frame = read_runs(ROOT / "sweeps" / "medicine" / "runs.csv")
    one_recipe(frame.assign(base=float("nan")))
