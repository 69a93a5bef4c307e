"""Documents out of sources: text folders, JSON Lines, parquet, saved datasets, and text inside installed packages."""

from __future__ import annotations

import gzip
import json
import string
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from planner.corpus.config import Source
from planner.errors import InputError, PlannerWarning, importing


def read_documents(source: Source, folder: Path) -> Iterator[str]:
    """Yield the documents of a source, in a stable order.

    Args:
        source: what to read.
        folder: what relative paths are relative to.

    Raises:
        InputError: a missing file, undecodable bytes, a missing field, or nothing at all.
    """
    root = _package_root(source) if source.package else folder
    found = False
    for path in source_files(source, root):
        for text in _texts(source, path):
            text = text.strip()
            if len(text) >= source.minimum_characters:
                found = True
                yield text
    if not found:
        raise InputError(f"source {source.path!r} of {source.domain} holds no text", remedy="check its path and its field")


def read_pairs(source: Source, folder: Path) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Yield the conversations of a source of pairs, each a list of messages with role and content, and where each stands.

    Args:
        source: what to read.
        folder: what relative paths are relative to.

    Raises:
        InputError: a missing file or field, a conversation without a response, or nothing at all.
    """
    root = _package_root(source) if source.package else folder
    found = False
    for path in source_files(source, root):
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        if not name.endswith((".json", ".jsonl")):
            raise InputError(f"source {path} of pairs is neither JSON Lines nor JSON", remedy="give a .jsonl file with a pair a line")
        read = taken = 0
        for item, where in _json_items(path, lines=name.endswith(".jsonl")):
            read += 1
            for messages in _conversation(source, item, where):
                found = True
                taken += 1
                yield messages, where
        if 0 < taken < read and not source.package:  # of a package's records many are meant for something else
            why = "a field of their prompt or of their response is absent, empty or too short"
            warnings.warn(f"{read - taken} of the {read} records of {path} are left out: {why}", PlannerWarning, stacklevel=2)
    if not found:
        raise InputError(f"source {source.path!r} of {source.domain} holds no pairs", remedy="check its path, prompt and response")


def _conversation(source: Source, item: Any, where: str) -> Iterator[list[dict[str, str]]]:
    """Take the messages out of a record; in a package's JSON a record that lacks a field is skipped."""
    if source.messages is None:
        parts = {"user": source.prompt or "prompt", "assistant": source.response or "response"}
        taken = {role: next(_pick(replace(source, text=text), item, where, optional=source.package is not None), "") for role, text in parts.items()}
        if all(taken.values()) and len(taken["assistant"]) >= source.minimum_characters:
            yield [{"role": role, "content": content.strip()} for role, content in taken.items()]
        return
    messages = item.get(source.messages) if isinstance(item, dict) else None
    known = isinstance(messages, list) and all(isinstance(one, dict) and {type(one.get(key)) for key in ("role", "content")} == {str} for one in messages)
    if not messages or not known or not any(one["role"] == "assistant" for one in messages):
        raise InputError(f"{where}: field {source.messages!r} holds no list of messages with a response", remedy='give [{"role": ..., "content": ...}]')
    yield [{"role": one["role"], "content": one["content"]} for one in messages]


def _json_items(path: Path, *, lines: bool) -> Iterator[tuple[Any, str]]:
    if lines:
        for number, line in enumerate(_decode(path).split("\n"), 1):
            if line.strip():
                yield _json(line, f"{path}, line {number}", "correct it or leave it out; in JSON Lines each line is one object"), f"{path}, line {number}"
        return
    document = _json(_decode(path), str(path))
    if not isinstance(document, (dict, list)):
        raise InputError(f"{path} holds {str(document)[:40]!r}, which is not a list of records", remedy="give a JSON list or object")
    for key, item in document.items() if isinstance(document, dict) else enumerate(document):
        yield item, f"{path}, entry {key}"


def matches(source: Source, root: Path) -> list[Path]:
    """List what a source's path means under `root`, sorted: the folder or file itself, or the matches of its pattern, which may be absolute.

    Raises:
        InputError: a pattern that is malformed.
    """
    path = root / source.path
    if path.exists() or not any(sign in source.path for sign in "*?["):
        return [path] if path.exists() else []
    base, pattern = (Path("/"), source.path.lstrip("/")) if Path(source.path).is_absolute() else (root, source.path)
    try:
        return sorted(item for item in base.glob(pattern) if item.is_file())
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"source {source.path!r} is not a valid pattern: {error}", remedy="write it like texts/**/*.txt") from error


