"""The model of a segment before its parent's state is read in: a fresh one or an open checkpoint, with adapters if those are its method."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from planner.corpus import Corpus
from planner.counted import one_line, read_config
from planner.errors import InputError
from planner.pretrained import refuse_adapters, refuse_code
from planner.shapes import ModelShape
from planner.train.adapters import adapted
from planner.train.attention import attention_of
from planner.train.checkpoint import load_weights
from planner.train.job import Job
from planner.train.model import build_model

_DROPS = ("drop", "jitter")
"""Parts of configurations' names for dropout and jitter."""
_GLANCE = 12
"""Tokens on which a loaded model is tested for seeing later tokens."""


def start_model(job: Job, corpus: Corpus, *, drawn: bool = True) -> torch.nn.Module:
    """Return the model of a segment, in fp32 on the CPU, as it is when its run begins.

    Frozen parameters have `requires_grad` off. With adapters that is all else, and the trunk's weights are read in already.

    Args:
        job: the segment's.
        corpus: for the model's special tokens.
        drawn: whether to initialise a fresh model; unneeded if a state of all its parameters is read next.

    Raises:
        InputError: the open checkpoint cannot be used.
        StateError: the trunk's state cannot be read.
    """
    segment = job.segment
    model = frozen_model(job, corpus, drawn=drawn)
    return model if segment.method == "full" else adapted(model, segment.shape, job.recipe, segment.method, segment.seed)


def frozen_model(job: Job, corpus: Corpus, *, drawn: bool = True) -> torch.nn.Module:
    """Return the model under the adapters; without adapters, what `start_model` returns."""
    segment = job.segment
    if job.base is None:
        model = build_model(segment.shape, job.recipe, segment.seed, token_ids=corpus.token_ids, drawn=drawn)
    else:
        model = open_checkpoint(job.base, segment.shape)
    if job.frozen_state is not None:
        load_weights(job.frozen_state, model)
    return model


def open_checkpoint(folder: Path, shape: ModelShape | None = None) -> torch.nn.Module:
    """Load a checkpoint that `AutoModelForCausalLM` loads, in fp32 on the CPU, without dropout; from safetensors only, and without code of its own.

    Args:
        folder: of the checkpoint.
        shape: the shape that its FLOPs were counted with; its parameters must add up to that of the model.

    Raises:
        InputError: it cannot be loaded, adapters or code of its own lie beside it, or it has other parameters than its shape.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    refuse_adapters(folder)
    refuse_code(folder)
    logging.disable_progress_bar()
    config = read_config(folder / "config.json")
    for name in dropouts(config):
        setattr(config, name, 0.0)  # the recipe has no dropout, which would also be unseeded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers warns of its own deprecations while it loads
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True,
                attn_implementation=attention_of(config),
            )  # fmt: skip
    except Exception as error:  # the library raises many kinds
        what = f"checkpoint {folder} cannot be loaded: {one_line(error)}"
        raise InputError(what, remedy="give a folder as save_pretrained writes it, in safetensors") from error
    if missing := sorted(found["missing_keys"]):  # which the library would fill with random numbers
        what = f"{len(missing)} of the weights that its config.json asks for, such as {missing[0]}"
        raise InputError(f"checkpoint {folder} lacks {what}", remedy="give a folder as save_pretrained writes it, in safetensors")
    if shape is not None and shape.counted is not None:
        refuse_foresight(model, folder)
    model.config.use_cache = False  # training and held-out losses need no cache of keys
    counted = sum(parameter.numel() for parameter in model.parameters())
    if shape is not None and counted != shape.params_total:
        raise InputError(
            f"checkpoint {folder} has {counted} parameters, but its config.json gives {shape.params_total}", remedy="give a plain checkpoint of its family"
        )
    return model


def refuse_foresight(model: torch.nn.Module, where: Path) -> None:
    """Refuse a loaded model whose outputs change with later tokens: its losses would mean nothing.

    Raises:
        InputError: they do, or it cannot be run on a few tokens.
    """
    decoder: Any = model
    count = int(decoder.config.vocab_size)
    words = torch.arange(_GLANCE)[None] % count
    other = words.clone()
    other[0, -1] = (other[0, -1] + 1) % count
    try:
        with torch.no_grad():
            first, second = (decoder(input_ids=item, use_cache=False).logits[0, :-1] for item in (words, other))
    except Exception as error:
        raise InputError(f"checkpoint {where} cannot be run on text alone: {one_line(error)}", remedy="give a text decoder") from error
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4 * float(first.abs().max())):
        raise InputError(f"checkpoint {where} sees later tokens: it is no causal decoder", remedy="give one whose outputs depend on earlier tokens alone")


def dropouts(config: Any) -> dict[str, float]:
    """Return a configuration's dropout and jitter rates, by its family's names for them."""
    stated = {key: value for key, value in vars(config).items() if isinstance(value, float) and not key.startswith("_")}
    return {key: value for key, value in stated.items() if any(part in key for part in _DROPS)}
