"""The order of the data: small corpora as recorded sweeps had it, large ones without an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.train.order import SHUFFLED_IN_MEMORY, Batches, Stream, shuffle


@given(st.integers(1, 3000), st.integers(0, 50))
def test_every_number_comes_once_without_an_array(count: int, seed: int) -> None:
    place = shuffle(count, np.random.default_rng(seed), in_memory=0)
    assert sorted(place(position) for position in range(count)) == list(range(count))


def test_small_corpora_keep_their_order() -> None:
    """The windows of the first two passes, as numpy draws them; recorded sweeps depend on it."""
    tokens = np.arange(1000, dtype=np.uint16)
    stream = Stream(tokens, 8, 3, "general")
    random = np.random.default_rng([stream._key, 1])
    shift, permutation = int(random.integers(0, 8)), random.permutation(stream.windows)
    for position in (0, 5, stream.windows - 1):
        start = shift + int(permutation[position]) * 8
        assert stream.window(stream.windows + position).tolist() == list(range(start, start + 9))
    # And as they came out when the sweeps in this repository were recorded.
    assert [int(Stream(tokens, 8, 0, "general").window(index)[0]) for index in range(6)] == [836, 124, 508, 676, 932, 748]


def test_large_corpora_are_shuffled_well_and_at_once() -> None:
    """Ten trillion tokens in windows of 4,096."""
    count = 10**13 // 4096
    assert count > SHUFFLED_IN_MEMORY
    place = shuffle(count, np.random.default_rng(1))
    found = np.array([place(position) for position in range(4000)])
    assert found.min() >= 0 and found.max() < count and len(set(found)) == 4000
    counts, _ = np.histogram(found, bins=20, range=(0, count))
    assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-square of 19 degrees of freedom: 50 once in 8,000
    assert abs(np.corrcoef(np.arange(4000), found)[0, 1]) < 0.06
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.06
    assert place(0) != shuffle(count, np.random.default_rng(2))(0)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_see_one_order(world: int) -> None:
    stream = Stream(np.arange(2000, dtype=np.uint16), 8, 0, "a")
    other = Stream(np.arange(2000, dtype=np.uint16)[::-1].copy(), 8, 0, "b")
    batches = Batches(stream, 8, other=other, other_share=0.3)
    whole = batches.step(7)[0]
    parts = [batches.rows(7 * 8 + rank * 8 // world, 7 * 8 + (rank + 1) * 8 // world)[0] for rank in range(world)]
    assert (np.concatenate(parts) == whole).all()
