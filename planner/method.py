"""How a run is trained, full-parameter, LoRA or QLoRA: what it costs in FLOPs and memory. Its effect on the loss is a law's.

"lora" and "qlora" adapt the specialist stage, after a full-parameter general one. "lora-both" and "qlora-both" train one set of adapters through both
stages, on an open checkpoint: their general stage differs from a full-parameter one, so they are methods of their own.

A multiply-add counts as two FLOPs. A frozen matrix has a forward pass and passes a gradient on, but has no weight gradient: 4 FLOPs per weight
and token, where a trained one has 6; its adapters have 6. QLoRA multiplies dequantised weights; the dequantising itself is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.errors import InputError
from planner.flops import flops_per_token
from planner.shapes import ModelShape

METHODS = ("full", "lora", "qlora", "lora-both", "qlora-both")
_BOTH = "-both"
"""Ending of the names of methods that adapt both stages."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of a layer that adapters sit on by default, as transformers names them; in a family with other names the default is all its linear layers."""
TRAINED_BYTES = 16.0
"""Per trained parameter: bfloat16 weight and gradient, float32 master copy and two moments of Adam (arXiv 1910.02054)."""
HALF_BYTES = 2.0
"""Per parameter that is kept in bfloat16."""
NF4_BYTES = (4 + 0.127) / 8
"""Per parameter in 4-bit NormalFloat with doubly quantised constants (arXiv 2305.14314)."""
LAYER_BYTES = 34.0
"""Activations that one layer keeps per token and unit of width, attention's scores being recomputed (arXiv 2205.05198)."""
LOGIT_BYTES = 10.0
"""Per token and entry of the vocabulary: the output in bfloat16, then it and its gradient in float32."""


@dataclass(frozen=True)
class Method:
    """One way to train a run; FLOPs and memory are those of its specialist stage, and `general` has those of the stage before."""

    name: str = "full"
    """"full", "lora" (arXiv 2106.09685) or "qlora" (arXiv 2305.14314); with "-both" the general stage has the adapters too."""
    rank: int = 16
    """Rank of the adapters."""
    targets: tuple[str, ...] = TARGETS
    """Matrices of each layer that the adapters sit on."""

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(f"method {self.name!r} is not known", remedy=f"choose one of {', '.join(METHODS)}")
        if self.rank < 1:
            raise InputError(f"a rank of {self.rank} adapts nothing", remedy="give a whole number from 1, such as 16")
        if not self.targets or not all(map(str.isidentifier, self.targets)) or len(set(self.targets)) < len(self.targets):
            what = f"adapter targets {', '.join(self.targets) or '(none)'} are not distinct names of matrices"
            raise InputError(what, remedy=f"choose among {', '.join(TARGETS)}, each once")

    @property
    def both(self) -> bool:
        """Whether the general stage has the adapters too."""
        return self.name.endswith(_BOTH)

    @property
    def general(self) -> Method:
        """Return how the general stage is trained."""
        return self if self.both else replace(self, name="full")

    @property
    def least_flops(self) -> float:
        """Least FLOPs per token and non-embedding parameter: a frozen one has no weight gradient."""
        return 6.0 if self.name == "full" else 4.0

    @property
    def quantised(self) -> bool:
        """Whether the frozen matrices are quantised to 4 bits."""
        return self.name.removesuffix(_BOTH) == "qlora"

    @property
    def adapters(self) -> str:
        """Describe the adapters in words."""
        return "all parameters" if self.name == "full" else f"adapters of rank {self.rank} on {', '.join(self.targets)}"

    def targets_in(self, shape: ModelShape) -> tuple[str, ...]:
        """Return the matrices of a shape that the adapters sit on; none in full.

        Raises:
            InputError: a target that the shape lacks, or that cannot be quantised.
        """
        layers = shape.linear_layers
        if self.name == "full":
            return ()
        targets = tuple(layers) if shape.counted is not None and self.targets == TARGETS else self.targets
        if missing := [target for target in targets if target not in layers]:
            what = f"a model of type {shape.family} has no matrix {missing[0]} for adapters to sit on"
            raise InputError(what, remedy=f"choose lora_targets among {', '.join(layers)}")
        if self.quantised and shape.counted is not None and (held := [target for target in targets if target in shape.counted.transposed]):
            what = f"{held[0]} of a model of type {shape.family} is stored transposed, and QLoRA packs linear layers only"
            raise InputError(what, remedy="train with full or lora, or choose other lora_targets")
        return targets

    def fits(self, shape: ModelShape) -> bool:
        """Tell whether a shape can be trained so."""
        try:
            self.targets_in(shape)
        except InputError:
            return False
        return True

    def trained(self, shape: ModelShape) -> int:
        """Count the parameters that are trained."""
        if self.name == "full":
            return shape.params_total
        return self.rank * sum(shape.linear_layers[target][1] for target in self.targets_in(shape))

    def under(self, shape: ModelShape) -> int:
        """Count the parameters of the matrices that adapters sit on; none in full."""
        return sum(shape.linear_layers[target][0] for target in self.targets_in(shape))

    def counts(self, shape: ModelShape) -> tuple[int, int, int]:
        """Count the parameters that are trained, those that are frozen in bfloat16, and those that are frozen in 4 bits."""
        quantised = self.under(shape) if self.quantised else 0
        return self.trained(shape), 0 if self.name == "full" else shape.params_total - quantised, quantised

    def flops_per_token(self, shape: ModelShape, seq_len: int) -> float:
        """Count the training FLOPs of one token in a sequence of `seq_len` tokens."""
        full = flops_per_token(shape, seq_len)
        if self.name == "full":
            return full
        return full - 2.0 * shape.matrices + 6.0 * self.trained(shape)

    def bytes_per_gpu(self, shape: ModelShape, gpus: int, seq_len: int) -> float:
        """Return the least memory that one GPU of several needs [bytes].

        All states are sharded evenly, except what each GPU holds whole. Left out: a layer's weights while they are gathered, and the framework's memory.
        """
        trained, frozen, _ = self.counts(shape)
        return (HALF_BYTES * frozen + TRAINED_BYTES * trained) / gpus + self.whole_bytes(shape, seq_len)

    def whole_bytes(self, shape: ModelShape, seq_len: int) -> float:
        """Return what every GPU holds whole, however many there are [bytes]: 4-bit matrices, as in the full-size run, and the activations of one sequence.

        Of the activations, only the layers' inputs are kept for the backward pass.
        """
        quantised = self.under(shape) if self.quantised else 0
        return NF4_BYTES * quantised + seq_len * (shape.hidden * (HALF_BYTES * shape.layers + LAYER_BYTES) + LOGIT_BYTES * shape.vocab)
