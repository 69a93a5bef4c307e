"""The runs table: one row per endpoint. Its schema, reading with validation, foreign tables, and flags.

A flag names why a row is kept out of a fit; no row is dropped without one. Missing is empty (NaN), never 0 or -1.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.artifacts import read_artifact, write_text
from planner.errors import DataError, InputError, PlannerWarning
from planner.flags import flag_runs, mostly_warmup
from planner.flops import flops_6nd
from planner.recipe import Recipe
from planner.tabular import LINES, columns_of, numbers, read_frame

if TYPE_CHECKING:
    from pandas import DataFrame, Series

RECORD_VERSION = 1
ENDED = ("", "ok", "done", "finished", "completed", "complete", "success", "succeeded")
DIVERGED = ("diverged", "nan", "exploded")
"""Words for a run's status that mean "ok" and "diverged"."""
LARGEST = 1e30
"""Largest size or number of tokens: more is a mistake, and its FLOPs would overflow."""
LEAST_LOSS = 1e-3
"""Smallest loss [nats/token]: less is a mistake, or in other units."""
MOST_LOSS = 13.0
"""Largest plausible loss [nats/token]: guessing uniformly among the 400,000 words of a large vocabulary does better."""
MOST_TOKENS_PER_PARAMETER = 1_000_000
"""Most for a run: with more, its columns are in different units."""
OFF_6ND = 1000.0
"""Factor between a run's FLOPs and 6·N·D from which they must be in another unit: tiny models and adapters stay under 30."""
PADDED = 1.05
"""Factor up to which vocabulary sizes may be the same one with a padded table."""
CONTRADICTS = 1.1
"""Factor between the epochs that a table states and those that follow from its tokens, from which one of them is wrong."""
ROUNDED = 0.51
"""Difference between the two up to which rounding explains it [epochs]."""
SCHEMA: dict[str, tuple[str, str]] = {
    "run_id": ("text", "name of the endpoint, unique in the table"),
    "trunk_id": ("text", "general run it branches from; rows that share it are resampled together"),
    "branch_kind": ("text", "stable (off a trunk at constant rate), zero_shot, scratch, mixed (early text only), or annealed (off a finished model)"),
    "family": ("text", "model family"),
    "seed": ("count", "seed of initialisation and data order"),
    "params_non_embedding": ("parameters", "all but embedding and output"),
    "params_embedding": ("parameters", "embedding and untied output"),
    "params_total": ("parameters", "both"),
    "vocab_size": ("count", "rows of the embedding table"),
    "tokens_pt": ("tokens", "general tokens trained on before the specialist stage"),
    "tokens_spec": ("tokens", "specialist tokens trained on, repeats and cooldown included"),
    "unique_spec": ("tokens", "distinct specialist tokens available; empty where tokens_spec is 0"),
    "epochs_spec": ("passes", "tokens_spec / unique_spec"),
    "replay_fraction": ("share", "general tokens inside the specialist stage"),
    "early_fraction": ("share", "specialist tokens inside the general stage; tokens_pt leaves them out, tokens_spec counts them"),
    "steps_pt": ("steps", "optimiser steps of the general stage"),
    "steps_spec": ("steps", "optimiser steps of the specialist stage"),
    "loss_spec": ("nats/token", "mean loss on held-out specialist documents; empty if diverged"),
    "loss_general": ("nats/token", "mean loss on held-out general documents; empty if diverged"),
    "bpb_spec": ("bits/byte", "the same, for comparing tokenizers"),
    "bpb_general": ("bits/byte", "the same, for comparing tokenizers"),
    "flops": ("FLOPs", "training, exact for the shape"),
    "flops_6nd": ("FLOPs", "6·N·D with non-embedding parameters"),
    "learning_rate": ("1", "peak rate"),
    "status": ("text", "ok or diverged, or a word for one of them such as done or nan; another word is flagged"),
    "flags": ("text", "reasons to keep the row out of a fit, joined by ;"),
    "reason": ("text", "why it diverged"),
    "recipe": ("text", "fingerprint of the recipe; different ones are never mixed in a fit"),
    "corpus": ("text", "fingerprint of the corpus"),
    "sweep": ("text", "name of the sweep"),
    "method": ("text", "how the specialist stage was trained: full, lora or qlora; lora-both and qlora-both the general one too; empty is full"),
    "base": ("text", "fingerprint of the open checkpoint that the run started from; empty for a fresh model"),
    "base_tokens": ("tokens", "tokens that the checkpoint was trained on before, where that is known; not in tokens_pt"),
}
"""Column: unit, meaning."""

