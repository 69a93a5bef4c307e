"""Reading tables: a file to a frame, columns by name, and counts as people write them in cells."""

from __future__ import annotations

import csv
import math
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import InputError
from planner.units import format_names, parse_count

if TYPE_CHECKING:
    from pandas import DataFrame, Series

LINES = (".jsonl", ".ndjson")
OTHERS = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods", ".numbers"), ("a spreadsheet", "save it as CSV, one sheet with its header in the first row")),
    ".json": ("one JSON document", "write JSON Lines, one object per line, in a file named .jsonl"),
}
"""File endings that are not tables of text: what the files are, and what to do instead."""
SEPARATORS = {";": "semicolons", "\t": "tabs"}
MOST_NAMES, LONGEST_NAME = 40, 60
"""Most columns that a message names, and most characters of each."""


def read_frame(path: Path, used: set[str], names: set[str]) -> DataFrame:
    """Read CSV, JSON Lines or parquet.

    Args:
        path: the file.
        used: columns that will be read.
        names: those whose cells are text even if all are digits, as a fingerprint may be.

    Raises:
        InputError: another kind of file, or a column in use that the header has twice.
    """
    import pandas as pd

    kind = path.suffix.lower()
    if kind in OTHERS:
        what, remedy = OTHERS[kind]
        raise InputError(f"{path} is {what}, which is not supported", remedy=remedy)
    try:
        if kind == ".parquet":
            frame = pd.read_parquet(path)
            # Nullable columns have a special missing value, which is neither true nor false.
            nullable = [name for name, dtype in frame.dtypes.items() if pd.api.types.is_extension_array_dtype(dtype)]
            frame[nullable] = frame[nullable].astype(object).where(frame[nullable].notna(), math.nan)
        elif kind in LINES:
            frame = pd.read_json(path, lines=True, dtype=dict.fromkeys(names, object))
        else:
            header = _check_header(path, used)
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header would be cut short
                frame = pd.read_csv(path, index_col=False, dtype={name: str for name in header if name.strip() in names})
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8", remedy="save it as CSV in UTF-8") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise _uneven(path, error) from error
    except (ValueError, OSError, ImportError) as error:
        raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}", remedy="give CSV, JSON Lines or parquet") from error
    frame = frame.rename(columns=lambda name: str(name).strip())
    _check_names(path, list(frame), used)
    return frame


def columns_of(frame: DataFrame) -> str:
    """List the columns of a table for a message, cut to a fixed length: a file that is not a table may have anything there."""
    return format_names([name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…" for name in map(str, frame)], MOST_NAMES)


def numbers(column: Series[Any], *, counts: bool) -> Series[float]:
    """Read cells as numbers, NaN where empty or not a number; counts may also be written "30B" or "1,200,000", as on the command line."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce")
    # Parquet's 16- and 32-bit numbers would overflow in products.
    values = values.astype("int64" if values.dtype.kind in "bi" else float)
    if not counts or pd.api.types.is_numeric_dtype(column):
        return values
    values = values.astype(float)
    for place in (values.isna() & column.notna()).to_numpy().nonzero()[0]:
        if isinstance(cell := column.iloc[place], str):
            try:
                values.iloc[place] = parse_count(cell)
            except InputError:
                continue
    return values


def _uneven(path: Path, error: Exception) -> InputError:
    """Return the error for a row with more cells than the header; pandas counts lines differently or names none."""
    with path.open(newline="", encoding="utf-8", errors="replace") as lines, suppress(csv.Error):  # what csv cannot read, pandas reports
        rows = csv.reader(lines)
        named = len(next(rows, []))
        for row in rows:
            if len(row) > named:
                remedy = "use decimal points, not commas, in numbers, and quote text that has a comma"
                if named == 1:
                    remedy = "put the header in the first line, and delete what is above it"
                return InputError(f"{path}, line {rows.line_num}: {len(row)} cells where the header names {named} columns", remedy=remedy)
    return InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}", remedy="give CSV, JSON Lines or parquet")


def _check_header(path: Path, used: set[str]) -> list[str]:
    """Refuse a header without commas or with a name twice, of which pandas would take the first; return the names as written."""
    import pandas as pd

    written = [str(name) for name in pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].tolist()]
    names = [name.strip() for name in written]
    for mark, said in SEPARATORS.items():
        if len(names) == 1 and mark in names[0]:
            remedy = "save it with commas between the columns, and decimal points, not commas, in numbers"
            raise InputError(f"{path} has {said} between its columns ({names[0][:LONGEST_NAME]!r})", remedy=remedy)
    _check_names(path, names, used)
    return written


def _check_names(path: Path, names: list[str], used: set[str]) -> None:
    """Refuse a name in use that occurs twice."""
    for name in names:
        if name in used and names.count(name) > 1:
            raise InputError(f"{path} has the column {name!r} {names.count(name)} times", remedy="give each column a name of its own")
