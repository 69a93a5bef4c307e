"""A loss in other units: perplexity, and bits per byte if the text's bytes per token are known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.allocate.allocation import Plan


@dataclass(frozen=True)
class LossUnits:
    """The forecast specialist loss of the recommended plan in other units."""

    perplexity: float
    """e to the loss."""
    perplexity_low: float
    perplexity_high: float
    """90 % interval of one run."""
    bits_per_byte: float | None
    """None if no run states the bytes per token."""
    bits_per_byte_low: float | None
    bits_per_byte_high: float | None


def loss_units(plan: Plan, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan's `LossUnits`; `source` is that of its law, with the `bytes_per_token` of its text if known."""
    losses = plan.loss, plan.loss_low, plan.loss_high
    perplexities = (math.exp(loss) if loss < math.log(1e300) else math.inf for loss in losses)
    nats = (source.get("bytes_per_token") or 0.0) * math.log(2)
    return asdict(LossUnits(*perplexities, *(loss / nats if nats else None for loss in losses)))