def source_files(source: Source, root: Path) -> list[Path]:
    """List the files of a source, sorted.

    Raises:
        InputError: there are none.
    """
    path = root / source.path
    files = matches(source, root)
    if path.is_dir():
        patterns = {"txt": ("*.txt", "*.txt.gz", "*.txt.zst"), "jsonl": ("*.jsonl*",), "parquet": ("*.parquet",), "dataset": ("*.arrow",)}
        patterns["pairs"] = patterns["jsonl"]
        files = sorted(item for pattern in patterns.get(source.kind, ("*",)) for item in path.rglob(pattern) if item.is_file())
    elif not files and not any(sign in source.path for sign in "*?["):
        raise InputError(f"source {path} does not exist", remedy="check the path in corpus.toml")
    if not files:
        remedy = "check the path in corpus.toml"
        if path.is_dir() and source.kind == "txt":  # of a folder only names that end in .txt are taken
            remedy += f", or give a pattern such as {source.path.rstrip('/')}/*.md if the files have another ending"
        raise InputError(f"source {path} matches no {source.kind} file", remedy=remedy)
    return files


def _texts(source: Source, path: Path) -> Iterator[str]:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    kind = source.kind
    if kind == "package":
        kind = "jsonl" if name.endswith(".jsonl") else "json" if name.endswith(".json") else "parquet" if name.endswith(".parquet") else "txt"
    if kind == "txt":
        yield _decode(path)
    elif kind in ("json", "jsonl"):
        for item, where in _json_items(path, lines=kind == "jsonl"):
            yield from _pick(source, item, where, optional=kind == "json")
    else:
        yield from _columns(source, path)


def _columns(source: Source, path: Path) -> Iterator[str]:
    with importing("pyarrow"):
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    try:
        if source.kind == "dataset":
            with arrow.memory_map(str(path)) as file:
                table = arrow.ipc.open_stream(file).read_all()
        else:
            table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:  # damaged pages and footers come as an OSError
        why = " ".join(str(error).split()).removesuffix(".")
        raise InputError(f"{path} cannot be read as {source.kind}: {why}", remedy="copy it again, or leave it out of the source") from error
    wanted = _fields(source.text)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}", remedy=f"set text to one of {', '.join(table.column_names)}")
    for row in table.select(wanted).to_pylist():
        yield from _pick(source, row, str(path))


def _pick(source: Source, item: Any, where: str, *, optional: bool = False) -> Iterator[str]:
    """Take the text out of a record; an absent or empty field skips it in a template and in a package's JSON."""
    if isinstance(item, str):
        item = {source.text: item}
    if not isinstance(item, dict):
        raise InputError(f"{where} is not a record with fields", remedy="give JSON objects, in JSON Lines one a line and no list around them")
    wanted = _fields(source.text)
    template = "{" in source.text
    for name in wanted:
        if name not in item and not (optional or template):
            raise InputError(f"{where} has no field {name!r}", remedy=f"set text to one of {', '.join(map(str, item)) or 'its fields'}")
    values = {name: item.get(name) for name in wanted}
    if all(isinstance(value, str) and value.strip() for value in values.values()):
        yield source.text.format(**values) if template else str(values[source.text])
    elif other := [name for name, value in values.items() if value is not None and not isinstance(value, str)]:
        raise InputError(f"{where}: field {other[0]!r} is not a text", remedy="choose a field that holds text")


def _fields(text: str) -> list[str]:
    if "{" not in text:
        return [text]
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        text.format(**dict.fromkeys(names, ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise InputError(f"text template {text!r} is malformed: {error}", remedy='write names of fields in it, like "{title}: {body}"') from error
    return names


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is cut short or not a gzip file: {error}", remedy="copy it again, or leave it out of the source") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check its permissions") from error
    if path.suffix == ".zst":
        with importing("zstandard"):
            import zstandard
        remedy, frames = "copy it again, or leave it out of the source", []
        while data:  # frames one after the other, as large files are packed; only an object of one frame tells whether it came to its end
            frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                frames.append(frame.decompress(data))
            except zstandard.ZstdError as error:
                raise InputError(f"{path} is not a zstandard file: {error}", remedy=remedy) from error
            if not frame.eof:
                raise InputError(f"{path} is cut short: its last zstandard frame has no end", remedy=remedy)
            data = frame.unused_data
        data = b"".join(frames)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}", remedy="convert it, or leave it out of the source"
        ) from error


def _json(text: str, where: str, remedy: str = "correct it or leave it out") -> Any:
    try:
        document = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair, such as an emoji that was cut, is JSON but not text
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg}", remedy=remedy) from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{where} cannot be read as JSON: {error}", remedy=remedy) from error


def _package_root(source: Source) -> Path:
    assert source.package is not None
    name, _, version = source.package.partition("==")
    try:
        distribution = metadata.distribution(name.strip())
    except metadata.PackageNotFoundError as error:
        raise InputError(f"package {name} is not installed", remedy=f"pip install --no-deps '{source.package}'") from error
    if version and distribution.version != version.strip():
        raise InputError(
            f"package {name} is installed as {distribution.version}, not {version}", remedy=f"pip install --no-deps '{source.package}'"
        )
    return Path(str(distribution.locate_file("")))
