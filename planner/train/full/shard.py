"""The model sharded over the ranks: FSDP2 layer by layer, mixed precision, activations recomputed, torch.compile.

Only the first rank ever holds the whole model, on the host, where `start_model` initialises or reads it; the others get a layer at a time and
keep their shard. So a model may be as large as one host's memory, with any number of ranks on a host. Matrices quantised to 4 bits stay whole on every
rank: they have no gradient, and a shard of one could not be dequantised.
Ref: arXiv 2304.11277 (FSDP), arXiv 2410.06511 (the order: activations, compile, sharding).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from planner.corpus import Corpus
from planner.train.attention import unmasked
from planner.train.full.mesh import Ranks
from planner.train.full.plan import Settings
from planner.train.job import Job
from planner.train.matmul import placed, speed_up
from planner.train.probes import remember_probes
from planner.train.quantised import constants, multiply_in, quantised_weights, requantised
from planner.train.start import start_model


def build(job: Job, corpus: Corpus, ranks: Ranks, settings: Settings, *, drawn: bool = True) -> nn.Module:
    """Build the model that a stage begins with, ready to train on every rank.

    Args:
        job: the stage: the run's first, or that of adapters on a trunk.
        corpus: for the model's special tokens.
        ranks: over which it is sharded.
        settings: precision, activations, compile.
        drawn: whether to fill in its values; if not, a state of all its parameters must be read in afterwards.
    """
    unmasked()  # the first rank's model may refer to it
    whole = start_model(job, corpus, drawn=drawn) if ranks.first else None
    if whole is not None and settings.precision == "bf16":
        _halve_frozen(whole)
    if ranks.mesh is None:
        assert whole is not None
        model = placed(whole, ranks.device)
    else:
        model = ranks.told(_skeleton(whole) if whole is not None else None)
        if ranks.device.type == "cpu":
            speed_up(model)
    layers = decoder_layers(model, job.segment.shape.layers)
    backend = None if job.recipe.method(job.segment.method).quantised else settings.compile_backend
    if backend is not None:
        remember_probes()
    for layer in layers:
        if settings.checkpoint_activations:
            # Inside the layer's own call, so that FSDP's hooks stay outside: a layer is gathered once in the backward pass, then recomputed.
            layer.forward = _computed_again(layer.forward)
        if backend is not None:
            layer.compile(backend=backend)
    if ranks.mesh is None:
        return model
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    filler = _Filler(model, whole, ranks, drawn)
    for module in (*layers, model):
        filler.fill(module)
        fully_shard(module, mesh=ranks.mesh, mp_policy=policy, ignored_params=quantised_weights(module))
    multiply_in(model, dtype)
    return model


def gathered(model: nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Collect the trained weights, unsharded, on the first rank's host, a tensor at a time; other ranks return nothing."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        value = parameter.detach()
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if ranks.first:
            found[f"model.{name}"] = value.cpu().contiguous()
    return found


def decoder_layers(model: nn.Module, count: int) -> list[nn.Module]:
    """Return the model's decoder layers, wherever they lie inside it."""
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    assert found, "a decoder has a list of its layers"
    return list(found[0])


def _halve_frozen(model: nn.Module) -> None:
    """Keep frozen weights under adapters in bfloat16, in which they are used anyway: half the memory, and the same numbers to the bit."""
    for item in model.parameters():
        if not item.requires_grad and item.dtype == torch.float32:
            item.data = item.data.to(torch.bfloat16)


def _computed_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a layer's forward so that its activations are recomputed in the backward pass."""

    # A function of our own, since torch.compile traces into it; with torch's `checkpoint` in its place nothing would be compiled, silently.
    def again(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return again


def _skeleton(model: nn.Module) -> nn.Module:
    """Copy a model without the values of its parameters; what is tied stays tied, and buffers are kept."""
    memo: dict[int, Any] = {
        id(item): nn.Parameter(torch.empty(item.shape, dtype=item.dtype, device="meta"), requires_grad=item.requires_grad) for item in model.parameters()
    }
    for item in quantised_weights(model):  # its layer holds its constants too
        memo[id(cast(Any, item).quant_state)] = None
    return copy.deepcopy(model, memo)


class _Filler:
    """Gives a skeleton's modules the first rank's values, one module at a time."""

    def __init__(self, skeleton: nn.Module, whole: nn.Module | None, ranks: Ranks, drawn: bool) -> None:
        self._ranks, self._drawn = ranks, drawn
        self._names = {id(item): name for name, item in skeleton.named_parameters()}
        self._values = dict(whole.named_parameters()) if whole is not None else {}
        self._done: dict[int, nn.Parameter] = {}

    def fill(self, module: nn.Module) -> None:
        """Fill the parameters below a module that still have no values."""
        for part in module.modules():
            for key, item in list(part._parameters.items()):
                if item is not None and item.is_meta:
                    part.register_parameter(key, self._filled(item))

    def _filled(self, item: nn.Parameter) -> nn.Parameter:
        if id(item) not in self._done:
            stated = None
            if self._ranks.first and self._drawn:
                given = self._values.pop(self._names[id(item)])
                if item.dtype == torch.uint8:
                    stated = constants(given)
                value = given.data.to(self._ranks.device)
            else:
                value = torch.empty(item.shape, dtype=item.dtype, device=self._ranks.device)
            if self._drawn:
                dist.broadcast(value, src=0)
            if item.dtype == torch.uint8:
                self._done[id(item)] = requantised(value, self._ranks.told(stated))
            else:
                self._done[id(item)] = nn.Parameter(value, requires_grad=item.requires_grad)
        return self._done[id(item)]
