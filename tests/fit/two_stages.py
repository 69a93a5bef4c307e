"""Runs of a truth of a two-stage law on one grid: five sizes, five amounts of general text, six of specialist text."""

from __future__ import annotations

import numpy as np

from planner.fit.data import FitData
from planner.laws import Law, Points, Reference

SPECIAL = ((0.0, np.nan), (2e5, 5e4), (8e5, 5e4), (4e5, 2e5), (1.6e6, 2e5), (8e5, 1.6e6))
"""Specialist tokens, and distinct ones."""


def two_stages(law: Law, truth: tuple[float, ...], reference: Reference, noise: float, seed: int) -> FitData:
    """Draw the runs, each on a trunk of its own, with noise of a deviation in ln L."""
    grid = [
        (n, pt, spec, unique)
        for n in (2e4, 4e4, 8e4, 1.6e5, 3.2e5) for pt in (0.0, 3.5e5, 9e5, 2e6, 4.5e6) for spec, unique in SPECIAL if pt + spec >= 2 * n
    ]  # fmt: skip
    n, pt, spec, unique = (np.array(column) for column in zip(*grid, strict=True))
    off = noise * np.random.default_rng(seed).normal(size=len(n))
    log_loss = law.log_loss(np.array([truth]), Points(reference, n, pt, spec, unique))[0] + off
    return FitData([f"r{k}" for k in range(len(n))], {"non_embedding": n}, pt, spec, unique, log_loss, 6 * n * (pt + spec), np.arange(len(n)), None)
