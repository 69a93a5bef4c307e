"""Build a corpus: read, split, drop copies, train the tokenizer, write the shards, all into a folder that appears when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from planner.artifacts import read_artifact, sha256_file, sha256_json, write_artifact
from planner.corpus.chat import FILE as TEMPLATE
from planner.corpus.chat import ChatTemplate
from planner.corpus.config import CorpusSettings
from planner.corpus.duplicates import Document, contaminated, drop_exact, drop_near, make_document
from planner.corpus.shards import write_shard
from planner.corpus.sources import matches, read_documents, read_pairs
from planner.corpus.store import GENERAL, KIND, SPLITS, VERSION, Corpus
from planner.corpus.tokenizer import FILES, copy_tokenizer, open_tokenizer, train_tokenizer
from planner.errors import InputError, StateError

SMALLEST_SPLIT = {"train": 8 * 129, "heldout": 2 * 129}
"""Least tokens of a split: a batch of the default recipe, and something to measure on."""
SHARED_LIMIT = 0.5
"""Share of a specialist domain's documents that may also be in the general text."""

_LATER = ("prompt", "response", "messages")

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""


def build_corpus(settings: CorpusSettings, out: Path, *, force: bool = False, progress: Progress | None = None) -> tuple[Corpus, bool]:
    """Build a corpus into `out`, or find it there already.

    Args:
        settings: what to build.
        out: folder to write; made whole or not at all.
        force: whether to build it again, replacing even a corpus built from other settings, sources or tokenizer files.
        progress: called with each step.

    Returns:
        The corpus, and whether it was built now.

    Raises:
        InputError: a source that cannot be used, or a corpus too small.
        StateError: `out` holds something else and `force` is not given.
    """
    tell = progress or (lambda what, share: None)
    request = sha256_json(_request(settings))
    out = out.resolve() if out.is_symlink() else out  # the link stays, and what it points to is written
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        there = (out / "corpus.json").is_file() and not force and read_artifact(out / "corpus.json", KIND, VERSION).get("request") == request
        if there and not _other_tokenizer(settings, out):
            return Corpus.open(out), False
        if not (out / "corpus.json").is_file():
            raise StateError(f"{out} is not the folder of a corpus", remedy="choose another --out; this one is not replaced")
        if not force:
            what = f"{out} exists and was built from other settings, sources or tokenizer files"
            raise StateError(what, remedy="give --force to replace it, or another --out")
    own = settings.folder / settings.tokenizer.path if settings.tokenizer.path is not None else None
    paired = any(source.kind == "pairs" for source in settings.sources)
    template = ChatTemplate.of(settings.chat_template, own) if paired else None
    documents, account = _gather(settings, tell, template)
    temporary = out.with_name(f".{out.name}.building-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write(settings, documents, account, request, temporary, tell, template)
        if out.exists():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Corpus.open(out), True


def _request(settings: CorpusSettings) -> dict[str, Any]:
    """State everything that decides the corpus, so that the same request is not built twice."""
    table = asdict(settings)
    table.pop("folder")
    # Settings added later count only where they are set, so that a corpus built before them is found again.
    if table["chat_template"] is None:
        table.pop("chat_template")
    table["sources"] = [{key: value for key, value in source.items() if key not in _LATER or value is not None} for source in table["sources"]]
    stamps = []
    for source in settings.sources:
        if source.kind != "package":
            files = [item for path in matches(source, settings.folder) for item in (sorted(path.rglob("*")) if path.is_dir() else [path])]
            stamps += [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return {"settings": table, "files": stamps, "version": VERSION}


def _other_tokenizer(settings: CorpusSettings, out: Path) -> bool:
    """Tell whether the corpus's tokenizer differs from the one that is now in the folder it was taken from."""
    if settings.tokenizer.path is None:
        return False
    origin, own = settings.folder / settings.tokenizer.path, out / "tokenizer"
    names = [name for name in FILES if (origin / name).is_file() and (name != TEMPLATE or settings.chat_template is None)]
    return any(not (own / name).is_file() or (own / name).read_bytes() != (origin / name).read_bytes() for name in names)


def _gather(settings: CorpusSettings, tell: Progress, template: ChatTemplate | None) -> tuple[list[Document], dict[str, dict[str, Any]]]:
    documents: list[Document] = []
    account: dict[str, dict[str, Any]] = {name: {} for name in (GENERAL, *settings.specialists)}
    for number, source in enumerate(settings.sources):
        tell("reading", number / len(settings.sources))
        if source.kind == "pairs":
            assert template is not None
            for messages, where in read_pairs(source, settings.folder):
                try:
                    item = template.render(messages)
                except InputError as error:
                    raise InputError(f"{where}: {error.message}", remedy=error.remedy) from error
                documents.append(make_document(item.text, source.domain, settings.heldout_fraction, item.spans))
            continue
        documents += [make_document(text, source.domain, settings.heldout_fraction) for text in read_documents(source, settings.folder)]
    counts = {name: sum(document.domain == name for document in documents) for name in account}
    for name, count in counts.items():
        account[name]["documents_read"] = count
        if count < 2:
            raise InputError(f"domain {name} has only {count} document", remedy="give at least two, so that one can be held out")
    _refuse_shared(documents, settings.specialists)
    documents, exact = drop_exact(documents)
    near: dict[str, int] = {}
    if settings.near_duplicates:
        documents, near = drop_near(
            documents, settings.near_duplicate_threshold, lambda done, total: tell("looking for near-duplicates", done / total)
        )
    for name, entry in account.items():
        entry.update(duplicates_exact=exact.get(name, 0), duplicates_near=near.get(name, 0))
    return sorted(documents, key=lambda document: document.key[12:]), account


def _refuse_shared(documents: Sequence[Document], specialists: Sequence[str]) -> None:
    general = {document.key for document in documents if document.domain == GENERAL}
    for name in specialists:
        keys = {document.key for document in documents if document.domain == name}
        share = len(keys & general) / len(keys)
        if share > SHARED_LIMIT:
            raise InputError(
                f"{share:.0%} of the documents of {name} are also in the general text", remedy="give the specialist domain text of its own"
            )


def _write(
    settings: CorpusSettings, documents: Sequence[Document], account: dict[str, dict[str, Any]], request: str, folder: Path, tell: Progress,
    template: ChatTemplate | None,
) -> None:  # fmt: skip
    training = {name: [document.text for document in documents if document.domain == name and not document.heldout] for name in account}
    tell("training the tokenizer", 0.0)
    if settings.tokenizer.path is not None:
        copy_tokenizer(settings.folder / settings.tokenizer.path, folder / "tokenizer")
    else:
        shares = dict(settings.tokenizer.mixture) or dict.fromkeys(account, 1.0)
        train_tokenizer(training, shares, settings.tokenizer.vocab_size, settings.tokenizer.max_characters, folder / "tokenizer")
    if template is not None:
        template.save(folder / "tokenizer")
    tell("counting contamination", 0.0)
    spoilt = contaminated(documents)
    tokenizer, end = open_tokenizer(folder / "tokenizer")
    vocab = max(tokenizer.get_vocab().values()) + 1  # not their count: ids may be skipped
    dtype = np.dtype("uint16" if vocab < 2**16 else "uint32")
    masked = {source.domain for source in settings.sources if source.kind == "pairs"}
    hashes = {"tokenizer": sha256_file(folder / "tokenizer" / "tokenizer.json")}
    for number, name in enumerate(account):
        for split in SPLITS:
            tell("writing shards", (number + (split == "heldout") / 2) / len(account))
            chosen = [document for document in documents if document.domain == name and document.heldout == (split == "heldout")]
            limit = settings.heldout_tokens_max if split == "heldout" else None
            counts = write_shard(folder / name, split, chosen, tokenizer, end, dtype, limit, masked=name in masked)
            if counts["tokens"] < SMALLEST_SPLIT[split]:
                remedy = "give more text" if split == "train" else "give more text or raise heldout_fraction"
                if counts["documents"] < len(chosen):  # the next one would pass the limit, and documents are not cut
                    remedy = f"raise heldout_tokens_max = {limit}, which its next document would pass, or cut long documents into shorter ones"
                copies = account[name]["duplicates_exact"] + account[name]["duplicates_near"]
                read = account[name]["documents_read"]
                dropped = f" ({copies} of the {read} read are copies of others, in other domains too)" if copies > read / 2 else ""
                what = f"the {split} text of {name} has {counts['tokens']} tokens in {counts['documents']} documents{dropped}"
                raise InputError(f"{what}, fewer than the {SMALLEST_SPLIT[split]} that one batch needs", remedy=remedy)
            account[name].update({f"{key}_{split}": value for key, value in counts.items()})
            if split == "heldout":
                account[name]["heldout_contaminated"] = sum(document.key in spoilt for document in chosen[: counts["documents"]])
            hashes[f"{name}/{split}"] = sha256_file(folder / name / f"{split}.bin")
            if name in masked:
                hashes[f"{name}/{split}.mask"] = sha256_file(folder / name / f"{split}.mask.bin")
    body = {
        "fingerprint": sha256_json(hashes)[:16],
        "request": request,
        "vocab_size": vocab,
        "dtype": dtype.name,
        "token_ids": {"eos_token_id": end},
        "domains": account,
        "sources": [asdict(source) for source in settings.sources],
        "heldout_fraction": settings.heldout_fraction,
    }
    write_artifact(folder / "corpus.json", KIND, VERSION, body, hashes)
