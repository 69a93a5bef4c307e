"""Corpora of text that comes with Python: what is built, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.corpus.build import build_corpus
from planner.corpus.config import CorpusSettings, Source, TokenizerSettings
from planner.corpus.duplicates import make_document
from planner.corpus.store import Corpus
from planner.errors import InputError, StateError
from tests.conftest import settings


def test_tokens_decode_to_the_documents(corpus: Corpus, text_folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path / "tokenizer.json"))
    documents = {path.read_text(encoding="utf-8").strip() for path in (text_folder / "special").iterdir()}
    seen = set()
    for split in ("train", "heldout"):
        tokens, borders = corpus.tokens("mail", split), corpus.offsets("mail", split)
        for first, last in zip(borders[:-1], borders[1:], strict=True):
            assert tokens[last - 1] == corpus.token_ids["eos_token_id"]
            text = tokenizer.decode(tokens[first : last - 1].tolist())
            assert text.strip() in documents
            assert text not in seen, "a document stands in both splits"
            seen.add(text)


def test_text_that_spells_the_end_token_is_text(corpus: Corpus, tmp_path: Path) -> None:
    """In a conversation the same characters are its template's, and the token."""
    from planner.corpus.duplicates import Document
    from planner.corpus.shards import write_shard
    from planner.corpus.tokenizer import END, open_tokenizer

    tokenizer, end = open_tokenizer(corpus.tokenizer_path)
    text = f"the token {END} ends a document"
    both = [Document(text, "a", "k", False, ((0, 4),)), Document(text, "a", "l", False, None)]
    write_shard(tmp_path / "a", "train", both, tokenizer, end, np.dtype("uint16"), None)
    tokens, borders = np.fromfile(tmp_path / "a" / "train.bin", dtype="uint16"), np.load(tmp_path / "a" / "train.offsets.npy")
    talk, plain = (tokens[first:last] for first, last in zip(borders[:-1], borders[1:], strict=True))
    assert (talk == end).sum() == 2 and (plain == end).sum() == 1 and plain[-1] == end
    assert tokenizer.decode(plain[:-1].tolist(), skip_special_tokens=False) == text


