"""Reasons to keep a run out of a fit. A flagged row stays in its table, with the name of the reason; `--keep FLAG` fits it all the same.

Every rule needs only the table: it compares a run with itself at fewer tokens, with its neighbours, or with its own recipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from planner.design.spec import MIN_STEPS, MIN_TOKENS_PER_PARAMETER

if TYPE_CHECKING:
    from pandas import DataFrame, Series

WARMUP_MULTIPLE = 10
OVERFITTED = 1.03
OFF_RATE = 1.01
WORSE = 1.03
BENT = 1.02
ONE_PASS = 1.05
BEYOND_NOISE, LEAST_CHORDS = 5.0, 8
"""Noise deviations beyond which a run stands out, and fewest chords or repeated seeds from which that noise is estimated."""
FEW_PASSES = 4.05
"""Epochs up to which repeated text hardly hurts (arXiv 2305.16264), so that the loss is smooth in the size."""
ALIKE = ("recipe", "vocab_size", "base", "method", "replay_fraction", "early_fraction")
"""Columns in which runs that are compared agree."""

FLAGS = {
    "unfinished": "its status is neither ok nor diverged, such as crashed or running: the loss may not be that of its tokens",
    "diverged": "the run diverged, or has no loss",
    "short_stage": f"a run or a specialist stage under {MIN_STEPS} optimiser steps: a transient of the optimiser",
    "under_2_tokens_per_parameter": "fewer than 2 tokens per non-embedding parameter: a transient of the optimiser",
    "mostly_warmup": f"fewer steps than {WARMUP_MULTIPLE} times the recipe's warm-up: a transient of the schedule",
    "copy": "a duplicate of an earlier row, equal in every number: it would count twice",
    "overfitted": f"loss over {OVERFITTED:g} times that of the same run with fewer epochs, beyond the noise: too overfitted to be of use, and only the "
    "overfit laws fit such runs",
    "off_learning_rate": f"the same run at another learning rate reached a loss lower by a factor of {OFF_RATE:g} or more",
    "larger_but_worse": f"loss over {WORSE:g} times that of a smaller model on the same fresh tokens, beyond the noise: its learning rate was poor",
    "smaller_but_better": f"larger models on the same fresh tokens have losses over {WORSE:g} times its own, beyond the noise: a wrong loss or size",
    "negative_curvature": f"loss over {BENT:g} times the chord between fewer and more tokens, beyond the noise, though laws are convex: a bad run",
}


COMPARED = ("copy", "overfitted", "off_learning_rate", "larger_but_worse", "smaller_but_better", "negative_curvature")
"""Flags by comparison with other runs."""
JUDGED = ("overfitted", "larger_but_worse", "smaller_but_better", "negative_curvature")
"""Flags for a loss that disagrees with other runs. Such runs stay in tests of forecasts: leaving them out would be choosing by the outcome.
The other two are not among them: a run at another learning rate is another recipe, and a copy is not another run."""


def mostly_warmup(steps: int, warmup: int) -> bool:
    """Tell whether a run of that many steps, with that warm-up, gets the flag of that name."""
    return steps < WARMUP_MULTIPLE * warmup


def judged_only(frame: DataFrame) -> Series[bool]:
    """Tell which rows are flagged only because their loss disagrees with other runs."""
    return frame["flags"].map(lambda text: (found := set(str(text).split(";")) - {""}) != set() and found <= set(JUDGED)).astype(bool)


def flagged(frame: DataFrame) -> dict[str, list[str]]:
    """Name the runs with each flag, the flag of most runs first."""
    found: dict[str, list[str]] = {}
    for name, text in zip(frame["run_id"].astype(str), frame["flags"], strict=True):
        for flag in filter(None, str(text).split(";")):
            found.setdefault(flag, []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def judge_alone(frame: DataFrame) -> DataFrame:
    """Flag the rows of a part of a table by comparison with each other only, as if the other runs did not exist."""
    flags = frame["flags"].map(lambda text: ";".join(item for item in str(text).split(";") if item not in COMPARED))
    return flag_runs(frame.assign(flags=flags).reset_index(drop=True))


def flag_runs(frame: DataFrame) -> DataFrame:
    """Add the flags that follow from a table's own numbers; flags already there stay."""
    import numpy as np

    steps = frame["steps_pt"].fillna(0) + frame["steps_spec"].fillna(0)
    known = frame["steps_pt"].notna() & frame["steps_spec"].notna()
    spec = frame["steps_spec"]
    tokens = frame["tokens_pt"] + frame["tokens_spec"].fillna(0)
    rules = {
        "unfinished": ~frame["status"].isin(["ok", "diverged"]),
        "diverged": (frame["status"] == "diverged") | frame["loss_spec"].isna(),
        "short_stage": known & ((steps < MIN_STEPS) | ((spec > 0) & (spec < MIN_STEPS))),
        # An open checkpoint was trained before.
        "under_2_tokens_per_parameter": (tokens < MIN_TOKENS_PER_PARAMETER * frame["params_non_embedding"]) & (frame["branch_kind"] != "annealed"),
    }
    finished = ~(rules["unfinished"] | rules["diverged"])
    rules["copy"] = _copies(frame, finished)
    rules["overfitted"] = _none(frame)  # keeps its place in the order
    # A transient says nothing about its neighbours: the rules that compare runs use the remaining ones.
    warming = frame["flags"].map(lambda text: "mostly_warmup" in str(text))
    sound = finished & ~(rules["short_stage"] | rules["under_2_tokens_per_parameter"] | rules["copy"] | warming)
    rules["off_learning_rate"] = _off_learning_rate(frame, sound)
    sound &= ~rules["off_learning_rate"]
    noise = _noise(frame, sound)
    rules["overfitted"] = _overfitted(frame, finished, noise)
    rules["larger_but_worse"], rules["smaller_but_better"] = _against_size(frame, sound, noise)
    above = _above_chord(frame, sound & ~rules["larger_but_worse"] & ~rules["smaller_but_better"])
    rules["negative_curvature"] = above > max(math.log(BENT), BEYOND_NOISE * noise)
    flags = []
    hits = np.array([where.to_numpy(dtype=bool) for where in rules.values()]).T
    for old, hit in zip(frame["flags"], hits, strict=True):
        found = [item for item in old.split(";") if item] if isinstance(old, str) else []
        found += [name for name, here in zip(rules, hit, strict=True) if here and name not in found]
        flags.append(";".join(found))
    return frame.assign(flags=flags)


