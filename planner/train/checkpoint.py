"""Training states on disk: trained weights, optimiser moments and the loop's own numbers, in one safetensors file.

With adapters, the frozen weights are not in it: they are in the trunk's state, or in the open checkpoint.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from planner.artifacts import publish, room
from planner.errors import StateError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's names for its moments."""


@dataclass
class LoopState:
    """What the loop carries beside weights and moments."""

    optimiser_steps: int = 0
    """Steps of the optimiser: over both stages since the fresh model or the open checkpoint, or since the adapters were added."""
    loss_smooth: float | None = None
    """Exponential average of the training loss [nats/token]."""
    loss_smooth_best: float | None = None
    """Its lowest value so far [nats/token]."""
    seconds: float = 0.0
    """Wall time spent on the path to this state."""


def save_state(path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, state: LoopState) -> None:
    """Write a state atomically.

    Raises:
        StateError: it cannot be written.
    """
    save_tensors(path, {name: tensor.contiguous() for name, tensor in tensors_of(model, optimiser).items()}, state)


def tensors_of(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return all tensors of a state by name: trained parameters and both moments, as live tensors; not the frozen weights under adapters."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in _trained(model):
        found[f"model.{name}"] = parameter.detach()
        for key in MOMENTS:
            if key in optimiser.state.get(parameter, {}):
                found[f"{key}.{name}"] = optimiser.state[parameter][key]
    return found


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], state: LoopState) -> None:
    """Write a state atomically, given its tensors with names as in `tensors_of`.

    Raises:
        StateError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # two machines may have the same process id
    try:
        save_file(tensors, temporary, metadata={"loop": json.dumps(asdict(state))})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        publish(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        remedy = f"{room(error, 'make room, or check its permissions')}; the same command continues"
        raise StateError(f"state {path} cannot be written: {error}", remedy=remedy) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> LoopState:
    """Read a state into a model and its optimiser.

    Raises:
        StateError: the file is missing, torn or of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            loop = LoopState(**json.loads(file.metadata()["loop"]))
            names = set(file.keys())
            with torch.no_grad():
                for name, parameter in _trained(model):
                    parameter.copy_(file.get_tensor(f"model.{name}"))
                    if f"exp_avg.{name}" in names:
                        optimiser.state[parameter] = {
                            "step": torch.tensor(float(loop.optimiser_steps), device=parameter.device),  # a fused AdamW accepts it on no other device
                            **{key: file.get_tensor(f"{key}.{name}").to(parameter.device) for key in MOMENTS},
                        }
    except Exception as error:  # safetensors raises its own kinds for torn files
        raise StateError(f"state {path} cannot be read: {error}", remedy="delete it; the same command then trains it again") from error
    return loop


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Read the weights of a state into a model, without the moments.

    Raises:
        StateError: the file is missing, torn or of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
    except Exception as error:
        raise StateError(f"state {path} cannot be read: {error}", remedy="delete it; the same command then trains it again") from error


def read_loop(path: Path) -> LoopState:
    """Read the loop's numbers of a state, without its tensors.

    Raises:
        StateError: the file is missing or torn.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return LoopState(**json.loads(file.metadata()["loop"]))
    except Exception as error:
        raise StateError(f"state {path} cannot be read: {error}", remedy="delete it; the same command then trains it again") from error


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
