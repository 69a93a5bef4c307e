"""The two figures that a fit leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.fit.data import FitData
from planner.fit.fitted import FittedLaw
from planner.report.law import cells, runs_of_a_size, size_slices, token_slices
from planner.report.residuals import forecasts, residuals
from planner.report.residuals import holdout as draw_holdout
from planner.report.style import save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def slices_page(file: Path, data: FitData, path: Path) -> None:
    """Draw slices through a law file's law and all runs of the fit; of a law of one stage the runs only.

    Where no runs lie on a slice, as in a table without a grid, residuals take its place. Arguments can be pickled.
    """
    law = FittedLaw.load(file)

    def draw(axes: Sequence[Axes]) -> None:
        if data.two_stage:
            if cells(data):
                size_slices(axes[0], law, data)
            else:
                residuals(axes[0], law, data, "params")
            if len(np.unique(data.tokens_spec[runs_of_a_size(data)[2]])) > 1:
                token_slices(axes[1], law, data)
            else:
                residuals(axes[1], law, data, "tokens_spec")
        forecasts(axes[-1], law, data)

    save(path, draw, panels=3 if data.two_stage else 1, width=5.6)


def holdout_page(file: Path, path: Path) -> None:
    """Draw the largest size, held out, against its forecast in a law's file."""
    law = FittedLaw.load(file)
    save(path, lambda axes: draw_holdout(axes[0], law), width=5.6, height=5.0)
