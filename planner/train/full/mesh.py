"""The ranks of a run: rank, device, process groups and the mesh that the model is sharded over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from planner.errors import InputError
from planner.train.full.plan import Settings
from planner.train.gpus import check_device

SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
"""Variables that torchrun sets, and those of srun that correspond."""

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the others: longer than torch's ten minutes, since the first may need them to initialise a large model."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of them."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None
    """None where one process trains an unsharded model."""
    cpu_group: Any = None
    """Group over which states are saved in the background; None for one process."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Add values up over all ranks."""
        if self.mesh is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def told(self, value: Any) -> Any:
        """Return the first rank's value on every rank."""
        if self.mesh is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.cpu_group)
        return box[0]


def join(settings: Settings, environment: Mapping[str, str], *, slurm: bool = False) -> Ranks:
    """Join the other ranks.

    Args:
        settings: for the device, the precision and the sharding.
        environment: variables RANK, WORLD_SIZE and LOCAL_RANK, as torchrun sets them; without them this is the only process.
        slurm: whether to read srun's variables instead.

    Raises:
        InputError: a GPU is asked for and there is none, or the ranks cannot be sharded as asked.
    """
    names = SLURM if slurm else {key: key for key in SLURM}
    missing = [name for name in names.values() if name not in environment]
    if slurm and missing:
        raise InputError(f"{missing[0]} is not set", remedy="start it with srun, as the rendered file does")
    rank, world, local = (int(environment.get(name, default)) for name, default in zip(names.values(), (0, 1, 0), strict=True))
    cuda = settings.device == "cuda"
    check_device(settings.device)
    if cuda:
        local %= torch.cuda.device_count()  # Slurm may show each task its own GPU alone
        torch.cuda.set_device(local)
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if world == 1 and settings.precision == "fp32":
        return Ranks(0, 1, device, None)
    if not dist.is_initialized():
        # Saving goes on over gloo while training goes on over nccl, so both must be there.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if world == 1:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE)
        else:
            dist.init_process_group(backend, rank=rank, world_size=world, timeout=PATIENCE)
    shard = settings.shard_ranks or world
    if world % shard:
        raise InputError(f"{world} ranks cannot be split into copies of {shard} ranks each", remedy="give --shard-ranks a number that divides the ranks")
    if shard == world:
        mesh = init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(device.type, (world // shard, shard), mesh_dim_names=("copy", "shard"))
    return Ranks(rank, world, device, mesh, dist.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
