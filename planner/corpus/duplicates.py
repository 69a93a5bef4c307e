"""Exact and near-duplicates among documents, and held-out documents that the training text contaminates.

Near-duplicates by MinHash over word 5-grams and locality-sensitive hashing (datasketch). Only pairs that matter are
removed: within a domain a copy is dropped for its own sake; across train and held-out, or across domains, the training
copy goes, so that the held-out documents stay clean.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.errors import importing

PERMUTATIONS = 48
SHINGLE_WORDS = 5
CONTAMINATION_WORDS = 13
"""A held-out document that shares this many words in a row with training text counts as contaminated (arXiv 2005.14165)."""
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Document:
    """A text with what decides its split and whether it is kept."""

    text: str
    """The text."""
    domain: str
    """Its domain."""
    key: str
    """SHA-256 of its normalised text: decides split and order, and finds exact copies."""
    heldout: bool
    """Whether it is held out."""
    spans: tuple[tuple[int, int], ...] | None = None
    """First and last (excluded) characters of the stretches that count in the loss; None for all."""


def normalise(text: str) -> str:
    """Fold case and whitespace, so that copies that differ only in them count as copies."""
    return " ".join(text.lower().split())


def make_document(text: str, domain: str, heldout_fraction: float, spans: tuple[tuple[int, int], ...] | None = None) -> Document:
    """Build a document; its split is a stable function of its normalised text."""
    key = hashlib.sha256(normalise(text).encode()).hexdigest()
    return Document(text, domain, key, int(key[:12], 16) / 16**12 < heldout_fraction, spans)


def drop_exact(documents: Sequence[Document]) -> tuple[list[Document], dict[str, int]]:
    """Keep one document per key, the specialist's where a copy is in both; return them and the number dropped by domain."""
    kept: dict[str, Document] = {}
    dropped: dict[str, int] = {}
    for document in documents:
        other = kept.get(document.key)
        if other is None:
            kept[document.key] = document
            continue
        loser = document
        if other.domain == "general" and document.domain != "general":
            kept[document.key], loser = document, other
        dropped[loser.domain] = dropped.get(loser.domain, 0) + 1
    return list(kept.values()), dropped


def drop_near(
    documents: Sequence[Document], threshold: float, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Document], dict[str, int]]:
    """Drop near-duplicates; held-out documents are taken first, then the specialists', so that those stay.

    Args:
        documents: no exact copies among them.
        threshold: estimated Jaccard similarity of word 5-grams.
        progress: called with documents done and their total.

    Raises:
        MissingDependencyError: datasketch is not installed.
    """
    with importing("datasketch"):
        from datasketch import MinHash, MinHashLSH
    order = sorted(documents, key=lambda document: (not document.heldout, document.domain == "general", document.key))
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    seed = MinHash(num_perm=PERMUTATIONS, seed=1)
    kept: list[Document] = []
    dropped: dict[str, int] = {}
    for number, document in enumerate(order):
        signature = seed.copy()
        signature.update_batch(sorted(_shingles(document.text)))
        twins = index.query(signature)
        if twins:
            dropped[document.domain] = dropped.get(document.domain, 0) + 1
        else:
            index.insert(document.key, signature)
            kept.append(document)
        if progress is not None and number % 500 == 0:
            progress(number, len(order))
    return kept, dropped


def contaminated(documents: Sequence[Document]) -> set[str]:
    """Return the keys of the held-out documents that share 13 words in a row with any training document."""
    wanted: dict[int, set[int]] = {}
    heldout = [document for document in documents if document.heldout]
    for number, document in enumerate(heldout):
        for gram in _grams(document.text):
            wanted.setdefault(gram, set()).add(number)
    hit: set[int] = set()
    for document in documents:
        if not document.heldout:
            for gram in wanted.keys() & _grams(document.text):
                hit |= wanted[gram]
    return {heldout[number].key for number in hit}


def _shingles(text: str) -> set[bytes]:
    tokens = _WORDS.findall(text.lower())
    # A shorter text is one shingle.
    return {" ".join(tokens[k : k + SHINGLE_WORDS]).encode() for k in range(max(1, len(tokens) - SHINGLE_WORDS + 1))}


def _grams(text: str) -> set[int]:
    tokens = _WORDS.findall(text.lower())
    return {hash(tuple(tokens[k : k + CONTAMINATION_WORDS])) for k in range(len(tokens) - CONTAMINATION_WORDS + 1)}
