"""A stretch of training between two states, or between a state and an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from planner.design.cells import Cell
from planner.shapes import ModelShape


@dataclass(frozen=True)
class Segment:
    """A stretch of training between two states, or between a state and an endpoint."""

    segment_id: str
    """Unique name; states are filed under it."""
    parent_id: str | None
    """Segment whose last state this one starts from; None to start from a fresh model."""
    stage: str
    """"general" or "special": which text it trains on."""
    shape: ModelShape
    """Shape of the model."""
    size: float
    """Requested non-embedding parameters."""
    seed: int
    """Seed of initialisation and data order."""
    first_step: int
    """Steps of this stage already done when the segment begins."""
    last_step: int
    """Steps of this stage done when it ends."""
    steps_pt: int
    """General steps done before the specialist stage; for a general segment 0."""
    learning_rate: float
    """Peak rate."""
    warmup: bool
    """Whether this stage warms up: its optimiser is new."""
    cooldown_from: int | None = None
    """Step of this stage at which the cooldown begins; None at a constant rate."""
    cooldown_to: int | None = None
    """Step of this stage at which the rate reaches zero."""
    unique_spec: float | None = None
    """Cap on distinct specialist tokens."""
    replay_fraction: float = 0.0
    """Share of general tokens in the specialist stage."""
    early_fraction: float = 0.0
    """Share of specialist tokens in the general stage."""
    cell: Cell | None = None
    """The endpoint that this segment completes."""
    method: str = "full"
    """How it is trained, a name of `method.METHODS`; in a general segment "full" unless the method adapts both stages."""
    base: bool = False
    """Whether the run starts from an open checkpoint, not from a fresh model."""
    frozen_id: str | None = None
    """Segment whose last state the adapters adapt; None in full, and for adapters on an open checkpoint."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Name the segments whose states it needs."""
        return tuple(dict.fromkeys(name for name in (self.parent_id, self.frozen_id) if name is not None))

    @property
    def rewarms(self) -> bool:
        """Whether its warm-up is that of a new optimiser on trained weights."""
        return self.base or self.method != "full"

    @property
    def starts_adapters(self) -> bool:
        """Whether its adapters are new: it starts from the state that they adapt."""
        return self.method != "full" and self.parent_id == self.frozen_id

    @property
    def steps(self) -> int:
        """Count the optimiser steps."""
        return self.last_step - self.first_step

    @property
    def steps_by_stage(self) -> tuple[int, int]:
        """Count the general and the specialist steps that are done when it ends."""
        return (self.steps_pt, self.last_step) if self.stage == "special" else (self.last_step, 0)

    @property
    def shareable(self) -> bool:
        """Whether it is a part of a trunk that specialist domains can share."""
        return self.stage == "general" and self.cell is None and self.cooldown_to is None and self.early_fraction == 0
