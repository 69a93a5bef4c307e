"""From the forecast loss to accuracy on a benchmark, with a table of the user's own models.

The losses in the table must be on one held-out text, which is checked if the table names it, and on the text of the law, which cannot be checked here.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from planner.allocate.sigmoid import LEAST_ROWS, PARAMETERS, Sigmoid, Table, curve, fit_sigmoid
from planner.errors import DataError, InputError
from planner.fit.level import ENDS, Z, interval_of

COLUMNS = ("loss", "accuracy")
TEXT = "heldout_text"
"""Column with the text that a loss was measured on, as `plan evaluate --table` writes it; optional."""
DRAWS = 6000
"""Draws of loss, curve and scatter, for the interval of the forecast."""


class Forecasted(Protocol):
    """A plan with its forecast loss and the 90 % interval [nats/token]."""

    @property
    def loss(self) -> float: ...
    @property
    def loss_low(self) -> float: ...
    @property
    def loss_high(self) -> float: ...


def read_table(path: Path) -> Table:
    """Read a CSV table with the columns loss, accuracy and optionally `TEXT`; others are ignored.

    Raises:
        InputError: no such file or column, a value that is not a number or out of range, losses on several texts, or too few rows.
    """
    if not path.is_file():
        raise InputError(f"there is no table {path}", remedy="give a CSV file with the columns loss and accuracy")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}", remedy="give UTF-8 text with a header row") from error
    have, rows = ([name.strip() for name in lines[0]], lines[1:]) if lines else ([], [])
    for name in COLUMNS:
        if rows and have.count(name) != 1:
            what = f"the column {name} {have.count(name)} times" if name in have else f"no column {name}"
            raise InputError(f"{path} has {what}", remedy=f"name one column {name} in its header; it has {', '.join(filter(None, have))}")
    for number, row in enumerate(rows, start=2):
        if len(row) > len(have):
            raise InputError(f"{path}, row {number} has {len(row)} values for {len(have)} columns", remedy="correct the row: numbers take no comma")
    texts = {row[column].strip() for column in [have.index(TEXT)] for row in rows if len(row) > column} - {""} if TEXT in have else set()
    if len(texts) > 1:
        what = f"{path} has losses on several held-out texts (corpus/domain), which are not comparable: {', '.join(sorted(texts))}"
        raise InputError(what, remedy="keep the rows of one text, or measure all models on one with plan evaluate --table")
    if len(rows) < LEAST_ROWS:
        raise InputError(f"{path} has {len(rows)} rows", remedy=f"give at least {LEAST_ROWS} models with different losses")
    loss, accuracy = (np.array([_number(row, have.index(name), name, path, number) for number, row in enumerate(rows, start=2)]) for name in COLUMNS)
    if (accuracy > 1).any():
        first = int((accuracy > 1).argmax())
        remedy = "give fractions, not per cent: divide by 100" if accuracy.max() <= 100 else "give fractions of 1"
        raise InputError(f"{path}, row {first + 2}: accuracy = {accuracy[first]:g} is above 1", remedy=remedy)
    for name, bad, values in (("loss", loss <= 0, loss), ("accuracy", accuracy < 0, accuracy)):
        if bad.any():
            raise InputError(f"{path}, row {int(bad.argmax()) + 2}: {name} = {values[bad.argmax()]:g} is out of range", remedy="correct or delete the row")
    if (distinct := len(np.unique(loss))) < LEAST_ROWS:
        raise InputError(f"{path} has {distinct} distinct losses", remedy=f"give models with at least {LEAST_ROWS} different losses")
    return Table(loss, accuracy)


def _number(row: Sequence[str], column: int, name: str, path: Path, number: int) -> float:
    text = row[column].strip() if column < len(row) else ""
    percent = name == "accuracy" and text.endswith("%")
    try:
        value = float(text[:-1]) / 100 if percent else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:  # Python reads 2_1 as 21
        raise InputError(f"{path}, row {number}: {name} = {text!r} is not a number", remedy="correct or delete the row")
    return value


def read_curve(path: Path, chance: float | None = None) -> Sigmoid:
    """Read a table of models and fit its curve.

    Args:
        path: the table.
        chance: accuracy of guessing; fitted by default.

    Raises:
        DataError: the table does not support a curve.
        InputError: no such table, one that cannot be read, or an invalid chance.
    """
    table = read_table(path)
    try:
        return fit_sigmoid(table, chance=chance)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", remedy=error.remedy) from None


def forecast(sigmoid: Sigmoid, plan: Forecasted, *, chance: float | None = None, seed: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Forecast the accuracy of a plan, with its 90 % interval from loss, curve and scatter of a model around it; and the warnings about it.

    Keys of the forecast: accuracy, low and high [fractions of 1]; scatter of a model around the curve; rows and losses (least, greatest) of the table;
    curve and curve_intervals by parameter (90 % over the resamples); chance_given, whether chance was given and not fitted.

    Args:
        sigmoid: the fitted curve.
        plan: with its forecast loss.
        chance: accuracy of guessing, if it was given.
        seed: seed of the draws.
    """
    random = np.random.default_rng(seed)
    normal = random.normal(size=DRAWS)
    # The interval may be asymmetric; each side keeps its own deviation.
    deviation = np.where(normal > 0, math.log(plan.loss_high / plan.loss), math.log(plan.loss / plan.loss_low)) / Z
    loss = plan.loss * np.exp(normal * deviation)
    drawn = curve(sigmoid.resamples[random.integers(0, len(sigmoid.resamples), DRAWS)], loss)
    drawn = np.clip(drawn + sigmoid.scatter * random.standard_t(sigmoid.degrees, DRAWS), 0, 1)
    low, high = interval_of(drawn)
    ends = np.quantile(sigmoid.resamples, ENDS, axis=0).T
    body = {
        "accuracy": float(sigmoid.at(plan.loss)), "low": low, "high": high, "scatter": sigmoid.scatter,
        "rows": sigmoid.rows, "losses": list(sigmoid.losses), "curve": dict(zip(PARAMETERS, sigmoid.parameters.tolist(), strict=True)),
        "curve_intervals": dict(zip(PARAMETERS, ends.tolist(), strict=True)), "chance_given": chance is not None,
    }  # fmt: skip
    return body, _warnings(sigmoid, plan)


def _warnings(sigmoid: Sigmoid, plan: Forecasted) -> list[str]:
    least, most = sigmoid.losses
    off = max(least - plan.loss, plan.loss - most)
    if off <= 0:
        return []
    side, end = ("below the lowest", least) if plan.loss < least else ("above the highest", most)
    return [
        f"the accuracy is an extrapolation: the forecast loss {plan.loss:.4g} lies {off:.3g} nats/token {side} loss of the table, {end:.4g} "
        f"({off / (most - least):.2g} times the span of its losses)"
    ]
