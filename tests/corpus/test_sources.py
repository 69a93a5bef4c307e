"""Every kind of source, and copies across splits and domains."""

import gzip
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import zstandard

from planner.corpus.build import _request
from planner.corpus.config import CorpusSettings, Source, TokenizerSettings, read_settings
from planner.corpus.duplicates import contaminated, drop_exact, drop_near, make_document
from planner.corpus.sources import matches, read_documents, read_pairs, source_files
from planner.errors import InputError

TEXTS = ["first document", "second document", "third, with ünïcode"]


def lay_out(kind: str, folder: Path) -> Source:
    if kind == "txt":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        return Source("general", kind, ".")
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text, "n": 1}) for text in TEXTS) + "\n")
        return Source("general", kind, "a.jsonl")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"text": TEXTS, "n": [1, 2, 3]})
    if kind == "parquet":
        from pyarrow import parquet

        parquet.write_table(table, folder / "a.parquet")
        return Source("general", kind, "a.parquet")
    with arrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, arrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)  # the form in which datasets.Dataset.save_to_disk writes
    return Source("general", kind, ".")


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet", "dataset"])
def test_every_kind_gives_its_documents(kind: str, tmp_path: Path) -> None:
    assert list(read_documents(lay_out(kind, tmp_path), tmp_path)) == TEXTS


def test_packed_texts_of_a_folder_count_beside_plain_ones(tmp_path: Path) -> None:
    source = lay_out("txt", tmp_path)
    (tmp_path / "2.txt").rename(tmp_path / "left.text")
    (tmp_path / "2.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    assert list(read_documents(source, tmp_path)) == TEXTS


def test_text_inside_an_installed_package() -> None:
    source = Source("general", "package", "numpy/**/*.pyi", package=f"numpy=={metadata.version('numpy')}")
    assert any("def " in text for text in read_documents(source, Path()))
    with pytest.raises(InputError, match="installed as"):
        list(read_documents(Source("general", "package", "numpy/*.pyi", package="numpy==0.1"), Path()))
    with pytest.raises(InputError, match="not installed"):
        list(read_documents(Source("general", "package", "x.txt", package="no-such-package-here==1"), Path()))


def test_a_template_joins_fields_and_skips_gaps(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "A", "body": "b"}\n{"title": "C"}\n')
    assert list(read_documents(Source("general", "jsonl", "a.jsonl", text="{title}: {body}"), tmp_path)) == ["A: b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\nnot json\n', "line 2"),
        ('{"body": "a"}\n', "no field 'text'"),
        ('{"text": 3}\n', "not a text"),
        ('{"text": "whole \\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n', "line 2 cannot be read as JSON: .*surrogates"),
        ("", "holds no text"),
    ],
)
def test_bad_records_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_documents(Source("general", "jsonl", "a.jsonl"), tmp_path))


@pytest.mark.parametrize("template", ["{}: {title}", "{0}", "{title", "{title.x}", "{title:d}"])
def test_malformed_templates_of_fields_are_named(template: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "A"}\n')
    with pytest.raises(InputError, match="text template .* is malformed"):
        list(read_documents(Source("general", "jsonl", "a.jsonl", text=template), tmp_path))


CUT_SHORT = gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-12]  # the same bytes in every process: they name the test


PACKED = zstandard.compress(" ".join(map(str, range(50_000))).encode())


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.gz", CUT_SHORT), ("a.txt.gz", b"no gzip"), ("a.json", b"5"), ("a.txt.zst", PACKED[: len(PACKED) // 2]), ("b.txt.zst", PACKED[:3]),
        ("c.txt.zst", PACKED + PACKED[:-1]), ("d.txt.zst", PACKED + b"no frame"),
    ],
    ids=["gzip cut", "no gzip", "a number", "zstandard cut", "zstandard cut in its head", "its last frame cut", "more than zstandard"],
)  # fmt: skip
def test_broken_files_are_named(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        list(read_pairs(Source("general", "pairs", name), tmp_path) if ".json" in name else read_documents(Source("general", "txt", name), tmp_path))


def test_the_field_of_a_template_that_holds_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"title": "a", "year": 1999}\n')
    with pytest.raises(InputError, match="field 'year' is not a text"):
        list(read_documents(Source("general", "jsonl", "a.jsonl", text="{title} ({year})"), tmp_path))


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_that_is_no_json_lines_is_told_what_those_are(indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}], indent=indent))
    with pytest.raises(InputError, match="line 1 is not") as caught:
        list(read_documents(Source("general", "jsonl", "a.json"), tmp_path))
    assert "JSON Lines" in (caught.value.remedy or "")


