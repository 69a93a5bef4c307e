"""The training loss, plain or through torch.compile."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from planner.design.compiling import has_compiler
from planner.errors import PlannerWarning
from planner.train.chunked_cross_entropy import has_plain_head, head_loss
from planner.train.order import IGNORED
from planner.train.probes import remember_probes

MODELS = 256
"""Models that one process may compile, one after the other; beyond torch's own limit of eight they would run uncompiled."""

Loss: TypeAlias = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, bool], torch.Tensor]


def mean_loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, whole: bool) -> torch.Tensor:
    """Average the loss over the targets that count; a batch without any, of prompts alone, has a loss of zero and no gradient.

    Args:
        model: a causal language model of transformers.
        inputs: token ids, shape (sequences, tokens).
        targets: token ids, of the same shape; `order.IGNORED` does not count.
        whole: whether all of them count.
    """
    logits = model(input_ids=inputs).logits
    flat = logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1)
    if whole:
        return torch.nn.functional.cross_entropy(*flat)
    count = (targets != IGNORED).sum()
    return torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum") / count.clamp(min=1)


def _whole_loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, whole: bool) -> torch.Tensor:
    return head_loss(model, inputs, targets)


def loss_function(compiled: bool) -> Loss:
    """Return a segment's loss function: compiled if that is requested and this machine has a compiler."""
    return compiled_loss() if compiled and has_compiler() else mean_loss


@lru_cache
def compiled_loss(backend: str = "inductor") -> Loss:
    """Return the compiled mean loss, one function for all models of this process; if compiling fails, it falls back to the plain loss.

    The model is an argument, so that the next segment's model of the same shape reuses what was compiled for the first.
    """
    with _uncollected():
        import torch._dynamo.config as tracing
        import torch._inductor.config as compiling
        from torch._dynamo.exc import TorchDynamoException

        tqdm.set_lock(threading.RLock())  # torch's bar would use a lock shared by processes, which a killed worker leaves behind
        settings: Any = tracing
        settings.recompile_limit = settings.accumulated_recompile_limit = MODELS
        compiling.compile_threads = 1  # type: ignore[attr-defined]  # no further processes: the workers fill the cores already
        remember_probes()
        functions = [torch.compile(function, backend=backend, dynamic=False) for function in (mean_loss, _whole_loss)]
        gc.freeze()  # imported objects stay: later collections need not scan them
    broken = False
    last: Callable[[], torch.nn.Module | None] = lambda: None  # noqa: E731

    def loss_of(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, whole: bool) -> torch.Tensor:
        nonlocal broken, last
        if not broken:
            try:
                with nullcontext() if last() is model else _uncollected():  # the first step of a model may compile
                    result: torch.Tensor = functions[whole and has_plain_head(model)](model, inputs, targets, whole)
                last = weakref.ref(model)
                return result
            except TorchDynamoException as error:  # an incomplete compiler, or no disk space for its output
                broken = True
                first = next(iter(str(error).strip().splitlines()), type(error).__name__)
                warnings.warn(f"torch.compile failed, so this worker trains without it: {first}", PlannerWarning, stacklevel=2)
        return mean_loss(model, inputs, targets, whole)

    return loss_of


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection: scanning all that was imported takes a quarter of the time in which torch traces a model."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
