"""A built corpus on disk, and how it is read: token shards, document borders and their account. Needs numpy only.

    corpus.json                     account of every domain, fingerprint, sources
    tokenizer/                      loads with AutoTokenizer.from_pretrained
    <domain>/train.bin              tokens, uint16 or uint32, documents in the order of a stable hash
    <domain>/train.offsets.npy      (documents + 1,) borders in train.bin
    <domain>/heldout.bin, heldout.offsets.npy
    <domain>/train.mask.bin         for pairs: uint8 per token, 1 if it counts in the loss; heldout.mask.bin
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.artifacts import check_numbers, read_artifact, whole
from planner.errors import InputError

KIND = "corpus"
VERSION = 1
GENERAL = "general"
"""Name of the general domain."""
SPLITS = ("train", "heldout")
DTYPES = ("uint16", "uint32")
"""Of tokens on disk."""


class Corpus:
    """A built corpus, opened for reading."""

    general = GENERAL

    def __init__(self, folder: Path, account: dict[str, Any]) -> None:
        self.folder = folder
        self.account = account

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Open a corpus folder.

        Raises:
            InputError: the folder is missing or was not written by `plan corpus build`.
        """
        folder = Path(folder)
        if not (folder / "corpus.json").is_file():
            raise InputError(f"{folder} holds no corpus", remedy="build it with plan corpus build, or name the folder that it wrote")
        account = read_artifact(folder / "corpus.json", KIND, VERSION)
        with whole(folder / "corpus.json"):
            check_numbers(account, ("vocab_size",), low=1)
            if account["dtype"] not in DTYPES or not isinstance(account["fingerprint"], str) or not isinstance(account["token_ids"], dict):
                raise ValueError(f"dtype = {account['dtype']!r}, fingerprint = {account['fingerprint']!r}, token_ids = {account['token_ids']!r}")
            if GENERAL not in account["domains"] or len(account["domains"]) < 2:
                raise ValueError(f"domains = {list(account['domains'])}, which must be the general one and another")
            for name, entry in account["domains"].items():
                if name in ("", ".", "..") or Path(name).name != name:  # a file may not lead out of the folder
                    raise ValueError(f"a domain {name!r}, which names no folder")
                check_numbers(entry, (f"{what}_{split}" for what in ("documents", "tokens", "bytes") for split in SPLITS), low=0, what=name)
        return cls(folder, account)

    def check_shards(self, domains: Iterable[str]) -> None:
        """Check that the tokens of some domains, and for pairs their masks, are on disk with the lengths that corpus.json states.

        Raises:
            InputError: a file is missing, or of another length.
        """
        for domain in domains:
            for split in SPLITS:
                tokens = int(self._domain(domain)[f"tokens_{split}"])
                widths = {f"{split}.bin": np.dtype(self.account["dtype"]).itemsize}
                if f"targets_{split}" in self._domain(domain):
                    widths[f"{split}.mask.bin"] = 1
                for name, width in widths.items():
                    path = self._file(domain, name)
                    if (held := path.stat().st_size) != tokens * width:
                        remedy = "build the corpus again with plan corpus build --force"
                        what = f"corpus file {path} holds {held} bytes, but {self.folder / 'corpus.json'} says {tokens * width}"
                        raise InputError(what, remedy=remedy)

    def check_heldout(self, domains: Iterable[str], seq_len: int) -> None:
        """Check that a held-out loss can be measured on some domains: it needs a window of text, or for pairs a response that begins within one.

        Args:
            domains: to be evaluated on.
            seq_len: window [tokens].

        Raises:
            InputError: on one of them it cannot.
        """
        for domain in domains:
            mask, held = self.mask(domain, "heldout"), int(self._domain(domain)["tokens_heldout"])
            if mask is None:
                if held <= seq_len:
                    remedy = f"lower seq_len to {held - 1} or less, or build the corpus with more held-out text"
                    raise InputError(f"the held-out text of {domain} has {held} tokens, and a window of {seq_len} needs {seq_len + 1}", remedy=remedy)
                continue
            starts, counted = self.offsets(domain, "heldout")[:-1], np.flatnonzero(mask)
            places = counted - starts[np.searchsorted(starts, counted, side="right") - 1]
            later = places[places > 0]  # a pair's first token follows nothing
            if not later.size:
                remedy = "build the corpus with pairs whose responses are not empty"
                raise InputError(f"no held-out token of {domain} belongs to a response", remedy=remedy)
            if (shortest := int(later.min())) > seq_len:
                remedy = f"raise seq_len to {shortest} or more, or build the corpus with shorter prompts"
                what = f"all held-out prompts of {domain} exceed the window of {seq_len} tokens, the shortest with {shortest}"
                raise InputError(f"{what}: there is no response to measure a loss on", remedy=remedy)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table that a model of this corpus needs."""
        return int(self.account["vocab_size"])

    @property
    def fingerprint(self) -> str:
        """Hash of all shards and of the tokenizer."""
        return str(self.account["fingerprint"])

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the general one first."""
        return list(self.account["domains"])

    @property
    def tokenizer_path(self) -> Path:
        """Folder that `AutoTokenizer.from_pretrained` loads."""
        return self.folder / "tokenizer"

    @property
    def token_ids(self) -> dict[str, int]:
        """Special tokens for a model's configuration."""
        return dict(self.account["token_ids"])

    def specialist(self, domain: str | None) -> str:
        """Return the specialist domain asked for, or the only one.

        Raises:
            InputError: no such domain, or several and none chosen.
        """
        found = [name for name in self.domains if name != GENERAL]
        if domain is None and len(found) == 1:
            return found[0]
        if domain not in found:
            what = "no specialist domain is chosen" if domain is None else f"there is no specialist domain {domain!r}"
            raise InputError(f"{what} in corpus {self.folder}", remedy=f"choose one of {', '.join(found)}: domain in sweep.toml, or --domain")
        return domain

    def tokens(self, domain: str, split: str) -> NDArray[np.unsignedinteger]:
        """Map the tokens of one split, shape (tokens,)."""
        return np.memmap(self._file(domain, f"{split}.bin"), dtype=np.dtype(self.account["dtype"]), mode="r")

    def offsets(self, domain: str, split: str) -> NDArray[np.int64]:
        """Read the borders of the documents, shape (documents + 1,).

        Raises:
            InputError: the file is missing or damaged.
        """
        path = self._file(domain, f"{split}.offsets.npy")
        try:
            offsets: NDArray[np.int64] = np.load(path, allow_pickle=False)
        except ValueError as error:  # no such array, or one of objects
            raise InputError(f"{path} is damaged: it holds no borders of documents", remedy="build the corpus again: plan corpus build") from error
        return offsets

    def mask(self, domain: str, split: str) -> NDArray[np.uint8] | None:
        """Map the loss mask of a split, shape (tokens,), 1 for tokens that count; None if all do."""
        if f"targets_{split}" not in self._domain(domain):
            return None
        return np.memmap(self._file(domain, f"{split}.mask.bin"), dtype=np.uint8, mode="r")

    def subset(self, domain: str, unique_tokens: float) -> NDArray[np.unsignedinteger]:
        """Map the first whole documents with at least `unique_tokens` training tokens together; smaller subsets lie inside larger ones."""
        return self.tokens(domain, "train")[: self.subset_tokens(domain, unique_tokens)]

    def subset_tokens(self, domain: str, unique_tokens: float) -> int:
        """Count the tokens of a subset, by the borders of the documents."""
        offsets = self._train_offsets[domain]
        return int(offsets[min(int(np.searchsorted(offsets, unique_tokens)), len(offsets) - 1)])

    def unique_tokens(self, domain: str) -> int:
        """Count the distinct training tokens of a domain."""
        return int(self._domain(domain)["tokens_train"])

    def bytes_per_token(self, domain: str) -> float:
        """Return the mean UTF-8 bytes of a held-out token; for pairs, of a token of their responses."""
        entry = self._domain(domain)
        if "targets_heldout" in entry:
            return float(entry["target_bytes_heldout"] / entry["targets_heldout"])
        return float(entry["bytes_heldout"] / entry["tokens_heldout"])

    @cached_property
    def _train_offsets(self) -> dict[str, NDArray[np.int64]]:
        return {domain: self.offsets(domain, "train") for domain in self.domains}

    def _domain(self, domain: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.account["domains"][domain]
        return entry

    def _file(self, domain: str, name: str) -> Path:
        path = self.folder / domain / name
        if not path.is_file():
            raise InputError(f"corpus file {path} is missing", remedy="build the corpus again with plan corpus build --force")
        return path
