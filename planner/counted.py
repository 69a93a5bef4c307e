"""The shape of a checkpoint whose family has no formula here: its model is built without values, and its modules are counted.

Decoders of attention and linear layers can be counted, mixtures of experts included. Refused are recurrences and convolutions, whose cost their weights
do not show, models that attend to an encoder, and models that see the tokens they predict. Imports torch only where a model is counted.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.errors import InputError, MissingDependencyError
from planner.native import refuse_fetched
from planner.shapes import Counted, ModelShape

_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
"""Settings that state, in one family or another, the number of experts a token is sent to."""
_EXPERTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Last names of layers that, in a mixture of experts, peft takes for the experts' own and adapts differently: they get no adapters here."""
_UNLIKE = {
    "xlstm": "it is a recurrence",
    "llama4_text": "all its experts are multiplied by every token",
    "longcat_flash": "some of the experts that a token is sent to multiply nothing",
    "diffllama": "it attends with two sets of scores, over values of twice the width",
    **dict.fromkeys(("dory", "hrm_text"), "its layers are applied more than once"),
}
"""Families whose modules do not show their cost."""
_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_PARTS = ("encoder_attn", "cross_attn", "crossattention", "vision", "indexer")
"""Parts of the names of modules that attend to another input, or that select what is attended to at a cost of their own."""

LONGEST = 300
"""Most characters of a library's message that are shown."""


def read_config(where: Path) -> Any:
    """Read a checkpoint's config.json with the defaults of its family, without running code of the checkpoint.

    Raises:
        InputError: the library knows no such family, or the numbers do not fit each other.
        MissingDependencyError: transformers is not installed.
    """
    refuse_fetched()
    try:
        from transformers import AutoConfig
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        what = f"{where} can only be read with transformers, which is not installed"
        raise MissingDependencyError(what, remedy="pip install 'compute-allocation-planner[train]'") from error
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of special tokens, of which a corpus has its own
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the library raises many kinds
        raise InputError(f"{where} cannot be read: {one_line(error)}", remedy="give a folder as save_pretrained writes it") from error
    finally:
        logging.set_verbosity(before)


def counted_shape(where: Path) -> ModelShape:
    """Count the modules of the model that a checkpoint's config.json describes; its weights are not read.

    Raises:
        InputError: no causal language model, or one with modules whose FLOPs cannot be counted.
        MissingDependencyError: torch or transformers is not installed.
    """
    config = read_config(where)
    import torch
    from transformers import AutoModelForCausalLM

    try:
        _refuse_unlike(config, where)
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # of the library's own deprecations
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return _shape(model, config, where)
    except InputError:
        raise
    except Exception as error:  # the library raises many kinds
        what = f"{where} describes no causal language model that can be counted: {one_line(error)}"
        raise InputError(what, remedy="give a checkpoint that AutoModelForCausalLM loads, of text alone") from error


def _refuse_unlike(config: Any, where: Path) -> None:
    """Refuse models whose modules do not show their cost, and models that are not causal decoders of text."""
    kind = str(config.model_type)
    if kind in _UNLIKE:
        raise _uncountable(where, config, _UNLIKE[kind])
    if config.get_text_config() is not config:
        raise _uncountable(where, config, "it reads more than text")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise _uncountable(where, config, "it attends to an encoder")
    if getattr(config, "is_decoder", None) is False and not kind.startswith("gpt_neox"):  # which are decoders all the same
        raise _uncountable(where, config, "it is no decoder (is_decoder = false)")
    if unknown := set(getattr(config, "layer_types", None) or ()) - _LAYERS:
        raise _uncountable(where, config, f"it has layers of type {', '.join(sorted(unknown))}")


