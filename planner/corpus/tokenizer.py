"""A byte-level BPE tokenizer: trained on a stated mixture of training documents, or taken from a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.artifacts import read_json, write_text
from planner.errors import InputError, importing

END = "<|endoftext|>"
"""Put after each document by a tokenizer trained here."""
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
"""Files of an existing tokenizer, copied as they are."""


def train_tokenizer(texts: Mapping[str, Sequence[str]], shares: Mapping[str, float], vocab_size: int, max_characters: int, folder: Path) -> None:
    """Train and save a tokenizer that `AutoTokenizer.from_pretrained` loads.

    Args:
        texts: training documents by domain, in a stable order.
        shares: share of the characters to train on by domain.
        vocab_size: rows of the vocabulary, the end-of-text token included.
        max_characters: characters to train on, at most.
        folder: where to save it.

    Raises:
        InputError: the text has too few distinct pieces for so large a vocabulary.
    """
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    total = sum(shares.values())
    sample: list[str] = []
    for domain, documents in texts.items():
        left = max_characters * shares.get(domain, 0.0) / total
        for document in documents:
            if left <= 0:
                break
            sample.append(document[: int(left) + 1])
            left -= len(document)
    tokenizer.train_from_iterator(sample, trainer)
    realised = tokenizer.get_vocab_size()
    if realised < vocab_size:
        raise InputError(f"vocab_size = {vocab_size} is more than the text supports, {realised}", remedy="lower vocab_size or give more text")
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**9,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=1) + "\n")
    write_text(folder / "special_tokens_map.json", json.dumps({"eos_token": END, "pad_token": END}) + "\n")


def copy_tokenizer(origin: Path, folder: Path) -> None:
    """Copy an existing tokenizer's files.

    Raises:
        InputError: the folder holds no fast tokenizer.
    """
    if not (origin / "tokenizer.json").is_file():
        raise InputError(f"{origin} holds no tokenizer.json", remedy="give a folder with a fast tokenizer of transformers")
    folder.mkdir(parents=True)
    for name in FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)


def open_tokenizer(folder: Path) -> tuple[Any, int]:
    """Open a saved tokenizer, to encode whole documents; return it and the id of its end-of-text token.

    Raises:
        InputError: it cannot be read, or names no such token.
    """
    tokenizers = _library()
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception for a malformed file
        raise InputError(f"{folder / 'tokenizer.json'} cannot be read: {error}", remedy="give another tokenizer") from error
    # transformers saves truncation and padding settings with a tokenizer; documents need neither.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    named = config.get("eos_token")
    name = named.get("content") if isinstance(named, dict) else named
    end = tokenizer.token_to_id(name or END)
    if end is None:
        raise InputError(f"the tokenizer in {folder} has no end-of-text token", remedy="state eos_token in its tokenizer_config.json")
    return tokenizer, int(end)


def opening(tokenizer: Any, end: int) -> list[int]:
    """Return the tokens that a tokenizer puts before a text, such as Llama's and Gemma's begin-of-text token: a model that never saw a text without one
    predicts such a text badly.

    Empty if that is the end-of-text token, as in OPT's: the document before already ends with it.
    """
    tokenizers = _library()
    # Tried on a token of another vocabulary: this one may lack the letter, and would refuse it or leave nothing between beginning and end.
    encoded = tokenizer.post_process(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).encode("a"))
    ids: list[int] = encoded.ids[: encoded.special_tokens_mask.index(0)]
    return [] if ids == [end] else ids


def _library() -> Any:
    with importing("tokenizers"):
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    return tokenizers