def test_all_frames_of_a_packed_file_are_read(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18\x01\x00\x00\x00x"
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one, ") + skippable + zstandard.compress(b"two"))
    assert list(read_documents(Source("general", "txt", "a.txt.zst"), tmp_path)) == ["one, two"]


@pytest.mark.parametrize("part", ["pages", "footer"])
def test_a_damaged_table_is_named(part: str, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"text": [f"document {number}" for number in range(999)]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"?" * 2000 + data[2040:] if part == "pages" else data[:4] + bytes(1000) + b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet: [^\n]*[^.]; copy it again"):
        list(read_documents(Source("general", "parquet", "a.parquet"), tmp_path))


def test_a_folder_without_a_file_of_the_kind_is_told_of_patterns(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("text")
    with pytest.raises(InputError, match="matches no txt file") as caught:
        source_files(Source("general", "txt", "notes"), tmp_path)
    assert "notes/*.md" in (caught.value.remedy or "")


def test_a_pattern_may_be_absolute(tmp_path: Path) -> None:
    source = lay_out("txt", tmp_path)
    pattern = replace(source, path=f"{tmp_path}/*.txt")
    assert list(read_documents(pattern, Path("elsewhere"))) == TEXTS
    assert matches(pattern, Path("elsewhere")) == source_files(pattern, tmp_path) == sorted(tmp_path.glob("*.txt"))
    assert len(_request(CorpusSettings(Path("elsewhere"), (pattern,), TokenizerSettings()))["files"]) == len(TEXTS)


def words(seed: int, count: int = 120) -> str:
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, 5000, count))


def test_copies_are_dropped_and_the_heldout_copy_stays() -> None:
    pytest.importorskip("datasketch")
    text = words(1)
    near = text.replace(text.split()[60], "changed", 1)
    documents = [make_document(item, domain, 0.0) for item, domain in ((text, "general"), (text.upper(), "mail"), (words(2), "general"))]
    kept, dropped = drop_exact(documents)
    assert dropped == {"general": 1} and {document.domain for document in kept} == {"mail", "general"}
    heldout, training = make_document(near, "mail", 1.0), make_document(text, "general", 0.0)
    kept, dropped = drop_near([training, heldout, make_document(words(3), "general", 0.0)], 0.8)
    assert heldout in kept and training not in kept and dropped == {"general": 1}


def test_contamination_is_thirteen_words_in_a_row() -> None:
    heldout = make_document(words(1), "mail", 1.0)
    twelve, thirteen = (" ".join(heldout.text.split()[20 : 20 + count]) for count in (12, 13))
    assert contaminated([heldout, make_document(twelve + " " + words(5), "general", 0.0)]) == set()
    assert contaminated([heldout, make_document(words(5) + " " + thirteen, "general", 0.0)]) == {heldout.key}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no source with domain"),
        ('[[source]]\ndomain = "general"\nkind = "txt"\npath = "a"\n', "no specialist source"),
        ('[[source]]\ndomain = "general"\nkind = "web"\npath = "a"\n', "kind 'web'"),
        ('[[source]]\ndomain = "general"\npath = "a"\n', "no kind"),
        ("[split]\nheldout = 3\n", "'heldout'"),
        (
            '[[source]]\ndomain = "general"\nkind = "txt"\npath = "a"\n[[source]]\ndomain = "m"\nkind = "txt"\npath = "a"\n',
            "is used for both general and m",
        ),
    ],
)
def test_bad_settings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path)
