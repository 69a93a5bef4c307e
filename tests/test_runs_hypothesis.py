"""Whatever stands in a table of runs: a sentence for the user, or a frame that keeps the schema's promises."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from planner.errors import DataError, InputError, PlannerWarning
from planner.runs import REQUIRED, SCHEMA, read_runs, write_runs

NUMBERS = [name for name, (unit, _) in SCHEMA.items() if unit != "text"]
FEW = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])



def sound(unit: str) -> st.SearchStrategy[object]:
    """Draw numbers that a column may hold."""
    low, high = {"share": (0.0, 0.9), "nats/token": (0.01, 20.0)}.get(unit, (1.0, 1e15))
    return st.floats(low, high).map(lambda value: float(f"{value:.6g}"))


odd = st.one_of(
    st.none(), st.floats(), st.integers(-(10**30), 10**30),
    st.sampled_from([0, -1, 1e308, -1e308, "", " ", "nan", "inf", "1e5", "1,000", "x", "True", "0x10"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5),
)  # fmt: skip
texts = st.one_of(st.sampled_from(["", "a", "b", "ok", "diverged", "short_stage;overfitted", ";", "1", "1.0"]), st.none(), st.integers(0, 3))


@st.composite
def tables(draw: st.DrawFn, value: st.SearchStrategy[object] = odd) -> pd.DataFrame:
    """Draw a table: some columns of the schema, now and then a strange one, few rows, sound numbers with some odd ones among them."""
    needed = list(REQUIRED) if draw(st.booleans()) else [name for name in REQUIRED if draw(st.booleans())]
    names = list(dict.fromkeys(needed + draw(st.lists(st.sampled_from(list(SCHEMA)), max_size=8))))
    if draw(st.integers(0, 4)) == 0:
        names.append(draw(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), min_size=1, max_size=6)))
    rows = draw(st.integers(0, 6))
    often_odd = draw(st.integers(0, 3)) == 0
    columns = {}
    for name in names:
        unit = SCHEMA[name][0] if name in SCHEMA else ""
        kind = texts if unit == "text" else value if often_odd and draw(st.booleans()) else sound(unit)
        columns[name] = draw(st.lists(kind, min_size=rows, max_size=rows))
    return pd.DataFrame({name: pd.Series(items, dtype=object) for name, items in columns.items()})


def read(path: Path) -> pd.DataFrame | None:
    """Read a table; None where it was refused with a sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PlannerWarning)
        try:
            return read_runs(path)
        except (InputError, DataError) as error:
            assert error.message and error.remedy and "\n" not in str(error)
            return None


def check(frame: pd.DataFrame) -> None:
    """Every column of the schema, in order; ranges kept; ids unique; what is missing is NaN."""
    assert list(frame) == list(SCHEMA) and len(frame)
    for name in NUMBERS:
        assert pd.api.types.is_numeric_dtype(frame[name]) and not np.isinf(frame[name].to_numpy(float)).any()
    assert (frame["params_non_embedding"] > 0).all()
    assert (frame["tokens_pt"] >= 0).all() and (frame["tokens_spec"] >= 0).all() and (frame["tokens_pt"] + frame["tokens_spec"] > 0).all()
    assert not frame["run_id"].duplicated().any()
    assert (frame["status"].isin(["ok", "diverged"]) | frame["flags"].str.contains("unfinished")).all()
    assert not (frame["unique_spec"] <= 0).any() and frame["unique_spec"][frame["tokens_spec"] > 0].notna().all()
    assert frame["flags"].map(lambda text: isinstance(text, str)).all()
    unflagged = frame[frame["flags"] == ""]
    assert (unflagged["loss_spec"] > 0).all()


@FEW
@given(tables())
def test_a_table_of_anything_is_refused_or_valid(frame: pd.DataFrame) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        frame.to_csv(path, index=False)
        found = read(path)
        if found is not None:
            check(found)


@FEW
@given(tables())
def test_what_was_read_is_written_and_read_the_same(frame: pd.DataFrame) -> None:
    with TemporaryDirectory() as folder:
        path, again = Path(folder) / "runs.csv", Path(folder) / "again.csv"
        frame.to_csv(path, index=False)
        first = read(path)
        if first is None:
            return
        write_runs(again, first)
        second = read(again)
        assert second is not None
        for name in NUMBERS:
            np.testing.assert_array_equal(second[name].to_numpy(float), first[name].to_numpy(float), err_msg=name)
        assert list(second["flags"]) == list(first["flags"]) and list(second["status"]) == list(first["status"])
        assert [str(name) for name in second["run_id"]] == [str(name) for name in first["run_id"]]


@FEW
@given(tables(), st.sampled_from(list(REQUIRED)), st.sampled_from(["N", "size of the model", "Ñ", "a,b", 'a"b']))
def test_a_mapped_column_reads_as_if_it_had_our_name(frame: pd.DataFrame, ours: str, theirs: str) -> None:
    if ours not in frame or theirs in frame:
        return
    with TemporaryDirectory() as folder:
        path, mapped = Path(folder) / "runs.csv", Path(folder) / "mapped.csv"
        frame.to_csv(path, index=False)
        frame.rename(columns={ours: theirs}).to_csv(mapped, index=False)
        plain = read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlannerWarning)
            try:
                other: pd.DataFrame | None = read_runs(mapped, {ours: theirs})
            except InputError:
                other = None
        assert (plain is None) == (other is None)
        if plain is not None and other is not None:
            pd.testing.assert_frame_equal(plain, other)


@FEW
@given(st.binary(max_size=300), st.sampled_from(["csv", "jsonl"]))
@example(b'"\x80', "csv")
@example(b"a,b\n" + b"x" * 200_000 + b",1,2\n", "csv")
@example(b"a,b\n1,2,3\n\x00,\x80\n", "csv")
def test_a_file_of_any_bytes_is_refused_or_valid(content: bytes, form: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"runs.{form}"
        path.write_bytes(content)
        found = read(path)
        if found is not None:
            check(found)


@FEW
@given(tables(st.one_of(sound("tokens"), st.none(), st.sampled_from([0, -1, 1e300]))))
def test_json_lines_read_as_csv_does(frame: pd.DataFrame) -> None:
    if not len(frame) or not set(REQUIRED) <= set(frame):
        return
    with TemporaryDirectory() as folder:
        path, lines = Path(folder) / "runs.csv", Path(folder) / "runs.jsonl"
        frame.to_csv(path, index=False)
        frame.to_json(lines, orient="records", lines=True, double_precision=15)
        plain, other = read(path), read(lines)
        assert (plain is None) == (other is None)
        if plain is not None and other is not None:
            for name in NUMBERS:
                np.testing.assert_allclose(other[name].to_numpy(float), plain[name].to_numpy(float), rtol=1e-12, err_msg=name)


def test_both_columns_of_a_name_are_refused_or_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("params_non_embedding,tokens_pt,loss_spec,loss_spec\n1e5,1e6,3.0,4.0\n")
    found = read(path)
    if found is not None:
        check(found)


@pytest.mark.parametrize("text", ["", "\n", "params_non_embedding\n", "a,b\n1\n2,3,4\n", "\ufeffparams_non_embedding,tokens_pt,loss_spec\n1e5,1e6,3\n"])
def test_torn_files_are_refused_or_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    found = read(path)
    if found is not None:
        check(found)
