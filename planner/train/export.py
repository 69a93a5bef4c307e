"""A finished run as a checkpoint that `AutoModelForCausalLM.from_pretrained` loads, its tokenizer beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from planner.corpus import Corpus
from planner.recipe import Recipe
from planner.shapes import ModelShape
from planner.train.checkpoint import load_state
from planner.train.model import build_model, build_optimiser


def export_checkpoint(state: Path, shape: ModelShape, recipe: Recipe, corpus: Corpus, out: Path) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        state: the run's last state.
        shape: its shape.
        recipe: its recipe.
        corpus: for the tokenizer and its special tokens.
        out: folder to write.

    Raises:
        StateError: the state cannot be read.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # a checkpoint's shards are not what the user waits for
    model = build_model(shape, recipe, 0, token_ids=corpus.token_ids)
    load_state(state, model, build_optimiser(model, recipe, 0.0))
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)  # type: ignore[operator]
        for file in corpus.tokenizer_path.iterdir():
            shutil.copy2(file, temporary / file.name)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
