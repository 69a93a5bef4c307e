"""An open checkpoint on disk: its shape, its weights' fingerprint, and whether its tokenizer is a corpus's.

Imports no torch, except for families without a formula here, whose models are built without values and counted.

A checkpoint is a folder that `AutoModelForCausalLM.from_pretrained` loads: config.json, weights in safetensors, a fast tokenizer. Weights in other
formats are refused, since those can run code when they are read; so is a model that brings its own code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planner.artifacts import read_json
from planner.counted import counted_shape, read_config
from planner.errors import InputError
from planner.shapes import OPEN_FAMILIES, ModelShape

SAMPLE = 1 << 20
"""Bytes at the beginning, in the middle and at the end of a weight file that its fingerprint covers: reading 15 GB for each start would be slow."""
_BIASES = ("attention_bias", "mlp_bias")
"""Settings that the formulas of the families do not count."""
_STATED = {"mistral": ("num_key_value_heads",), "qwen2": ("num_key_value_heads",), "qwen3": ("num_key_value_heads", "head_dim")}
"""Settings by family whose defaults only transformers knows, where a configuration does not state them."""
_TOKENIZER_PARTS = ("model", "added_tokens", "normalizer", "pre_tokenizer")


@dataclass(frozen=True)
class Pretrained:
    """An open checkpoint to start from."""

    folder: Path
    """Folder of the checkpoint."""

    @classmethod
    def open(cls, folder: Path | str) -> Pretrained:
        """Open a checkpoint's folder.

        Raises:
            InputError: a folder without configuration or safetensors, a model that cannot be counted, a quantised one, adapters beside it, or code.
        """
        found = cls(Path(folder))
        if not (found.folder / "config.json").is_file():
            raise InputError(f"base {folder} has no config.json", remedy="name a folder that AutoModelForCausalLM.from_pretrained loads")
        refuse_adapters(found.folder)
        refuse_code(found.folder)
        assert found.shape and found.files and found.context  # each refuses what cannot be used
        return found

    @cached_property
    def shape(self) -> ModelShape:
        """Return its shape.

        Raises:
            InputError: its weights are quantised, its configuration is incomplete, or its model cannot be counted.
        """
        return shape_in(self.folder / "config.json")

    @cached_property
    def context(self) -> int:
        """Return the longest sequence it is made for [tokens].

        Raises:
            InputError: its configuration states no number of them.
        """
        return context_in(self.folder / "config.json", self.shape)

    @cached_property
    def files(self) -> list[Path]:
        """List its weight files.

        Raises:
            InputError: there are none in safetensors, or an index names files outside the folder.
        """
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            named = read_json(index).get("weight_map")
            names = sorted({str(name) for name in named.values()}) if isinstance(named, Mapping) else []
            for name in names:
                if Path(name).name != name or not name.endswith(".safetensors"):
                    raise InputError(f"{index} names {name!r}, which is no safetensors file of its folder", remedy="give a checkpoint as it was saved")
            files = [self.folder / name for name in names]
        else:
            files = [self.folder / "model.safetensors"]
        for file in files or [self.folder / "model.safetensors"]:
            if not file.is_file():
                raise InputError(
                    f"base {self.folder} has no {file.name}", remedy="give weights in safetensors; save others with save_pretrained first"
                )
        return files

    @cached_property
    def fingerprint(self) -> str:
        """Hash configuration, and names, sizes and samples of the weight files."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for path in self.files:
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as file:
                for start in sorted({0, max(0, size // 2 - SAMPLE // 2), max(0, size - SAMPLE)}):
                    file.seek(start)
                    digest.update(file.read(SAMPLE))
        return digest.hexdigest()[:16]

    def check_corpus(self, tokenizer: Path, vocab_size: int, seq_len: int) -> None:
        """Refuse a corpus of another tokenizer, or sequences that are too long.

        Args:
            tokenizer: the corpus's tokenizer folder.
            vocab_size: rows that the corpus needs.
            seq_len: of the recipe [tokens].

        Raises:
            InputError: the corpus was not made with this checkpoint's tokenizer.
        """
        if not same_tokenizer(tokenizer, self.folder):
            raise InputError(
                f"the corpus's tokenizer in {tokenizer} is not that of base {self.folder}",
                remedy=f"build the corpus with [tokenizer] path = {str(self.folder)!r} in corpus.toml",
            )
        if vocab_size > self.shape.vocab:
            rows = self.shape.vocab
            raise InputError(f"the corpus needs {vocab_size} rows of the embedding, and base {self.folder} has {rows}", remedy="give another base")
        if seq_len > self.context:
            longest = self.context
            raise InputError(f"seq_len = {seq_len} is longer than the {longest} positions of base {self.folder}", remedy="lower seq_len in the recipe")


def refuse_adapters(folder: Path) -> None:
    """Refuse a model with adapters beside it, which transformers would silently apply.

    Raises:
        InputError: there are some.
    """
    if (folder / "adapter_config.json").is_file():
        what = f"{folder} holds adapters beside a model (adapter_config.json)"
        raise InputError(what, remedy="move them to a folder of their own, or name that of the merged model")


def refuse_code(folder: Path) -> None:
    """Refuse a model whose configuration names code of its own: without it, transformers would silently use the family's code.

    Raises:
        InputError: it names some.
    """
    where = folder / "config.json"
    if where.is_file():
        _refuse_code_in(read_json(where), where)


def _refuse_code_in(config: Mapping[str, Any], where: Path) -> None:
    if named := config.get("auto_map"):
        what = f"{where} names code of the checkpoint's own (auto_map = {named!r}), which is never run"
        raise InputError(what, remedy="give a checkpoint of a family that transformers has; if this is one, remove auto_map in a copy of it")


def same_tokenizer(one: Path, other: Path) -> bool:
    """Tell whether two folders hold tokenizers that make the same tokens; files that were saved by other versions may differ in bytes.

    Raises:
        InputError: one of them has no tokenizer.json.
    """
    files = [folder / "tokenizer.json" for folder in (one, other)]
    for file in files:
        if not file.is_file():
            raise InputError(f"there is no {file}", remedy="give a folder with a fast tokenizer of transformers")
    if files[0].read_bytes() == files[1].read_bytes():
        return True
    first, second = (read_json(file) for file in files)
    return all(first.get(part) == second.get(part) for part in _TOKENIZER_PARTS)


def shape_in(where: Path) -> ModelShape:
    """Read a shape from a checkpoint's configuration; its weights need not be there.

    Args:
        where: its config.json.

    Raises:
        InputError: the weights are quantised, the configuration is incomplete or names code, or it is of a model that cannot be counted.
        MissingDependencyError: a family without a formula here, and torch or transformers is not installed.
    """
    config = read_json(where)
    if config.get("quantization_config"):
        what = f"{where} states quantization_config = {config['quantization_config']!r}, which is not supported"
        raise InputError(what, remedy="give a plain checkpoint")
    kind = str(config.get("model_type"))
    family, unsaid = OPEN_FAMILIES.get(kind), [key for key in _STATED.get(kind, ()) if config.get(key) is None]
    if family is None or unsaid or any(config.get(key) for key in _BIASES):
        _refuse_code_in(config, where)
        return counted_shape(where)
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            family,
            int(config["num_hidden_layers"]),
            hidden,
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or hidden // heads),
            int(config["intermediate_size"]),
            int(config["vocab_size"]),
            bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{where}: {error} is missing or no number in a checkpoint's configuration", remedy="give a complete config.json") from error


def context_in(where: Path, shape: ModelShape) -> int:
    """Return the longest sequence that a checkpoint is made for [tokens], 2^31 where its configuration states none.

    Raises:
        InputError: it states something other than a number of tokens.
    """
    stated = read_json(where).get("max_position_embeddings")
    if stated is None and shape.counted is not None:  # a family may use another name, or have a default
        config = read_config(where)
        stated = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    if stated is None:
        return 2**31
    if isinstance(stated, bool) or not isinstance(stated, int) or stated < 1:
        raise InputError(f"{where} states max_position_embeddings = {stated!r}", remedy="give a whole number of tokens, as the checkpoint was saved with")
    return stated