COUNTS = ("count", "parameters", "tokens", "steps", "FLOPs")
"""Units whose values may be written as 30B or 1,200,000."""
REQUIRED = ("params_non_embedding", "loss_spec")
NAMES = ("run_id", "trunk_id", "recipe", "corpus", "sweep", "base")
"""Columns of names and fingerprints, read as text even if all digits, or digits with an e."""


@lru_cache
def _fingerprint(written: str) -> str:
    """Return the fingerprint of a recipe as a record has it; cached, since a sweep's records all have the same one."""
    return Recipe.from_mapping(json.loads(written)).fingerprint


def compile_runs(records: list[Path]) -> DataFrame:
    """Compile record files into a table, sorted by size, trunk and tokens.

    Raises:
        InputError: a record is torn, of another kind, or of a run other than its file name says.
    """
    import pandas as pd

    rows = []
    for path in records:
        record = read_run(path)
        row = record["row"]
        if row["run_id"] != path.stem:
            raise InputError(f"{path} is the record of the run {row['run_id']!r}", remedy="delete it; the same command then trains that run again")
        row.setdefault("method", "full")
        row["recipe"] = _fingerprint(json.dumps(record["recipe"]))  # records of earlier versions may distinguish 1 from 1.0
        warmup = record["recipe"]["rewarm_steps" if row.get("base") else "warmup_steps"]
        if mostly_warmup((row["steps_pt"] or 0) + (row["steps_spec"] or 0), warmup):
            row["flags"] = "mostly_warmup"
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(SCHEMA))
    order = ["params_non_embedding", "seed", "tokens_pt", "unique_spec", "tokens_spec", "run_id"]
    return flag_runs(frame.sort_values(order, na_position="first", ignore_index=True))


def read_run(path: Path) -> dict[str, Any]:
    """Read the record of a run that has ended.

    Raises:
        InputError: no such file, a torn one, or another kind of file.
    """
    return read_artifact(path, "run", RECORD_VERSION)


