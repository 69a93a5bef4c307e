"""Documents as one array of tokens on disk, with their borders, and for pairs with a mask of the tokens that count in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from planner.corpus.duplicates import Document
from planner.corpus.tokenizer import opening

BLOCK = 1000
"""Documents encoded at a time."""


def write_shard(
    folder: Path, split: str, documents: Sequence[Document], tokenizer: Any, end: int, dtype: np.dtype[Any], limit: int | None, *, masked: bool = False
) -> Mapping[str, int]:
    """Encode documents one after the other, each with its tokenizer's opening tokens and end token; stop before one that would pass the limit.

    Args:
        folder: of the domain.
        split: "train" or "heldout".
        documents: in their order.
        tokenizer: of the library tokenizers.
        end: id of its end-of-text token.
        dtype: of a token on disk.
        limit: tokens at most.
        masked: whether to write the mask of the tokens that count in the loss, too.

    Returns:
        Counts of documents, tokens and bytes; masked also of the tokens and bytes that count in the loss.
    """
    folder.mkdir(exist_ok=True)
    borders, size, targets, target_bytes = [0], 0, 0, 0
    begin = opening(tokenizer, end)
    with ExitStack() as stack:
        file = stack.enter_context((folder / f"{split}.bin").open("wb"))
        masks = stack.enter_context((folder / f"{split}.mask.bin").open("wb")) if masked else None
        for first in range(0, len(documents), BLOCK):
            block = documents[first : first + BLOCK]
            full = False
            for document, encoding in zip(block, _encoded(block, tokenizer), strict=True):
                # A template begins the conversation itself, and may have closed it with the end token already.
                closed = document.spans is not None and encoding.ids and encoding.ids[-1] == end
                ids = [*(begin if document.spans is None else ()), *encoding.ids, *(() if closed else (end,))]
                if limit is not None and borders[-1] + len(ids) > limit and borders[-1] > 0:
                    full = True
                    break
                file.write(np.asarray(ids, dtype=dtype).tobytes())
                borders.append(borders[-1] + len(ids))
                size += len(document.text.encode())
                if masks is not None:
                    mask = target_mask(document, encoding.offsets, len(ids))
                    masks.write(mask.tobytes())
                    targets += int(mask.sum())
                    spans = document.spans if document.spans is not None else ((0, len(document.text)),)
                    target_bytes += sum(len(document.text[start:stop].encode()) for start, stop in spans)
            if full:
                break
    np.save(folder / f"{split}.offsets.npy", np.asarray(borders, dtype=np.int64))
    counts = {"documents": len(borders) - 1, "tokens": borders[-1], "bytes": size}
    return {**counts, "targets": targets, "target_bytes": target_bytes} if masked else counts


def _encoded(block: Sequence[Document], tokenizer: Any) -> list[Any]:
    """Encode documents. A special token spelt out in plain text, such as the end token, stays text; in a conversation the template wrote it."""
    found: dict[int, Any] = {}
    for plain in (True, False):
        numbers = [number for number, item in enumerate(block) if (item.spans is None) == plain]
        tokenizer.encode_special_tokens = plain
        found |= zip(numbers, tokenizer.encode_batch([block[number].text for number in numbers], add_special_tokens=False), strict=True)
    return [found[number] for number in range(len(block))]


def target_mask(document: Document, offsets: Sequence[tuple[int, int]], count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Mark the tokens that reach into a response, and the end token after one; all tokens of plain text.

    Args:
        document: with its spans.
        offsets: first and last (excluded) character of each token of its text.
        count: tokens, the end token included.

    Returns:
        Shape (count,), 1 for tokens that count in the loss.
    """
    mask = np.ones(count, dtype=np.uint8)
    if document.spans is not None:
        for number, (start, stop) in enumerate(offsets):
            mask[number] = any(start < last and stop > first for first, last in document.spans)
        # The end token belongs to what precedes it: a response, or a user's turn, which the model does not learn.
        mask[len(offsets) :] = any(last >= len(document.text) for _, last in document.spans)
    return mask