@pytest.mark.parametrize("put", ["begin", "end", "both", "none"])
def test_documents_begin_as_their_tokenizer_begins_a_text(corpus: Corpus, tmp_path: Path, put: str) -> None:
    """As Llama's does with a token of its own, and OPT's with that of the end, which the document before has left there."""
    from tokenizers import Tokenizer, processors
    from transformers import AutoTokenizer

    from planner.corpus.duplicates import Document
    from planner.corpus.shards import write_shard
    from planner.corpus.tokenizer import END, open_tokenizer

    shutil.copytree(corpus.tokenizer_path, tmp_path / "own")
    tokenizer = Tokenizer.from_file(str(tmp_path / "own" / "tokenizer.json"))
    tokenizer.add_special_tokens(["<s>"])
    form = {"begin": "<s> $A", "end": f"{END} $A", "both": f"<s> $A {END}", "none": "$A"}[put]
    tokenizer.post_processor = processors.TemplateProcessing(form, special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", END)])
    tokenizer.save(str(tmp_path / "own" / "tokenizer.json"))
    text = "a document that says <s> and more"
    opened, end = open_tokenizer(tmp_path / "own")
    write_shard(tmp_path / "a", "train", [Document(text, "a", "k", False, spans) for spans in (None, ((2, 4),))], opened, end, np.dtype("uint16"), None)
    tokens, borders = np.fromfile(tmp_path / "a" / "train.bin", dtype="uint16").tolist(), np.load(tmp_path / "a" / "train.offsets.npy")
    plain, talk = tokens[: borders[1]], tokens[borders[1] :]
    expected = AutoTokenizer.from_pretrained(tmp_path / "own")(text, split_special_tokens=True)["input_ids"]
    assert plain == expected[put == "end" :] + [end] * (put != "both")
    begin = opened.token_to_id("<s>")
    assert plain.count(begin) == (put in ("begin", "both")) and talk.count(begin) == 1 and plain.count(end) == talk.count(end) == 1


@pytest.mark.parametrize("model", ["WordLevel", "BPE"])
def test_documents_begin_so_whatever_letters_their_tokenizer_knows(model: str, tmp_path: Path) -> None:
    """As one of the four letters of DNA: a WordLevel without an unknown token refuses all others, a BPE passes over them."""
    from tokenizers import Tokenizer, models, processors

    from planner.corpus.duplicates import Document
    from planner.corpus.shards import write_shard

    vocab = {"<s>": 0, "</s>": 1, "G": 2}
    tokenizer = Tokenizer(models.WordLevel(vocab) if model == "WordLevel" else models.BPE(vocab, []))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    write_shard(tmp_path / "a", "train", [Document("G", "a", "k", False, None)], tokenizer, 1, np.dtype("uint16"), None)
    assert np.fromfile(tmp_path / "a" / "train.bin", dtype="uint16").tolist() == [0, 2, 1]


def test_subsets_are_nested_whole_documents(corpus: Corpus) -> None:
    borders = set(corpus.offsets("mail", "train").tolist())
    small, large = corpus.subset("mail", 5000), corpus.subset("mail", 20000)
    assert len(small) >= 5000 and len(small) in borders and len(large) in borders
    np.testing.assert_array_equal(large[: len(small)], small)
    assert corpus.subset("mail", np.inf).size == corpus.unique_tokens("mail")


def test_building_again_gives_the_same_corpus(corpus: Corpus, text_folder: Path, tmp_path: Path) -> None:
    again, new = build_corpus(settings(text_folder), tmp_path / "corpus")
    assert new and again.fingerprint == corpus.fingerprint
    assert not build_corpus(settings(text_folder), tmp_path / "corpus")[1]


def test_a_damaged_corpus_is_built_again_by_force(text_folder: Path, tmp_path: Path) -> None:
    """As the refusal of a damaged corpus advises; the settings are the same."""
    corpus, _ = build_corpus(settings(text_folder), tmp_path / "corpus")
    shard = corpus.folder / "mail" / "train.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="build the corpus again with plan corpus build --force"):
        corpus.check_shards(["mail"])
    assert build_corpus(settings(text_folder), corpus.folder, force=True)[1] and shard.read_bytes() == whole


def test_an_account_whose_domain_lies_elsewhere_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    inside = shutil.copytree(corpus.folder, tmp_path / "corpus")
    shutil.copytree(corpus.folder / "mail", tmp_path / "mail")
    body = json.loads((inside / "corpus.json").read_text())
    for name in ("../mail", str(tmp_path / "mail"), ".."):
        domains = {"general": body["domains"]["general"], name: body["domains"]["mail"]}
        (inside / "corpus.json").write_text(json.dumps({**body, "domains": domains}))
        with pytest.raises(InputError, match="names no folder"):
            Corpus.open(inside)


def test_a_tokenizer_that_has_changed_where_it_is_from_is_another_request(corpus: Corpus, text_folder: Path, tmp_path: Path) -> None:
    """As where another checkpoint has taken the place of the base that the corpus is for."""
    origin = tmp_path / "base"
    shutil.copytree(corpus.tokenizer_path, origin)
    wanted = replace(settings(text_folder), tokenizer=TokenizerSettings(path=str(origin)))
    before, new = build_corpus(wanted, tmp_path / "corpus")
    assert new and not build_corpus(wanted, tmp_path / "corpus")[1]
    body = json.loads((origin / "tokenizer.json").read_text())
    body["model"]["merges"] = body["model"]["merges"][:-1]
    (origin / "tokenizer.json").write_text(json.dumps(body))
    with pytest.raises(StateError, match="was built from other settings, sources or tokenizer files; give --force"):
        build_corpus(wanted, tmp_path / "corpus")
    assert build_corpus(wanted, tmp_path / "corpus", force=True)[0].fingerprint != before.fingerprint


def test_a_tokenizer_that_was_saved_cutting_and_filling_up_encodes_whole_documents(corpus: Corpus, text_folder: Path, tmp_path: Path) -> None:
    """transformers saves how its last call cut texts, and how it padded them."""
    origin = shutil.copytree(corpus.tokenizer_path, tmp_path / "base")
    body = json.loads((origin / "tokenizer.json").read_text())
    body["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    body["padding"] = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    (origin / "tokenizer.json").write_text(json.dumps(body))
    built, _ = build_corpus(replace(settings(text_folder), tokenizer=TokenizerSettings(path=str(origin))), tmp_path / "corpus")
    for domain in ("general", "mail"):
        assert np.array_equal(built.tokens(domain, "train"), corpus.tokens(domain, "train"))


def test_a_tokenizer_may_leave_numbers_out(corpus: Corpus, text_folder: Path, tmp_path: Path) -> None:
    """A model of the corpus needs a row for the largest of them, which is more than there are."""
    origin = shutil.copytree(corpus.tokenizer_path, tmp_path / "base")
    body = json.loads((origin / "tokenizer.json").read_text())
    last = max(body["model"]["vocab"], key=body["model"]["vocab"].get)
    body["model"]["vocab"][last] = 500
    (origin / "tokenizer.json").write_text(json.dumps(body))
    built, _ = build_corpus(replace(settings(text_folder), tokenizer=TokenizerSettings(path=str(origin))), tmp_path / "corpus")
    assert built.tokens("general", "train").max() == 500 and built.vocab_size == 501


def test_a_corpus_may_lie_behind_a_link(text_folder: Path, tmp_path: Path) -> None:
    """As on a larger disk: an empty folder is built in, the link stays, and force replaces what it points to."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "corpus"
    link.symlink_to("disk")
    for force in (False, True):
        assert build_corpus(settings(text_folder), link, force=force)[1]
        assert link.is_symlink() and Corpus.open(tmp_path / "disk").fingerprint == Corpus.open(link).fingerprint


def write(folder: Path, name: str, texts: list[bytes]) -> None:
    (folder / name).mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / name / f"{number}.txt").write_bytes(text)


MANY = [(" ".join(f"word{(k * j) % 977}" for j in range(300))).encode() for k in range(40)]


@pytest.mark.parametrize(
    ("special", "message"),
    [
        ([], "special"),
        ([b"alone " * 500], "only 1 document"),
        ([b"two words", b"two more"], "one batch"),
        ([b"good text " * 200, b"\xff\xfe\x00bad" * 50], "UTF-8"),
        (MANY, "also in the general text"),
    ],
    ids=["empty", "one document", "less than a batch", "undecodable", "the same as general"],
)
def test_bad_sources_are_refused_and_nothing_is_left(tmp_path: Path, special: list[bytes], message: str) -> None:
    write(tmp_path, "general", MANY)
    write(tmp_path, "special", special)
    sources = (Source("general", "txt", "general"), Source("mail", "txt", "special"))
    with pytest.raises(InputError, match=message) as caught:
        build_corpus(CorpusSettings(tmp_path, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.3), tmp_path / "out")
    assert caught.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["general", "special"]


def test_a_domain_whose_text_is_another_domains_is_told_of_the_copies(tmp_path: Path) -> None:
    for name in ("general", "special", "again"):
        write(tmp_path, name, [(b"general " if name == "general" else b"special ") + text for text in MANY])
    sources = tuple(Source(name, "txt", name) for name in ("general", "special", "again"))
    wanted = CorpusSettings(tmp_path, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.3, near_duplicates=False)
    with pytest.raises(InputError, match=r"again has 0 tokens in 0 documents \(40 of the 40 read are copies of others, in other domains too\)"):
        build_corpus(wanted, tmp_path / "out")


def test_heldout_text_that_a_long_document_ends_is_told_so(tmp_path: Path) -> None:
    short = [f"note {number}".encode() for number in range(40)]
    books = [b"book %d: " % number + b" ".join(MANY) for number in range(8)]
    heldout = [make_document(text.decode(), "mail", 0.5).heldout for text in (*short, *books)]
    assert True in heldout[:40] and True in heldout[40:]
    write(tmp_path, "general", MANY)
    write(tmp_path, "special", short + books)
    sources = (Source("general", "txt", "general"), Source("mail", "txt", "special"))
    wanted = CorpusSettings(
        tmp_path, sources, TokenizerSettings(vocab_size=300), heldout_fraction=0.5, heldout_tokens_max=2048, near_duplicates=False
    )  # fmt: skip
    with pytest.raises(InputError, match="the heldout text of mail has") as caught:
        build_corpus(wanted, tmp_path / "out")
    assert "raise heldout_tokens_max = 2048" in (caught.value.remedy or "")
