"""Faults put into a run for tests; nothing of the planner reads them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from planner.train import rows
from planner.train.full import loop

WAIT = "wait"
"""Seconds added to each step."""
FACTORS = "factors"
"""Factors on the loss, as [stage, batch number, factor]; "nan" is one."""
LOGITS = "logits"
"""Bytes that the logits of a pass may take before the loss is computed in parts."""


def install(faults: dict[str, Any], patch: Callable[[object, str, object], None] = setattr) -> None:
    """Put the faults in.

    Args:
        faults: see the constants.
        patch: what sets an attribute; a test gives its monkeypatch.
    """
    step, loss = loop.Training._step, loop.batch_loss
    factors = {(stage, number): float(factor) for stage, number, factor in faults.get(FACTORS, [])}
    now = [0, 0]

    def step_with_faults(self: loop.Training, stage: int, number: int, rate: float) -> tuple[float | None, float, bool, bool]:
        now[:] = stage, number
        time.sleep(faults.get(WAIT, 0.0))
        return step(self, stage, number, rate)

    def loss_with_faults(*arguments: Any) -> Any:
        return loss(*arguments) * factors.get((now[0], now[1]), 1.0)

    patch(rows, "LOGITS_BYTES", faults.get(LOGITS, rows.LOGITS_BYTES))
    patch(loop.Training, "_step", step_with_faults)
    patch(loop, "batch_loss", loss_with_faults)