def write_runs(path: Path, frame: DataFrame) -> None:
    """Write a table as CSV, atomically; numbers are written so that they read back the same."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def read_runs(path: Path | str, mapping: Mapping[str, str] | None = None, unnamed: str = "row") -> DataFrame:
    """Read and validate a runs table: CSV, JSON Lines or parquet.

    Args:
        path: the file.
        mapping: this project's column name to the file's, for tables of other people's runs.
        unnamed: name of a run without one, to which the number of its row is added.

    Returns:
        A table with every column of the schema, flagged.

    Raises:
        InputError: a missing column, or a value out of range, with its row as counted in the file (the header is row 1).
    """
    return flag_runs(_validated(Path(path), mapping, unnamed))


def _validated(path: Path, mapping: Mapping[str, str] | None, unnamed: str) -> DataFrame:
    """Read a table as `read_runs` does, with only the flags that it states itself."""
    if not path.is_file():
        raise InputError(f"there is no runs table {path}", remedy="check the path, or run plan sweep run")
    mapping = {ours: theirs.strip() for ours, theirs in (mapping or {}).items()}
    names = {mapping.get(name, name) for name in NAMES} - {theirs for ours, theirs in mapping.items() if ours not in NAMES}
    frame = _rename(read_frame(path, {*SCHEMA, *mapping.values()}, names), mapping, path)
    header = 1 if path.suffix.lower() not in LINES else 0
    for name in REQUIRED:
        if name not in frame:
            raise InputError(f"{path} has no column {name}", remedy=f"name the table's own column with --map {name}=COLUMN; it has {columns_of(frame)}")
    if "tokens_pt" not in frame and "tokens_spec" not in frame:
        raise InputError(
            f"{path} has neither tokens_pt nor tokens_spec", remedy=f"name the table's own column with --map tokens_pt=COLUMN; it has {columns_of(frame)}"
        )
    if frame.empty:
        raise InputError(f"{path} has no rows", remedy="give a table with runs")
    frame = _complete(frame, path, header, unnamed)
    for name, (unit, _) in SCHEMA.items():
        if unit != "text":
            frame[name] = _numbers(frame, name, path, header)
    _check_ranges(frame, path, header)
    return frame[list(SCHEMA)]


def read_together(paths: Sequence[Path], mapping: Mapping[str, str] | None = None) -> DataFrame:
    """Read several runs tables as one, such as those of a sweep and of the runs designed to follow it; flags compare runs across them.

    Args:
        paths: the files.
        mapping: as for `read_runs`, the same for all.

    Raises:
        InputError: as `read_runs`, or two tables have a run of the same name.
        DataError: they are of different recipes, corpora or tokenizers.
    """
    import pandas as pd

    if len(paths) == 1:
        return read_runs(paths[0], mapping)
    frames = [_validated(Path(path), mapping, f"{path}:row") for path in paths]
    together = pd.concat(frames, ignore_index=True)
    one_recipe(together)
    _fill(together)
    first: dict[str, Path] = {}
    for path, frame in zip(paths, frames, strict=True):
        for name in map(str, frame["run_id"]):
            if (other := first.setdefault(name, path)) is not path:
                raise InputError(f"{other} and {path} both have a run {name}", remedy="name each table once, and give each run a name of its own")
    return flag_runs(together)


def _fill(together: DataFrame) -> None:
    """Fill in place what some tables omit and others state: otherwise equal runs would not be compared."""
    for name, (unit, _) in SCHEMA.items():
        if unit == "text":
            together[name] = together[name].astype(object).fillna("")
    for name in ("replay_fraction", "early_fraction"):
        together[name] = together[name].fillna(0.0)
    for name in ("recipe", "corpus", "vocab_size"):
        missing = together[name].isna() | (together[name] == "")
        known = together.loc[~missing, name].unique()
        if len(known) == 1:
            together.loc[missing, name] = known[0]


def flops_of(frame: DataFrame) -> Series[float]:
    """Return the FLOPs of each run: as the table states them, else 6·N·D."""
    found: Series[float] = frame["flops"].fillna(flops_6nd(frame["params_non_embedding"], frame["tokens_pt"] + frame["tokens_spec"]))
    return found


def usable(frame: DataFrame, keep: tuple[str, ...] = ()) -> DataFrame:
    """Return the rows without a flag.

    Args:
        frame: a flagged table.
        keep: flags to ignore.

    Raises:
        InputError: no row has such a flag, or it is `diverged`.
    """
    flags = frame["flags"].map(lambda text: {item for item in str(text).split(";") if item})
    known = set().union(*flags) - {"diverged"}
    for flag in keep:
        if flag == "diverged":
            what = "--keep diverged: a diverged run is never fitted, since its loss may not be that of its tokens"
            raise InputError(what, remedy="if it did not diverge, set its status to ok and clear its flags")
        if flag not in known:
            remedy = f"choose {', '.join(sorted(known))}" if known else "leave out --keep: no run has a flag that can be ignored"
            raise InputError(f"no run has the flag {flag!r}", remedy=remedy)
    return frame[flags.map(lambda found: not found - set(keep)).astype(bool)].reset_index(drop=True)


def _rename(frame: DataFrame, mapping: Mapping[str, str], path: Path) -> DataFrame:
    for name, column in mapping.items():
        if name not in SCHEMA:
            raise InputError(f"--map names {name!r}, which is not a column of a runs table", remedy=f"use one of {', '.join(SCHEMA)}")
        if column not in frame:
            raise InputError(f"{path} has no column {column!r}", remedy=f"map to one of {columns_of(frame)}")
    for name, column in mapping.items():
        if column in SCHEMA and column not in mapping:
            what = f"{path}: the column {column} is read as {name} only"
            warnings.warn(f"{what}; add --map {column}={column} if it is both", PlannerWarning, stacklevel=4)
    # One column may serve as several, such as all tokens as distinct tokens where none repeat; it stays under its own name only where that is mapped.
    found = frame.drop(columns=[name for name in {*mapping, *mapping.values()} if name in frame])
    return found.assign(**{name: frame[column] for name, column in mapping.items()})


def _complete(frame: DataFrame, path: Path, header: int, unnamed: str) -> DataFrame:
    """Fill columns that a foreign table lacks with what follows from the others, or leave them empty."""
    frame = frame.copy()
    for name in ("tokens_pt", "tokens_spec"):
        if name not in frame or frame[name].map(lambda value: value is None or value != value or str(value).strip() == "").all():
            frame[name] = 0.0
    for name, (unit, _) in SCHEMA.items():
        if name not in frame:
            frame[name] = "" if unit == "text" else math.nan
    frame["status"] = frame["status"].map(_status)
    frame["method"] = [name.strip().lower() if isinstance(name, str) and name.strip() else "full" for name in frame["method"]]
    # A run without a name is named by its row, counted as in messages.
    nameless = [name is None or name != name or not str(name).strip() for name in frame["run_id"]]
    numbered = enumerate(zip(frame["run_id"], nameless, strict=True), 1 + header)
    frame["run_id"] = [f"{unnamed}{number}" if none else name for number, (name, none) in numbered]
    duplicated = frame["run_id"][frame["run_id"].duplicated()]
    if len(duplicated):
        raise InputError(f"{path} has the run_id {duplicated.iloc[0]!r} twice", remedy="make run ids unique")
    return frame


def _status(word: Any) -> str:
    """Read a status as people write it: empty is ok, and an unknown word stays, to be flagged."""
    text = "" if word is None or word != word else str(word).strip().lower()
    return "ok" if text in ENDED else "diverged" if text in DIVERGED else text


def _numbers(frame: DataFrame, name: str, path: Path, header: int) -> Any:
    counts = SCHEMA[name][0] in COUNTS
    values = numbers(frame[name], counts=counts)
    bad = values.isna() & frame[name].notna() & (frame[name].astype(str).str.strip() != "")
    if bad.any():
        row = int(bad.to_numpy().argmax())
        remedy = "write one such as 30000000000, 3e10 or 30B" if counts else "fix the row"
        raise InputError(f"{path}, row {row + 1 + header}: {name} = {frame[name].iloc[row]!r} is not a number", remedy=remedy)
    return values


def _check_ranges(frame: DataFrame, path: Path, header: int) -> None:
    def refuse(where: Any, name: str, what: str) -> None:
        if where.any():
            row = int(where.to_numpy().argmax())
            said = f"{name} is missing" if math.isnan(value := frame[name].iloc[row]) else f"{name} = {value:.10g} {what}"
            raise InputError(f"{path}, row {row + 1 + header}: {said}", remedy="fix or delete the row")

    import numpy as np

    spec, passes = frame["tokens_spec"] > 0, frame["epochs_spec"]
    follows = spec & frame["unique_spec"].isna() & (passes > 0)
    with np.errstate(over="ignore"):  # derived values are checked against the same limits
        frame.loc[follows, "unique_spec"] = frame.loc[follows, "tokens_spec"] / frame.loc[follows, "epochs_spec"]
    for name, (unit, _) in SCHEMA.items():
        if unit != "text":
            refuse(np.isinf(frame[name]), name, "is not finite")
            refuse(frame[name] > LARGEST, name, "is larger than any run")
    ok = frame["status"] != "diverged"
    refuse(frame["params_non_embedding"].isna() | (frame["params_non_embedding"] <= 0), "params_non_embedding", "is not positive")
    for name in ("tokens_pt", "tokens_spec"):
        refuse(frame[name].isna() | (frame[name] < 0), name, "is negative")
    refuse(frame["tokens_pt"] + frame["tokens_spec"] <= 0, "tokens_pt", "with no specialist tokens means no training")
    lavish = (frame["tokens_pt"] + frame["tokens_spec"]) / frame["params_non_embedding"] > MOST_TOKENS_PER_PARAMETER
    refuse(lavish, "params_non_embedding", f"has over {MOST_TOKENS_PER_PARAMETER:,.0f} tokens per parameter: is it in millions, and are the tokens not?")
    for name, counted in (("loss_spec", ok), ("loss_general", frame["status"] == "ok")):
        refuse((frame[name] <= 0) & counted, name, "is not positive")
        if (frame[name][counted] > MOST_LOSS).mean() > 0.5:
            refuse((frame[name] > MOST_LOSS) & counted, name, f"is above {MOST_LOSS:g} nats/token, as most are: are these perplexities, or per cent?")
        refuse((frame[name] < LEAST_LOSS) & counted, name, f"is below {LEAST_LOSS:g} nats/token, which no language model reaches")
    frame.loc[~spec & (frame["unique_spec"] == 0), "unique_spec"] = math.nan
    refuse(frame["unique_spec"] <= 0, "unique_spec", "is not positive")
    for name in ("params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec"):
        refuse((frame[name] > 0) & (frame[name] < 1), name, "is less than one; columns count single parameters and tokens, not millions or billions")
    refuse(frame["params_total"] < frame["params_non_embedding"], "params_total", "is less than params_non_embedding")
    refuse(frame["flops"] <= 0, "flops", "is not positive")
    usual = frame["flops"] / flops_6nd(frame["params_non_embedding"], frame["tokens_pt"] + frame["tokens_spec"])
    whole = frame["status"] == "ok"  # others may have stopped before all their tokens
    refuse(whole & ((usual > OFF_6ND) | (usual < 1 / OFF_6ND)), "flops", f"is over {OFF_6ND:,.0f} times off 6·N·D: is it in another unit?")
    for name in ("params_embedding", "steps_pt", "steps_spec", "flops_6nd", "learning_rate", "base_tokens"):
        refuse(frame[name] < 0, name, "is negative")
    refuse(frame["vocab_size"] < 1, "vocab_size", "is not positive")
    for name in ("replay_fraction", "early_fraction"):
        refuse((frame[name] < 0) | (frame[name] > 1), name, "is not a share from 0 to 1")
    refuse(frame["replay_fraction"] == 1, "replay_fraction", "leaves the specialist stage no specialist token")
    refuse(passes < 0, "epochs_spec", "is negative")
    refuse(spec & (passes == 0), "epochs_spec", "is impossible with specialist tokens")
    ratio = frame["tokens_spec"] / frame["unique_spec"] / passes
    apart = (frame["tokens_spec"] / frame["unique_spec"] - passes).abs() > ROUNDED  # a part of an epoch may be rounded to whole ones
    refuse(spec & apart & ((ratio > CONTRADICTS) | (ratio < 1 / CONTRADICTS)), "epochs_spec", "contradicts tokens_spec / unique_spec")
    lacking = spec & frame["unique_spec"].isna()
    if lacking.any():
        frame.loc[lacking, "unique_spec"] = frame.loc[lacking, "tokens_spec"]
        warnings.warn(
            f"{path}: {int(lacking.sum())} rows have specialist tokens and no unique_spec; these are taken as seen once", PlannerWarning, stacklevel=3
        )
    frame["epochs_spec"] = frame["tokens_spec"] / frame["unique_spec"]


def one_recipe(frame: DataFrame) -> None:
    """Refuse a table that mixes recipes, corpora or tokenizers, or runs from checkpoints with others.

    Raises:
        DataError: it does.
    """
    for column in ("recipe", "corpus"):
        found = sorted(set(frame[column].dropna().astype(str)) - {""})
        if len(found) > 1:
            raise DataError(f"the runs mix {len(found)} fingerprints of {column}: {', '.join(found)}", remedy="fit one sweep at a time")
    sizes = sorted(set(frame["vocab_size"].dropna()))
    if len(sizes) > 1 and sizes[-1] > PADDED * sizes[0]:
        said = ", ".join(f"{size:g}" for size in sizes)
        raise DataError(f"the runs mix vocabularies of {said} words, whose losses per token cannot be compared", remedy="fit the runs of one tokenizer")
    based = frame["base"].astype(object).fillna("").astype(str).str.strip() != ""
    if based.any() and not based.all():
        raise DataError(f"{int(based.sum())} of {len(based)} runs start from a checkpoint, the others from scratch", remedy="fit one kind at a time")
