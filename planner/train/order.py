"""The order of the data: which windows of which text make up step number k. A pure function of its arguments.

So a resumed run, a branch and the launched run see the same batches without any state of a loader.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from planner.errors import DataError

IGNORED = -100
"""A target that no loss is of, as torch's cross entropy knows it."""


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
            label: name of the stream; streams of the same seed and other labels are independent.
            mask: 1 where losses are of the token, shape (tokens,); None where they are of all.
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
        self._pass: tuple[int, int, NDArray[np.int64]] | None = None

    def window(self, index: int) -> NDArray[np.int64]:
        """Return window number `index` of the endless stream, shape (seq_len + 1,)."""
        start = self._start(index)
        return self._tokens[start : start + self._seq_len + 1].astype(np.int64)

    def pair(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs and targets of a window, each of shape (seq_len,); a target is IGNORED where no loss is of it.

        Pairs are packed one after the other. Where a window begins inside one, its prompt is cut off, so that it does not count there; another
        pass has other borders. One longer than a window counts all the same.
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
            self._pass = (number, shift, random.permutation(self.windows))
        _, shift, permutation = self._pass
        return shift + int(permutation[position]) * self._seq_len


class Batches:
    """Batches of one stage: one stream, or two where the other stage's text is mixed in."""

    def __init__(
        self, main: Stream, batch_sequences: int, *, other: Stream | None = None, other_share: float = 0.0, main_offset: int = 0, other_offset: int = 0
    ) -> None:
        """Prepare a stage's batches.

        Args:
            main: text of the stage.
            batch_sequences: sequences a step.
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

        A target is IGNORED where no loss is of it: in prompts.
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
