"""The planned run as a configuration for another trainer: torchtitan or Megatron-LM. Every number states its source."""

from __future__ import annotations

import math
import re
from pathlib import Path

from planner.artifacts import write_text
from planner.errors import InputError
from planner.launch.export_common import Schedule
from planner.launch.export_megatron import megatron
from planner.launch.export_torchtitan import torchtitan
from planner.launch.launch import Launch

TARGETS = ("torchtitan", "megatron")


def export(launch: Launch, target: str, out: Path, ranks: int, micro_batch: int, *, dry_run: bool = False) -> Path:
    """Write the configuration.

    Args:
        launch: the run.
        target: one of `TARGETS`.
        out: launch folder; the file lies beside it.
        ranks: data-parallel ranks.
        micro_batch: sequences per forward pass of a rank.
        dry_run: whether to write nothing and only check.

    Returns:
        The file.

    Raises:
        InputError: the other trainer cannot express the run, or the batch cannot be split as requested.
    """
    _check(launch, target, ranks, micro_batch)
    name = re.sub(r"\W", "_", out.name)
    path = out.parent / f"{name}_{'torchtitan.py' if target == 'torchtitan' else 'megatron.sh'}"
    text = torchtitan(launch, micro_batch) if target == "torchtitan" else megatron(launch, ranks, micro_batch)
    if not dry_run:
        write_text(path, text)
    return path


def _check(launch: Launch, target: str, ranks: int, micro_batch: int) -> None:
    """Refuse what the other trainer would train differently, or not at all."""
    recipe = launch.run.spec.recipe
    if launch.run.spec.bases:
        raise InputError(
            f"--export {target} writes a run from scratch, and this plan starts from the open checkpoint {launch.run.spec.bases[0]}",
            remedy="omit --export and train it with plan launch",
        )
    rates = {segment.learning_rate for segment in launch.run.tree.segments}
    if len(rates) > 1:
        raise InputError(
            f"recipe.special_lr_multiplier = {recipe.special_lr_multiplier:g} gives each stage a rate of its own, and {target} takes the second stage's "
            "from the first one's checkpoint",
            remedy="omit --export and train it with plan launch, or plan with a recipe in which it is 1",
        )
    _check_warmup(launch, target)
    passes = ranks * micro_batch
    if recipe.batch_sequences % passes:
        raise InputError(
            f"{ranks} rank{'s' * (ranks != 1)} x a micro-batch of {micro_batch} sequences do not divide the batch of {recipe.batch_sequences}",
            remedy=f"give --micro-batch {math.gcd(micro_batch, recipe.batch_sequences // ranks)}",
        )


def _check_warmup(launch: Launch, target: str) -> None:
    """Refuse a warm-up that is longer than the general stage or reaches into the cooldown: both trainers have one schedule over both stages.

    Raises:
        InputError: the other trainer's rates would not be the recipe's.
    """
    steps = Schedule.of(launch)
    constant = steps.total - steps.cooldown
    if 0 < steps.general < min(steps.warmup, steps.total):
        what = f"the {steps.general} steps of the general stage, and {target} would go on warming up where the recipe is at its peak"
    elif steps.warmup > constant:
        what = f"the {constant} steps before the cooldown, and {target} would train at other rates from there on"
    else:
        return
    raise InputError(
        f"recipe.warmup_steps = {steps.warmup} is more than {what}",
        remedy="omit --export and train it with plan launch, or plan with a recipe of a shorter warm-up",
    )
