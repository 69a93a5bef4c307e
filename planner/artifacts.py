"""Files between the stages: JSON and TOML in and out, written atomically, with kind, schema version and input hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef]

from planner.errors import InputError, StateError

_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it can only be read by setting it; done once, since another thread may create a file meanwhile
LARGEST = 1.7976931348623157e308
"""The greatest number that a float holds."""


def publish(path: Path | str) -> None:
    """Give a file the usual mode of a new file: temporary files are readable by their owner only."""
    os.chmod(path, 0o666 & ~_UMASK)


def room(error: BaseException, otherwise: str) -> str:
    """Return the remedy where a file could not be written: `otherwise`, unless the limit on file sizes was exceeded."""
    too_large = getattr(error, "errno", None) == errno.EFBIG or os.strerror(errno.EFBIG) in str(error)
    return "raise this user's limit on file sizes (ulimit -f), or write to a file system that allows larger files" if too_large else otherwise


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, or to the target of a link there, atomically: readers see the old file or the new one, even after a crash.

    Raises:
        InputError: the path is a folder, or a device or pipe, which a rename would replace by a file.
        StateError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file", remedy="name a file inside it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device or a pipe, not a file", remedy="name a regular file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}", remedy="choose another place, or check its permissions") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise StateError(f"{path} cannot be written: {error.strerror}", remedy=room(error, "make room, or choose another place")) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, paths, tuples and mappings into JSON types; a non-finite number becomes None."""
    if type(value) is float:  # the most frequent case
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return value


def write_artifact(path: Path | str, kind: str, version: int, body: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> None:
    """Write one stage's result.

    Args:
        path: the file.
        kind: what it is, such as "law".
        version: version of the schema of `body`.
        body: the content; non-finite numbers become null.
        inputs: name to SHA-256 of each input file.
    """
    document = {
        "kind": kind,
        "schema_version": version,
        "created": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "inputs": dict(inputs or {}),
        **plain(body),
    }
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def read_artifact(path: Path | str, kind: str, version: int) -> dict[str, Any]:
    """Read what `write_artifact` wrote.

    Raises:
        InputError: no such file, not JSON, or another kind of artefact.
        StateError: written under another schema version.
    """
    document = read_json(path)
    found = document.get("kind")
    if found != kind:
        raise InputError(f"{path} holds {found!r}, not {kind!r}", remedy=f"give the file that the {kind} stage wrote")
    if document.get("schema_version") != version:
        raise StateError(
            f"{path} has schema version {document.get('schema_version')!r}, this planner reads {version}",
            remedy="write it again with this version of the planner",
        )
    return document


@contextmanager
def whole(path: Path | str) -> Iterator[None]:
    """Turn a missing or malformed value of an artefact into one clear sentence.

    Raises:
        InputError: the block met a missing key or a value of the wrong kind.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"holds a value of the wrong kind ({error})"
        raise InputError(f"{path} {what}", remedy="write it again with the stage that made it") from error


def check_numbers(
    body: Mapping[str, Any], names: Iterable[str], *, low: float = -math.inf, high: float = LARGEST, optional: bool = False, what: str = ""
) -> None:  # fmt: skip
    """Check that values read from a file are finite numbers; for use inside `whole`.

    Args:
        body: the values.
        names: which of them.
        low: the least that they may be.
        high: the greatest that they may be.
        optional: whether they may be null, as non-finite numbers are written.
        what: what the values belong to, for the message.

    Raises:
        KeyError: one is missing.
        ValueError: one is not such a number.
    """
    for name in names:
        value = body[name]
        if value is None and optional:
            continue
        # Integers are compared as such: one with hundreds of digits does not fit a float.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= high or value < low:
            raise ValueError(f"{name} = {repr(value)[:40]}{what and f' of {what}'}")


def known_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse an unknown key.

    Raises:
        InputError: it names the key and the known ones.
    """
    names = sorted(known)
    for key in table:
        if key not in names:
            raise InputError(f"{where}: there is no setting {key!r}", remedy=f"use only {', '.join(names)}")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is no such file, or it holds none.
    """
    text = _read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}", remedy="fix the file or write it again"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InputError(f"{path} cannot be read as JSON: {error}", remedy="fix the file or write it again") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds a JSON {type(document).__name__}, not an object", remedy="fix the file or write it again")
    return document


def read_toml(path: Path | str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: there is none, or it cannot be parsed.
    """
    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}", remedy="fix the file") from error


def _read_text(path: Path | str) -> str:
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file {path}", remedy="check the path, or run the stage that writes it")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file", remedy="name the file inside it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})", remedy="give a text file") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", remedy="check its permissions") from error


def sha256_file(path: Path | str) -> str:
    """Hash a file's bytes, as a hexadecimal string."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hash a value by its canonical JSON text, as a hexadecimal string."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