def _copies(frame: DataFrame, finished: Series[bool]) -> Series[bool]:
    """Find rows that repeat an earlier finished one except for their names."""
    found = _none(frame)
    compared = frame[finished].drop(columns=["run_id", "trunk_id", "sweep", "flags", "reason", "status"])
    found[compared.index] = compared.duplicated()
    return found


def _overfitted(frame: DataFrame, finished: Series[bool], noise: float) -> Series[bool]:
    """Find runs whose loss is well above that of the same run with fewer specialist tokens."""
    found = _none(frame)
    ended = frame[finished & (frame["tokens_spec"] > 0) & frame["unique_spec"].notna()].sort_values("tokens_spec")
    for group in _groups(ended, [*ALIKE, "params_non_embedding", "seed", "tokens_pt", "unique_spec"]):
        found[group.index] = group["loss_spec"] > max(OVERFITTED, 1 + BEYOND_NOISE * noise) * group["loss_spec"].cummin()
    return found


def _off_learning_rate(frame: DataFrame, sound: Series[bool]) -> Series[bool]:
    """Find runs that differ from a better one in the learning rate only."""
    found = _none(frame)
    # Of the rate, only its rule is in a recipe's fingerprint: a table of probes has one recipe.
    names = [*ALIKE[1:], "params_non_embedding", "seed", "tokens_pt", "tokens_spec", "unique_spec"]
    for group in _groups(frame[sound & frame["learning_rate"].notna()], names):
        if group["learning_rate"].nunique() > 1:
            found[group.index] = group["loss_spec"] > OFF_RATE * group["loss_spec"].min()
    return found


def _against_size(frame: DataFrame, sound: Series[bool], noise: float) -> tuple[Series[bool], Series[bool]]:
    """Find runs on fresh text that a smaller model beats on the same tokens, or that beat larger ones; where text repeats, larger models may be worse.

    When a smaller run beats a larger one, either may be off. The one that conflicts with more runs is flagged: otherwise a single loss that is far
    too low would stay and every larger run would be flagged. With as many conflicts, it is the one farther off the line through the sizes next to it;
    with too few sizes for a line, the larger one, whose learning rate is harder to tune.

    Returns:
        Those that are larger and worse, and those that are smaller and better.
    """
    import numpy as np

    worse, better = _none(frame), _none(frame)
    fresh = frame[sound & (frame["epochs_spec"].fillna(0) < ONE_PASS)]
    for group in _groups(fresh, [*ALIKE, "tokens_pt", "tokens_spec"]):
        size, loss = group["params_non_embedding"].to_numpy(), group["loss_spec"].to_numpy()
        blamed = np.zeros(len(size), dtype=bool)
        most, order = max(WORSE, 1 + BEYOND_NOISE * noise), np.argsort(size)
        least = np.concatenate(([np.inf], np.minimum.accumulate(loss[order])))[np.searchsorted(size[order], size)]
        if not (loss > most * least).any():  # no run is beaten by as much: comparing every pair would be quadratic
            continue
        # Equal sizes (other seeds) are not compared. Shape (smaller, larger).
        against = (size[:, None] < size[None]) & (loss[None] > most * loss[:, None])
        while against.any():
            beats, beaten = against.sum(1), against.sum(0)
            small, large = int(beats.argmax()), int(beaten.argmax())
            low = int(beats[small]) - int(beaten[large])
            if low == 0:
                rest = ~blamed & (np.arange(len(size)) != small) & (np.arange(len(size)) != large)
                off = [_off_line(np.log(size), np.log(loss), row, rest) for row in (small, large)]
                low = 1 if off[0] > off[1] else -1
            row = small if low > 0 else large
            (better if low > 0 else worse)[group.index[row]] = blamed[row] = True
            against[row] = against[:, row] = False
    return worse, better


