"""`corpus.toml` as typed settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from planner.artifacts import known_keys, read_toml
from planner.corpus.store import GENERAL
from planner.errors import InputError

KINDS = ("txt", "jsonl", "parquet", "dataset", "package", "pairs")


@dataclass(frozen=True)
class Source:
    """One place that documents come from."""

    domain: str
    """"general" or the name of a specialist domain."""
    kind: str
    """"txt", "jsonl", "parquet", "dataset" (a saved Hugging Face dataset), "package" (text inside an installed package), or "pairs" (prompts and
    responses in JSON Lines or JSON, also inside a package: only responses count in the loss)."""
    path: str
    """Folder, file or glob, relative to corpus.toml; inside the package for kind "package". In a folder, files with the kind's ending are read (*.txt,
    *.jsonl, *.parquet, *.arrow, text also compressed as .gz or .zst); a glob such as "notes/*.md" selects others."""
    text: str = "text"
    """Field that holds the text, or a template of fields such as "{label}: {description}"; records that lack one are skipped."""
    prompt: str | None = None
    """Pairs only: field or template of the prompt; "prompt" by default."""
    response: str | None = None
    """Pairs only: field or template of the response; "response" by default."""
    messages: str | None = None
    """Pairs only, instead of the two: field that holds a list of messages with role and content."""
    package: str | None = None
    """Distribution to take the files from, such as "chemicals==1.5.2"."""
    minimum_characters: int = 1
    """Shorter documents are skipped."""
    licence: str | None = None
    """Licence of the text, noted in corpus.json."""
    origin: str | None = None
    """Where the text is from, noted in corpus.json."""

    def __post_init__(self) -> None:
        where = f"source {self.path!r}"
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "minimum_characters":
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    raise InputError(f"{where}: minimum_characters = {value!r}", remedy="give a whole number from 1")
            elif value is not None and (not isinstance(value, str) or not value):
                raise InputError(f"{where}: {item.name} = {value!r} is not a text", remedy="give a text")
        if self.kind not in KINDS:
            raise InputError(f"{where}: kind {self.kind!r} is not known", remedy=f"choose one of {', '.join(KINDS)}")
        if not self.domain.replace("_", "").replace("-", "").isalnum() or self.domain == "tokenizer":
            raise InputError(f"{where}: domain {self.domain!r} cannot name a folder", remedy="use letters, digits, - and _")
        if self.kind != "pairs" and (self.prompt or self.response or self.messages):
            raise InputError(f"{where}: prompt, response and messages are for pairs only", remedy='state kind = "pairs", or omit them')
        if self.messages and (self.prompt or self.response):
            raise InputError(f"{where} states messages beside a prompt or a response", remedy="state messages, or prompt and response")
        if self.kind != "pairs" and (self.kind == "package") != (self.package is not None):
            raise InputError(f'{where}: kind "package" and the setting package go together', remedy='state package = "NAME==VERSION"')


@dataclass(frozen=True)
class TokenizerSettings:
    """Where the tokenizer comes from."""

    vocab_size: int = 1024
    """Rows of the vocabulary to train."""
    mixture: Mapping[str, float] = field(default_factory=dict)
    """Share of the training characters by domain; equal shares by default."""
    path: str | None = None
    """Folder of an existing tokenizer to take instead."""
    max_characters: int = 20_000_000
    """Characters to train on, at most."""


@dataclass(frozen=True)
class CorpusSettings:
    """What `plan corpus build` is to do."""

    folder: Path
    """Folder of corpus.toml."""
    sources: tuple[Source, ...]
    """Where the text comes from."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """How it becomes tokens."""
    heldout_fraction: float = 0.05
    """Share of the documents held out, chosen by hash."""
    heldout_tokens_max: int = 100_000
    """Held-out tokens per domain, at most, unless its first document is longer; further held-out documents are left out of both splits."""
    near_duplicates: bool = True
    """Whether near-duplicates are looked for."""
    near_duplicate_threshold: float = 0.8
    """Estimated Jaccard similarity of word 5-grams from which two documents count as the same."""
    chat_template: str | None = None
    """Jinja template that renders pairs; the tokenizer's by default."""

    @property
    def specialists(self) -> list[str]:
        """Names of the specialist domains, in the order of their first source."""
        return [name for name in dict.fromkeys(source.domain for source in self.sources) if name != GENERAL]