def _shape(model: Any, config: Any, where: Path) -> ModelShape:
    heads, hidden, layers = (_whole(config, name) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    if not heads or not hidden or not layers:
        raise _uncountable(where, config, "it states no attention heads, width or layers")
    counted, widest = _count(model, config, where)
    kv_heads = _whole(config, "num_key_value_heads")
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    return ModelShape(
        str(config.model_type), layers, hidden, heads, kv_heads if kv_heads and heads % kv_heads == 0 else heads,
        _head_dim(config, hidden // heads), widest, int(config.vocab_size), tied, counted,
    )  # fmt: skip


def one_line(error: Exception) -> str:
    """Return a library's message on one line, cut where it goes on for too long."""
    told = " ".join(str(error).split()) or type(error).__name__
    return told if len(told) <= LONGEST else f"{told[:LONGEST]}…"


def _count(model: Any, config: Any, where: Path) -> tuple[Counted, int]:
    """Count parameters by what they do; return them, and the width of the widest layer."""
    tally = _Tally(where, config, model.get_output_embeddings())
    for name, module in model.named_modules():
        if any(part in name.lower() for part in _PARTS):
            raise _uncountable(where, config, f"it has {name}")
        for parameter in module._parameters.values():
            if parameter is not None:
                tally.add(name, module, parameter)
    return tally.counted(), tally.widest


@dataclass
class _Tally:
    """Parameters counted so far, by what they do; the fields are those of `Counted`."""

    where: Path
    config: Any
    output: Any
    """The output layer; None where there is none."""
    total: int = 0
    embedding: int = 0
    matrices: int = 0
    idle: int = 0
    widest: int = 0
    """Width of the widest layer."""
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    transposed: dict[str, None] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    """Parameters counted already, since some are shared between modules."""

    def add(self, name: str, module: Any, parameter: Any) -> None:
        """Count one parameter of a module; refuse one whose cost is not known."""
        from torch import nn

        kind, size = type(module).__name__, parameter.numel()
        fresh = 0 if id(parameter) in self.seen else size
        self.seen.add(id(parameter))
        self.total += fresh
        if isinstance(module, nn.Embedding):
            self.embedding += fresh
        elif parameter.ndim == 1 or "Experts" in kind and parameter.ndim == 2:
            pass  # norms, biases
        elif module is self.output:
            self.embedding += fresh
            self.matrices += size
        elif parameter.ndim == 2 and (isinstance(module, nn.Linear) or kind == "Conv1D" or kind.endswith("Router")):  # Conv1D: GPT-2's linear layer
            self._add_layer(name.rpartition(".")[2], kind, parameter)
        elif parameter.ndim == 3 and "Experts" in kind:
            self._add_experts(parameter)
        else:
            raise _uncountable(self.where, self.config, f"{name} is a {kind}")

    def _add_layer(self, last: str, kind: str, parameter: Any) -> None:
        """Count the matrix of a linear layer by its last name; a router is multiplied too, but is no layer for adapters."""
        self.matrices += parameter.numel()
        self.widest = max(self.widest, *parameter.shape)
        if kind == "Conv1D":
            self.transposed[last] = None
        if not kind.endswith("Router"):
            weights, sides = self.layers.get(last, (0, 0))
            self.layers[last] = weights + parameter.numel(), sides + sum(parameter.shape)

    def _add_experts(self, parameter: Any) -> None:
        """Count the matrices of all experts of a layer, shape (experts, width, width)."""
        if not (chosen := _chosen(self.config)):
            raise _uncountable(self.where, self.config, f"it states none of {', '.join(_CHOSEN)}, the number of experts a token is sent to")
        experts, size = parameter.shape[0], parameter.numel()
        used = size // experts * min(chosen, experts)
        self.matrices += used
        self.idle += size - used
        self.widest = max(self.widest, *parameter.shape[1:])

    def counted(self) -> Counted:
        """Return the counts; in a mixture of experts without the layers in `_EXPERTS`."""
        layers = tuple((name, *numbers) for name, numbers in self.layers.items() if not self.idle or name not in _EXPERTS)
        return Counted(self.total, self.embedding, self.matrices, layers, self.idle, tuple(self.transposed))


def _whole(config: Any, name: str) -> int:
    """Return a positive number of a configuration; 0 where it states none."""
    stated = getattr(config, name, None)
    return stated if isinstance(stated, int) and stated > 0 else 0


def _chosen(config: Any) -> int:
    """Return how many experts a token is sent to; 0 where that is not stated."""
    return next(filter(None, (_whole(config, name) for name in _CHOSEN)), 0)


def _head_dim(config: Any, usual: int) -> int:
    """Return the width of a head; where keys and values differ in width (latent attention, arXiv 2405.04434) their mean, which costs the same."""
    keys, values = _whole(config, "qk_head_dim"), _whole(config, "v_head_dim")
    return math.ceil((keys + values) / 2) if keys and values else _whole(config, "head_dim") or usual


def _uncountable(where: Path, config: Any, why: str) -> InputError:
    what = f"{where}: the FLOPs of a checkpoint of type {config.model_type!r} cannot be counted: {why}"
    return InputError(what, remedy="give a decoder of attention and linear layers, such as a Llama, Qwen, Mistral, Gemma, OLMo, Pythia or GPT-2")