def _off_line(at: Any, values: Any, row: int, rest: Any) -> float:
    """Return how far a row lies off the line through the two nearest sizes among the rest; 0 where there are fewer."""
    import numpy as np

    places = np.unique(at[rest])
    if len(places) < 2:
        return 0.0
    near = np.sort(places[np.argsort(np.abs(places - at[row]))[:2]])
    low, high = (values[rest & (at == place)].mean() for place in near)
    return abs(float(values[row] - low - (high - low) * (at[row] - near[0]) / (near[1] - near[0])))


def _noise(frame: DataFrame, sound: Series[bool]) -> float:
    """Return the standard deviation of ln L by run noise; 0 where there are too few runs to tell.

    For one stage it is estimated from the chords between neighbours in tokens. Where these are too few, as in tables of two stages, from repeated
    seeds; where these are too few, from the chords between neighbours in size.
    """
    above = _above_chord(frame, sound).dropna()
    if len(above) >= LEAST_CHORDS:
        return 1.4826 * float((above - above.median()).abs().median())
    if not (frame["tokens_pt"] > 0).any() or not (frame["tokens_spec"] > 0).any():
        return 0.0
    for found in (_between_seeds(frame, sound), _between_sizes(frame, sound)):
        if len(found) >= LEAST_CHORDS:
            return 1.4826 * float((found - found.median()).abs().median())
    return 0.0


def _between_seeds(frame: DataFrame, sound: Series[bool]) -> Series[float]:
    """Return how far runs lie from the mean over their seeds, in ln L, scaled to one run's noise; one fewer per group."""
    import numpy as np

    cell = [*ALIKE, "params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "learning_rate"]
    found = _none(frame).astype(float) * math.nan
    for group in _groups(frame[sound], cell):
        if group["seed"].nunique() > 1:
            off = np.log(group["loss_spec"]) - np.log(group["loss_spec"]).mean()
            found[group.index[1:]] = off[1:] * math.sqrt(len(group) / (len(group) - 1))
    return found.dropna()


def _between_sizes(frame: DataFrame, sound: Series[bool]) -> Series[float]:
    """Return how far runs of few epochs lie from the chord between the next sizes on the same tokens, in ln L, scaled to one run's noise."""
    import numpy as np

    cell = [*ALIKE, "seed", "tokens_pt", "tokens_spec", "unique_spec"]
    found = _none(frame).astype(float) * math.nan
    for group in _groups(frame[sound & (frame["epochs_spec"].fillna(0) <= FEW_PASSES)], cell):
        series = group.drop_duplicates("params_non_embedding").sort_values("params_non_embedding")
        if len(series) >= 3:
            x, loss = (np.log(series[name].to_numpy(float)) for name in ("params_non_embedding", "loss_spec"))
            share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
            off = loss[1:-1] - (1 - share) * loss[:-2] - share * loss[2:]
            found[series.index[1:-1]] = off / np.sqrt(1 + share**2 + (1 - share) ** 2)
    return found.dropna()


def _above_chord(frame: DataFrame, sound: Series[bool]) -> Series[float]:
    """Return how far runs of one stage lie above the chord between the same model's neighbours in ln tokens, in ln L; NaN at the ends."""
    import numpy as np

    found = _none(frame).astype(float) * math.nan
    one_stage = ((frame["tokens_spec"] == 0) & (frame["tokens_spec"].max() == 0)) | ((frame["tokens_pt"] == 0) & (frame["epochs_spec"] < ONE_PASS))
    rows = frame[sound & one_stage].assign(_tokens=frame["tokens_pt"] + frame["tokens_spec"]).sort_values("_tokens")
    for group in _groups(rows, [*ALIKE, "params_non_embedding", "seed"]):
        series = group.drop_duplicates("_tokens")
        if len(series) < 3:
            continue
        x, loss = np.log(series["_tokens"].to_numpy(float)), series["loss_spec"].to_numpy(float)
        share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        found[series.index[1:-1]] = np.log(loss[1:-1] / ((1 - share) * loss[:-2] + share * loss[2:]))
    return found


def _groups(frame: DataFrame, names: list[str]) -> Iterator[DataFrame]:
    """Give the groups of rows that agree in some columns; single rows are skipped, as nearly all rows of a table without a grid are, for speed."""
    for _, group in frame[frame.duplicated(names, keep=False)].groupby(names, dropna=False):
        yield group


def _none(frame: DataFrame) -> Any:
    import pandas as pd

    return pd.Series(False, index=frame.index)
