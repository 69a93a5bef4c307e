"""The order of the data: which windows of which text make up step number k. A pure function of its arguments.

So a resumed run, a branch and the launched run see the same batches without any state of a loader.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.errors import DataError

SHUFFLED_IN_MEMORY = 1 << 24
"""Up to this many windows a pass is a permutation drawn as an array (128 MiB at most); more are permuted by a formula, without an array."""
ROUNDS = 6
"""Rounds of the Feistel network; four make a pseudo-random permutation of a pseudo-random function (Luby and Rackoff 1988)."""
_WORD = (1 << 64) - 1
IGNORED = -100
"""A target that does not count in the loss: torch's default ignore_index."""


class Stream:
    """Endless shuffled windows over one token array; each pass draws a new shift and a new permutation.

    The shift moves the borders of the windows, so that passes over scarce text are not letter for letter the same.
    """

    def __init__(
        self, tokens: NDArray[np.unsignedinteger], seq_len: int, seed: int, label: str, *, mask: NDArray[np.uint8] | None = None,
        offsets: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        """Prepare a stream.

        Args:
            tokens: shape (tokens,).
            seq_len: tokens a window is trained on; a window holds one more, for the targets.
            seed: seed of the order.
            label: name of the stream; streams with the same seed and different labels are independent.
            mask: 1 for tokens that count in the loss, shape (tokens,); None if all do.
            offsets: borders of the documents, needed with a mask.
        """
        self.windows = (len(tokens) - seq_len) // seq_len  # leaves room for any shift below seq_len
        if self.windows < 1:
            raise DataError(
                f"{label} text of {len(tokens)} tokens is shorter than two sequences of {seq_len}", remedy="give more text or lower seq_len"
            )
        self._tokens, self._mask, self._offsets = tokens, mask, offsets
        assert mask is None or (offsets is not None and len(mask) >= len(tokens)), label
        self._seq_len = seq_len
        digest = hashlib.sha256(f"{seed}:{label}".encode()).digest()
        self._key = int.from_bytes(digest[:8], "little")
        self._pass: tuple[int, int, Callable[[int], int]] | None = None

    def window(self, index: int) -> NDArray[np.int64]:
        """Return window number `index` of the endless stream, shape (seq_len + 1,)."""
        start = self._start(index)
        return self._tokens[start : start + self._seq_len + 1].astype(np.int64)

    def pair(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and targets of a window, each of shape (seq_len,); targets that do not count in the loss are IGNORED.

        Pairs are packed one after the other. A pair inside which a window begins has lost part of its prompt, so it does not count there; another
        pass has other borders. A pair longer than a window counts all the same.
        """
        window = self.window(index)
        targets = window[1:]
        if self._mask is not None:
            assert self._offsets is not None
            start = self._start(index)
            counts = self._mask[start + 1 : start + 1 + len(targets)].astype(bool)
            after = int(np.searchsorted(self._offsets, start, side="right"))
            first, last = int(self._offsets[after - 1]), int(self._offsets[after])
            if first < start and last - first <= self._seq_len:
                counts[: last - start - 1] = False
            targets = np.where(counts, targets, IGNORED)
        return window[:-1], targets

    def _start(self, index: int) -> int:
        number, position = divmod(index, self.windows)
        if self._pass is None or self._pass[0] != number:
            random = np.random.default_rng([self._key, number])
            shift = int(random.integers(0, self._seq_len))
            self._pass = (number, shift, shuffle(self.windows, random))
        _, shift, place = self._pass
        return shift + place(position) * self._seq_len


class Mix:
    """Windows of several streams, interleaved evenly by their shares."""

    def __init__(self, parts: Sequence[tuple[Stream, float]]) -> None:
        """Prepare a mix of streams, each with its share; shares add up to 1. Those with share 0 are left out: rounding would give the last one some."""
        left, self._parts = 1.0, []
        for stream, share in parts:
            if share == 0:
                continue
            self._parts.append((stream, min(1.0, share / left) if left > 0 else 1.0))
            left -= share

    def pair(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and targets of window number `index` of the endless mix, each of shape (seq_len,)."""
        for stream, share in self._parts[:-1]:
            before = mixed_in(index, share)
            if mixed_in(index + 1, share) > before:
                return stream.pair(before)
            index -= before  # what is left goes to the streams that follow
        return self._parts[-1][0].pair(index)


def shuffle(count: int, random: np.random.Generator, in_memory: int = SHUFFLED_IN_MEMORY) -> Callable[[int], int]:
    """Return a permutation of the numbers below `count`.

    Args:
        count: how many.
        random: what it is drawn from.
        in_memory: most numbers that are permuted as an array; recorded sweeps depend on that order.
    """
    if count <= in_memory:
        permutation = random.permutation(count)
        return lambda position: int(permutation[position])
    keys = [int(key) for key in random.integers(0, 1 << 63, size=ROUNDS)]
    return lambda position: scattered(position, count, keys)


def scattered(position: int, count: int, keys: Sequence[int]) -> int:
    """Permute the numbers below `count` by a formula: a Feistel network over the next even power of two, walked until it lands below `count`.

    It takes no memory, and fewer than four walks on average (cycle walking: Black and Rogaway 2002).
    """
    half = ((count - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = position >> half, position & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        position = left << half | right
        if position < count:
            return position


def _mixed(word: int) -> int:
    """Mix 64 bits, as splitmix64 does."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


class Batches:
    """Batches of one stage: one stream, or two where the other stage's text is mixed in."""

    def __init__(
        self, main: Stream | Mix, batch_sequences: int, *, other: Stream | Mix | None = None, other_share: float = 0.0,
        main_offset: int = 0, other_offset: int = 0,
    ) -> None:  # fmt: skip
        """Prepare a stage's batches.

        Args:
            main: text of the stage.
            batch_sequences: sequences per step.
            other: text mixed in.
            other_share: its share of the sequences.
            main_offset: windows of the main text that an earlier stage has used.
            other_offset: windows of the other text that an earlier stage has used.
        """
        self._main, self._other = main, other
        self._share = other_share if other is not None else 0.0
        self._main_offset, self._other_offset = main_offset, other_offset
        self._batch = batch_sequences

    def step(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and targets of step `number` (from 0), each of shape (batch, seq_len)."""
        return self.rows(number * self._batch, (number + 1) * self._batch)

    def rows(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and targets of the stage's sequences `first` to `last` (excluded), each of shape (sequences, seq_len).

        Targets in prompts are IGNORED.
        """
        pairs = []
        for sequence in range(first, last):
            before, after = mixed_in(sequence, self._share), mixed_in(sequence + 1, self._share)
            if after > before:
                assert self._other is not None
                pairs.append(self._other.pair(self._other_offset + before))
            else:
                pairs.append(self._main.pair(self._main_offset + sequence - before))
        inputs, targets = zip(*pairs, strict=True)
        return np.stack(inputs), np.stack(targets)


def mixed_in(sequences: int, share: float) -> int:
    """Count the sequences of the text mixed in among the first `sequences` of a stage."""
    return math.floor(sequences * share)
