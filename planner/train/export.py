"""Export a finished run as a checkpoint that `AutoModelForCausalLM.from_pretrained` loads, with its tokenizer; adapters merged, and separately too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from planner.artifacts import publish, room
from planner.corpus import Corpus
from planner.counted import read_config
from planner.errors import PlannerError
from planner.train.adapters import merged, save_adapters
from planner.train.checkpoint import load_state
from planner.train.job import Job
from planner.train.model import build_optimiser
from planner.train.start import dropouts, frozen_model, start_model

TRUNK = "{}-trunk"
"""Folder, beside that of the adapters, of the model under them, if that is not the open checkpoint itself."""


def export_checkpoint(job: Job, corpus: Corpus, out: Path, adapters: Path | None = None) -> None:
    """Write a checkpoint folder, completely or not at all. The caller holds the lock of the run's folder; leftovers of killed writers are deleted.

    Args:
        job: the run's last segment, whose state is on disk.
        corpus: for the tokenizer.
        out: folder to write.
        adapters: folder for the adapters alone, if the run trained any; the model under them goes beside it unless it is the unchanged open checkpoint.

    Raises:
        StateError: the state cannot be read.
        PlannerError: the checkpoint cannot be written.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # a checkpoint's shards are not what the user waits for
    model = start_model(job, corpus, drawn=job.segment.method != "full")
    load_state(job.state_path, model, build_optimiser(model, job.recipe, 0.0))
    if job.segment.method != "full":
        if adapters is not None:
            trunk = adapters.with_name(TRUNK.format(adapters.name)).resolve()
            # A general stage of all parameters may lie between the checkpoint and the adapters.
            under = job.base.resolve() if job.base is not None and job.frozen_state is None else trunk
            adapters.parent.mkdir(exist_ok=True)
            with _whole(adapters) as folder:
                save_adapters(model, folder, under)
            if under == trunk:
                _save(frozen_model(job, corpus), job, corpus, trunk)
        model = merged(model)
    _save(model, job, corpus, out)


def _save(model: torch.nn.Module, job: Job, corpus: Corpus, out: Path) -> None:
    saved: Any = model
    if job.base is not None:
        saved.config.use_cache = True  # off while it was trained, as dropout was
        for name, share in dropouts(read_config(job.base / "config.json")).items():
            setattr(saved.config, name, share)
    with _whole(out) as folder:
        saved.save_pretrained(folder)
        for file in corpus.tokenizer_path.iterdir():
            shutil.copyfile(file, folder / file.name)  # without its mode, which may be private or read-only


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a temporary folder that replaces `out` when complete; leftovers of killed writers are deleted, under the caller's lock."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    for left in out.parent.iterdir():
        name, _, number = left.name.rpartition(".")
        if name == f".{out.name}" and number.isdecimal():
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield temporary
        for file in temporary.glob("*.safetensors"):
            publish(file)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
    except (OSError, SafetensorError) as error:  # not a StateError: the state is sound and need not be trained again
        remedy = f"{room(error, 'make room, or check its permissions')}; the same command continues"
        raise PlannerError(f"checkpoint {out} cannot be written: {error}", remedy=remedy) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