def read_settings(path: Path | str) -> CorpusSettings:
    """Read `corpus.toml`, given the file or its folder.

    Raises:
        InputError: a missing file, an unknown key, no general or no specialist source.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "corpus.toml"
    table = read_toml(path)
    known_keys(table, {"source", "tokenizer", "split", "duplicates", "chat"}, str(path))
    sources = table.get("source", [])
    if not isinstance(sources, list) or not all(isinstance(item, dict) for item in sources):
        raise InputError(f"{path}: source is not a list of tables", remedy="write each source as [[source]]")
    names = {item.name for item in fields(Source)}
    built = []
    for number, item in enumerate(sources, 1):
        known_keys(item, names, f"{path}: source {number}")
        for key in ("domain", "kind", "path"):
            if key not in item:
                raise InputError(f"{path}: source {number} has no {key}", remedy=f"state {key}")
        built.append(Source(**item))
    tokenizer = _table(table, "tokenizer", path, {item.name for item in fields(TokenizerSettings)})
    split = _table(table, "split", path, {"heldout_fraction", "heldout_tokens_max"})
    duplicates = _table(table, "duplicates", path, {"near_duplicates", "near_duplicate_threshold"})
    template = _table(table, "chat", path, {"template"}).get("template")
    if template is not None and (not isinstance(template, str) or not template):
        raise InputError(f"{path}: chat template = {template!r} is not a text", remedy="give a Jinja template, like a tokenizer's chat_template")
    settings = CorpusSettings(path.parent, tuple(built), TokenizerSettings(**tokenizer), **split, **duplicates, chat_template=template)
    _check(settings, path)
    return settings


def _check(settings: CorpusSettings, path: Path) -> None:
    domains = {source.domain for source in settings.sources}
    if GENERAL not in domains:
        raise InputError(f'{path} has no source with domain = "{GENERAL}"', remedy="add one")
    if not settings.specialists:
        raise InputError(f"{path} has no specialist source", remedy="add a [[source]] with the specialist domain's name as domain")
    places = [(source.kind, source.package, source.path, source.text, source.prompt, source.response) for source in settings.sources]
    for source, place in zip(settings.sources, places, strict=True):
        others = {other.domain for other, at in zip(settings.sources, places, strict=True) if at == place}
        if len(others) > 1:
            raise InputError(
                f"{path}: source {source.path!r} is used for both {' and '.join(sorted(others))}", remedy="give each domain text of its own"
            )
    whole = ("heldout_tokens_max", "vocab_size", "max_characters")
    for name, value, low, high in (
        ("heldout_fraction", settings.heldout_fraction, 0.001, 0.5),
        ("heldout_tokens_max", settings.heldout_tokens_max, 1024, 10**9),
        ("near_duplicate_threshold", settings.near_duplicate_threshold, 0.3, 1.0),
        ("vocab_size", settings.tokenizer.vocab_size, 257, 2**24),
        ("max_characters", settings.tokenizer.max_characters, 1000, 10**10),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise InputError(f"{path}: {name} = {value!r} is not a number from {low} to {high}", remedy="choose a value inside")
        if name in whole and not isinstance(value, int):
            raise InputError(f"{path}: {name} = {value!r} is not a whole number", remedy="give one without a point")
    if not isinstance(settings.near_duplicates, bool):
        raise InputError(f"{path}: near_duplicates = {settings.near_duplicates!r} is neither true nor false", remedy="give true or false")
    if settings.tokenizer.path is not None and (not isinstance(settings.tokenizer.path, str) or not settings.tokenizer.path):
        raise InputError(f"{path}: tokenizer path = {settings.tokenizer.path!r} names no folder", remedy='state path = "FOLDER", or omit it')
    if not isinstance(settings.tokenizer.mixture, Mapping):
        raise InputError(f"{path}: tokenizer mixture = {settings.tokenizer.mixture!r} is not a table", remedy="write mixture = {general = 1, NAME = 2}")
    for name, share in settings.tokenizer.mixture.items():
        if name not in domains or isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < inf:
            raise InputError(
                f"{path}: tokenizer mixture holds {name} = {share!r}", remedy=f"give finite shares for {', '.join(sorted(domains))}, not negative"
            )
    if settings.tokenizer.mixture and sum(settings.tokenizer.mixture.values()) <= 0:
        raise InputError(f"{path}: tokenizer mixture adds up to nothing", remedy="give at least one positive share")


def _table(table: Mapping[str, Any], key: str, path: Path, known: set[str]) -> dict[str, Any]:
    """Return the table of a key, empty if absent; refuse unknown keys in it."""
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key} is not a table", remedy=f"write it as [{key}]")
    known_keys(value, known, f"{path}: {key}")
    return value
