"""What the exports to both other trainers share: the run's schedule, the source of its rate, and what does not carry over."""

from __future__ import annotations

from dataclasses import dataclass

from planner.design.segment import Segment
from planner.launch.launch import Launch

ROPE_THETA = 10000.0
"""Base of the rotary embedding and epsilon of the norms in transformers' configurations of both families; a test compares them."""
NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class Schedule:
    """Steps of the run over both stages."""

    warmup: int
    general: int
    """Steps of general text; 0 for a run from scratch on specialist text."""
    total: int
    cooldown: int
    """Steps of the cooldown that ends the run."""

    @classmethod
    def of(cls, launch: Launch) -> Schedule:
        """Read it off the run's tree."""
        tip: Segment = launch.run.tree.tips[0]
        general, special = tip.steps_by_stage
        assert tip.cooldown_from is not None and tip.cooldown_to is not None
        return cls(launch.run.spec.recipe.warmup_steps, general, general + special, tip.cooldown_to - tip.cooldown_from)


def rate_source(launch: Launch) -> str:
    """Say where the rate comes from; the rates of the stages are the same, or there is one stage."""
    recipe, special = launch.run.spec.recipe, launch.run.tree.tips[0].stage == "special"
    multiplied = " x special_lr_multiplier" if special and recipe.special_lr_multiplier != 1 else ""
    return f"recipe.lr_coefficient, lr_exponent and lr_reference_params at plan.params_non_embedding{multiplied}"


def head(launch: Launch, mix: str) -> str:
    """Return comments on what was planned, and on what the other trainer does differently.

    Args:
        launch: the run.
        mix: how the other trainer is given a mix of two texts.
    """
    plan, recipe = launch.allocation.plan, launch.run.spec.recipe
    special = launch.run.tree.tips[0].stage == "special"
    replay = launch.allocation.replay_fraction if special else 0.0
    text = f"{plan.unique_spec:.0f} distinct tokens (plan.unique_spec), {plan.epochs_spec:.6g} passes over them (plan.epochs_spec)"
    lines = [
        f"Forecast of this plan: {plan.loss:.6g} nats/token, {plan.loss_low:.6g} to {plan.loss_high:.6g}, on the held-out text of its own corpus.",
        "It holds for the recipe of the sweep. Not carried over: the order of the data, the held-out split, and how documents are cut into sequences.",
        *([f"Specialist text: {text}. Cut the text to that: with more of the corpus it is another run."] if special else []),
        *([f"Mix {replay:.6g} of general text into the specialist stage (general.replay_fraction): {mix}."] if replay else []),
        "Comments name fields of allocation.json; those of recipe are under its source.",
        f"Recipe {recipe.fingerprint}.",
    ]
    return "\n".join(f"# {line}" for line in lines)
