"""Matrix products by oneDNN where MKL is slow: on AMD's processors with AVX-512 MKL uses only AVX2, and oneDNN, also in torch, takes half the time.

Measured on one core (1,024 rows, 160 and 448 wide): 110 GFLOP/s by MKL, 250 by oneDNN. A call costs 10 µs more, so small products stay with MKL.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch

_Model = TypeVar("_Model", bound=torch.nn.Module)

LEAST_MULTIPLICATIONS = 8e6
"""Multiplications in a product from which oneDNN pays off."""
LONG, NARROW = 512, 64
"""If the inner dimension is LONG or more, as in a weight's gradient, oneDNN pays off only if the result has NARROW rows and columns or more."""


def _mkl_is_slow() -> bool:
    about: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    amd = "AMD" in about.get("cpu_name", "") and bool(about.get("avx512_f"))
    return amd and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


MKL_IS_SLOW = _mkl_is_slow()
"""Whether this processor uses oneDNN; a constant, since torch.compile reads it while tracing."""


@torch.library.custom_op("planner::product", mutates_args=())  # type: ignore[untyped-decorator]
def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply in fp32 on a CPU by oneDNN, whatever the memory layout; shapes as in `matmul`."""
    if not (right.is_contiguous() or right.T.is_contiguous()):  # a strided or expanded one would take a thousand times as long
        right = right.contiguous()
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right.T, None, "none", [], "")
    return result


@product.register_fake  # type: ignore[untyped-decorator]
def _(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left.new_empty(*left.shape[:-1], right.shape[1])


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    left, right = inputs
    of_left, of_right = (item.requires_grad for item in inputs)
    ctx.save_for_backward(left if of_right else None, right if of_left else None)  # frozen weights need no activations kept


def _slopes(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    left, right = ctx.saved_tensors
    of_right = None if left is None else matmul(left.flatten(0, -2).T, slope.flatten(0, -2))
    return None if right is None else matmul(slope, right.T), of_right


product.register_autograd(_slopes, setup_context=_keep)


def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply matrices, in fp32 on a CPU with the faster library.

    Args:
        left: shape (..., inner).
        right: shape (inner, columns).
    """
    if not _pays(left, right):
        return left @ right
    # oneDNN copies a transposed first matrix, as in a weight's gradient, so the smaller of the two goes first.
    turned = left.ndim == 2 and not left.is_contiguous() and right.numel() <= left.numel()
    return product(right.T, left.T).T if turned else product(left, right)


def _pays(left: torch.Tensor, right: torch.Tensor) -> bool:
    inner, columns = right.shape
    rows = left.numel() // max(1, inner)
    large = left.ndim > 1 and rows * inner * columns >= LEAST_MULTIPLICATIONS and (inner < LONG or min(rows, columns) >= NARROW)
    return MKL_IS_SLOW and large and left.dtype == right.dtype == torch.float32 and left.device.type == "cpu"


class _Linear(torch.nn.Linear):
    """A linear layer that multiplies with the faster library."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Multiply by the weight, and add the bias where there is one."""
        if not _pays(input, self.weight.T):
            return super().forward(input)
        result = product(input, self.weight.T)
        return result if self.bias is None else result + self.bias


def placed(model: _Model, device: torch.device | str) -> _Model:
    """Move a model to a device and return it; on a CPU its linear layers, names and type kept, multiply with the faster library."""
    if torch.device(device).type == "cpu":
        speed_up(model)
    model.to(device)
    return model


def speed_up(model: torch.nn.Module) -> None:
    """Make a model's linear layers multiply with the faster library."""
    for module in model.modules() if MKL_IS_SLOW else ():
        if type(module) is torch.nn.Linear:
            module.__class__ = _Linear
