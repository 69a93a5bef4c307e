"""Tables of many rows without a grid, where every value is a level of its own: what is done to them takes time in proportion."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from planner.arrays import Array
from planner.fit.data import FitData, _replicate_sd
from planner.fit.holdout import LARGEST_SHARE, LEAST_HELD, Slice, _top, slices

MANY = 50_000


def slow_top(values: Array, share: float, below: float) -> tuple[Slice | None, float]:
    for level in np.unique(values[values > 0])[::-1]:
        held = values >= level * 0.97
        rest = values[~held]
        if level < below * 0.97 and held.sum() >= max(LEAST_HELD, share * len(values)):
            if held.sum() > LARGEST_SHARE * len(values) or not (rest > 0).any():
                return None, below
            return Slice("", held, float(level / rest.max())), float(level)
    return None, below


def slow_replicate_sd(rows: pd.DataFrame, log_loss: Array) -> float | None:
    names = ["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "replay_fraction", "learning_rate", "recipe"]
    total = freedom = 0.0
    for _, group in rows.assign(_log=log_loss).groupby(names, dropna=False):
        if group["seed"].nunique() > 1:
            total += float(((group["_log"] - group["_log"].mean()) ** 2).sum())
            freedom += len(group) - 1
    return float(np.sqrt(total / freedom)) if freedom >= 3 else None


def scattered(count: int) -> FitData:
    random = np.random.default_rng(0)
    params, tokens = 10 ** random.uniform(7, 10, count), 10 ** random.uniform(9, 12, count)
    none = np.zeros(count)
    names = [str(number) for number in range(count)]
    return FitData(names, {"non_embedding": params}, tokens, none, none * np.nan, none, 6 * params * tokens, np.arange(count), None)


@pytest.mark.parametrize("seed", range(200))
def test_the_highest_levels_are_those_that_a_search_one_by_one_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    levels = np.geomspace(1, 10 ** random.uniform(0, 3), random.integers(1, 30)) * random.choice([1.0, 1e7])
    values = random.choice(levels, random.integers(1, 80)) * np.exp(random.choice([0, 0.01, 0.2]) * random.normal(size=1))
    values = values * np.exp(random.choice([0, 0.01, 0.2]) * random.normal(size=len(values)))
    values[random.random(len(values)) < random.choice([0, 0.3])] = 0
    below = np.inf
    for share in (0.06, 0.12, random.uniform(0, 0.5)):
        (found, ends), (slow, slow_ends) = _top("", values, share, below), slow_top(values, share, below)
        assert ends == slow_ends and (found is None) == (slow is None)
        if found is not None and slow is not None:
            assert (found.held == slow.held).all() and found.factor == slow.factor
        below = ends


@pytest.mark.parametrize("seed", range(50))
def test_the_deviation_between_seeds_is_pooled_as_group_by_group(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = random.integers(1, 60)
    columns = ["params_non_embedding", "tokens_pt", "tokens_spec", "unique_spec", "replay_fraction", "learning_rate", "seed"]
    rows = pd.DataFrame({name: random.choice([1.0, 2.0, np.nan] if name in columns[3:] else [1.0], count) for name in columns}).assign(recipe=None)
    log_loss = random.normal(size=count)
    found, slow = _replicate_sd(rows, log_loss), slow_replicate_sd(rows, log_loss)
    assert found == (None if slow is None else pytest.approx(slow, rel=1e-12))


def test_many_rows_take_no_more_than_a_second() -> None:
    data = scattered(MANY)
    rows = pd.DataFrame({"params_non_embedding": data.params, "tokens_pt": data.tokens_pt, "tokens_spec": 0.0, "unique_spec": np.nan})
    rows = rows.assign(replay_fraction=np.nan, learning_rate=np.nan, recipe="", seed=1.0)
    for work in (lambda: slices(data), lambda: _replicate_sd(rows, data.log_loss)):
        begun = time.process_time()
        work()
        assert time.process_time() - begun < 1
