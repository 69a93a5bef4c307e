"""Optional packages: one clear sentence where they are missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from planner.errors import MissingDependencyError

if TYPE_CHECKING:
    from planner.train.full.plan import Settings


def require_torch() -> None:
    """Refuse early, without importing torch, where it is missing: otherwise workers would fail one by one.

    Raises:
        MissingDependencyError: a package of the extra `train` is missing.
    """
    for name in ("torch", "transformers", "safetensors"):
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"the package {name} is needed for training and is not installed", remedy="pip install 'compute-allocation-planner[train]'"
            )


def require(package: str, extra: str) -> None:
    """Refuse early where a package of an extra is missing.

    Raises:
        MissingDependencyError: it is.
    """
    if find_spec(package) is None:
        raise MissingDependencyError(
            f"the package {package} is needed for --engine {extra} and is not installed",
            remedy=f"pip install 'compute-allocation-planner[train,{extra}]' here and on every node",
        )


def require_method(method: str) -> None:
    """Refuse early where the packages of a method are missing.

    Raises:
        MissingDependencyError: peft, or for quantised matrices bitsandbytes, is missing.
    """
    from planner.method import Method

    for name, extra, needed in (("peft", "methods", method != "full"), ("bitsandbytes", "qlora", Method(method).quantised)):
        if needed and find_spec(name) is None:
            raise MissingDependencyError(
                f"the package {name} is needed for method {method} and is not installed", remedy=f"pip install 'compute-allocation-planner[{extra}]'"
            )


def require_wandb(project: str | None, engine: str, address: str | None) -> None:
    """Refuse early, in a dry run too, where Weights & Biases is asked for but missing on this machine, where the ranks run.

    Raises:
        MissingDependencyError: it is not installed.
    """
    from planner.engines.event import on_this_machine

    if project is not None and on_this_machine(engine, address) and find_spec("wandb") is None:
        raise MissingDependencyError(f"--wandb {project} is asked for and wandb is not installed", remedy="pip install wandb, or leave it out")


def require_here(settings: Settings, engine: str, address: str | None) -> None:
    """Refuse early what the ranks on this machine would refuse later.

    Args:
        settings: of the ranks.
        engine: "local", "slurm" or "ray".
        address: of a Ray cluster, which is not this machine.

    Raises:
        MissingDependencyError: a package of the extra `train` is missing.
        InputError: a GPU is asked for and there is none.
    """
    from planner.engines.event import on_this_machine
    from planner.train.gpus import check_device

    if not on_this_machine(engine, address):
        return
    require_torch()
    check_device(settings.device)
