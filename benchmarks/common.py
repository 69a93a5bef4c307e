"""Shared by the benchmarks: where tables are, how CPU seconds are counted, how results are printed and saved.

Run a benchmark as a module from the root of the repository, for instance `OMP_NUM_THREADS=1 python -m benchmarks.bootstrap --out`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from planner.arrays import Array
from planner.fit.data import FitData
from planner.fit.scale import Scale
from planner.fit.solver import DELTA, huber
from planner.laws import LAWS, Law, Points, Reference

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLES = Path(os.environ.get("PLANNER_TABLES", ROOT.parent / "shared" / "data"))
# scipy's L-BFGS-B stops by absolute gains. The objective is of order 1e-3, so scipy gets it in units of UNIT, with tolerances that let it run to the end.
UNIT = 1e-3
LBFGS = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-12}


class Report:
    """Prints lines and, with --out, writes them to a file whose first line is the command."""

    def __init__(self, module: str, doc: str | None, more: Callable[[argparse.ArgumentParser], None] | None = None) -> None:
        self.name = Path(module).stem
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="less of everything; what is extrapolated says so")
        parser.add_argument("--out", nargs="?", type=Path, const=RESULTS / f"{self.name}.txt", help="also write to a file (results/ by default)")
        if more:
            more(parser)
        self.options = parser.parse_args()
        self.quick: bool = self.options.quick
        given = [item for item in sys.argv[1:] if item != str(self.options.out)]
        threads = os.environ.get("OMP_NUM_THREADS")
        command = f"{f'OMP_NUM_THREADS={threads} ' if threads else ''}python -m benchmarks.{self.name} {' '.join(given)}".rstrip()
        self._lines = [f"$ {command}"]
        self._speed = _microseconds()
        self._start = time.process_time()

    def say(self, text: str = "") -> None:
        """Print a line and keep it."""
        print(text, flush=True)
        self._lines.append(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table, the first column aligned left and the rest right."""
        cells = [list(columns), *([str(item) for item in row] for row in rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
        self.say()
        self.say(title)
        for number, row in enumerate(cells):
            padded = [cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))]
            self.say("  ".join(padded).rstrip())
            if number == 0:
                self.say("  ".join("-" * width for width in widths))

    def end(self) -> None:
        """Print the benchmark's own CPU time and the machine's speed (which differs by half between days), and write the file."""
        taken = time.process_time() - self._start
        self.say()
        speeds = f"exp of 20,000 numbers took {self._speed:.0f} µs before, {_microseconds():.0f} after"
        self.say(f"(the whole benchmark: {taken:.0f} CPU-s in this process; {speeds})")
        if self.options.out:
            self.options.out.parent.mkdir(parents=True, exist_ok=True)
            self.options.out.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
            print(f"written: {self.options.out}", file=sys.stderr)


def _microseconds() -> float:
    """Time a numpy operation on one core (median of many), so that results of different days can be compared."""
    values, taken = np.linspace(-1, 1, 20_000), []
    for _ in range(1000):
        start = time.perf_counter()
        np.exp(values)
        taken.append(time.perf_counter() - start)
    return 1e6 * float(np.median(taken))


def table(name: str) -> pd.DataFrame:
    """Read a public table, or exit with a one-sentence error."""
    path = TABLES / name
    if not path.is_file():
        print(f"the public table {name} is not here; set PLANNER_TABLES to its folder", file=sys.stderr)
        raise SystemExit(2)
    return pd.read_csv(path)


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call and its result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def chinchilla_rows() -> tuple[Array, Array, Array]:
    """Return N, D and ln L of Epoch's table without the 5 highest losses (arXiv 2404.10102)."""
    rows = table("chinchilla_epoch.csv").sort_values("loss").head(240)
    n, d, loss = (rows[name].to_numpy(float) for name in ("N", "D", "loss"))
    return n, d, np.log(loss)


def objective_for_scipy(law: Law, points: Points, log_loss: Array, weights: Array | float = 1.0, slopes: bool = True) -> Callable[[Array], Any]:
    """Return the summed Huber objective, in units of `UNIT`, as a function of the unbounded coordinates; with its gradient by default."""
    scale = Scale(law)

    def value_and_gradient(free: Array) -> tuple[float, Array]:
        theta, bend, _ = scale.bend(free[None])
        with np.errstate(all="ignore"):
            forecast, by = law.log_loss_and_slopes(theta, points)
        residual = log_loss - forecast[0]
        pull = weights * np.clip(residual, -DELTA, DELTA)
        value = float((weights * huber(residual, DELTA)).sum())
        return (value if np.isfinite(value) else 1e3) / UNIT, np.nan_to_num(-(by[0] * bend[0][:, None]) @ pull) / UNIT

    def value_only(free: Array) -> float:
        residual = log_loss - law.log_loss(scale.to_theta(free[None]), points)[0]
        return float((weights * huber(residual, DELTA)).sum()) / UNIT

    return value_and_gradient if slopes else value_only


SIZES = (2e4, 4e4, 8e4, 1.6e5, 3.2e5)
GENERAL = (0.0, 3.5e5, 9e5, 2e6, 4.5e6)
SPECIAL = ((0.0, np.nan), (2e5, 5e4), (8e5, 5e4), (4e5, 2e5), (1.6e6, 2e5), (8e5, 1.6e6))
REFERENCE = Reference(1e5, 1e6)
COMMON = {"E": 1.0, "A": 0.25, "B": 0.35, "α": 0.3, "β": 0.35, "κ": 0.15, "ρ": 0.8, "η": 0.05, "L0": 7.0, "c": 0.8, "R*": 12.0, "γ": 0.3, "d0": 0.4,
          "s0": 0.15, "C": 0.9, "P": 0.01, "δ": 1.0, "κ_P": 0.5, "λ_P": 0.5, "G": 1.0, "R_D*": 12.0, "R_N*": 5.0, "q": 3.0, "ι": 0.02}  # fmt: skip
TRUTHS: dict[str, dict[str, float]] = {
    "multiplicative-saturating": {"B": 2.5}, "additive-saturating": {"B": 0.7}, "gap-competing": {"P": 0.3, "δ": 0.5, "q": 5.0},
    "root-": {"A": 5.6, "b": 0.46, "α": 0.5, "G": 24.0, "s0": 0.014, "p0": 5.0, "P": 2.1, "q": 4.4},
    "ceiling-": {"A": 2.5, "b": 0.49, "α": 0.35, "β": 0.3, "G": 7.0, "s0": 0.006, "p0": 5.0, "L0": 12.5, "P": 1.45, "q": 6.3},
    "floor-": {"E": 0.9, "A": 1.6, "b": 0.46, "α": 0.45, "G": 5.8, "s0": 0.011, "p0": 5.0, "L0": 12.5, "P": 0.76, "q": 5.1},
    **{
        f"{form}-overfit": {"P": 5e-4, "λ": 1.3, "k": 6.4}
        for form in ("root", "root-near", "ceiling", "ceiling-near", "ceiling-two", "floor", "floor-near")
    },
}  # fmt: skip
"""Differences of a law's truth from `COMMON`, by the start of the law's name; those of the joint laws are near the values fitted to *medicine*."""


def truth_of(law: Law) -> Array:
    """Return the true parameters of a law's synthetic tables."""
    known = COMMON | {name: value for start, values in TRUTHS.items() if law.name.startswith(start) for name, value in values.items()}
    return np.array([known[parameter.name] for parameter in law.parameters])


def one_stage_cells() -> tuple[Array, Array, Array, Array]:
    """Lay out 6 sizes × 7 token counts; N, D_pt, D_spec, U."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(2e5, 2e7, 7)))
    return n, d, np.zeros_like(n), np.full_like(n, np.nan)


def two_stage_cells() -> tuple[Array, Array, Array, Array]:
    """Lay out 5 sizes × 5 general stages × 6 specialist stages, without the cells that train on nothing (145 rows); N, D_pt, D_spec, U."""
    grid = [(n, pt, spec, unique) for n in SIZES for pt in GENERAL for spec, unique in SPECIAL if pt + spec > 0]
    n, pt, spec, unique = (np.array(column) for column in zip(*grid, strict=True))
    return n, pt, spec, unique


def repeat_cells() -> tuple[Array, Array, Array, Array]:
    """Lay out 5 sizes × 4 amounts of distinct text × 5 numbers of epochs, all on one corpus; N, D_pt, D_spec, U."""
    grid = [(n, 0.0, unique * passes, unique) for n in SIZES for unique in (2e5, 6e5, 2e6, 6e6) for passes in (1, 2, 4, 10, 25)]
    n, pt, spec, unique = (np.array(column) for column in zip(*grid, strict=True))
    return n, pt, spec, unique


def cells_of(law: Law) -> tuple[Array, Array, Array, Array]:
    """Lay out the runs that suit a law."""
    return two_stage_cells() if law.stages == 2 else repeat_cells() if law.repeats else one_stage_cells()


def synthetic(
    law: Law, truth: Array, random: np.random.Generator, noise: float, trunk: float = 0.0, cells: tuple[Array, ...] | None = None,
    seeds: int = 0,
) -> FitData:  # fmt: skip
    """Draw a synthetic table from a known law.

    Args:
        law: the law.
        truth: its parameters, in units of `REFERENCE`.
        random: random generator.
        noise: standard deviation of ln L of a run.
        trunk: standard deviation of the noise that all runs off one trunk share; a run from scratch is its own trunk.
        cells: N, D_pt, D_spec, U; the law's own layout by default.
        seeds: 0 for a trunk at each D_pt; otherwise all runs of a size branch off one trunk, and the middle size is repeated with this many seeds.
    """
    n, pt, spec, unique = cells_of(law) if cells is None else cells
    seed = np.zeros(len(n))
    if seeds > 1:
        middle = n == np.unique(n)[len(np.unique(n)) // 2]
        again = np.concatenate([np.arange(len(n)), *(np.flatnonzero(middle) for _ in range(seeds - 1))])
        n, pt, spec, unique = (values[again] for values in (n, pt, spec, unique))
        seed = np.concatenate([seed, *(np.full(int(middle.sum()), number) for number in range(1, seeds))])
    if seeds:
        keys = n * 1e3 + seed
    else:
        keys = np.where((pt > 0) & (law.stages == 2), n * 1e3 + np.log1p(pt), -1.0 - np.arange(len(n)))
    cluster = np.unique(keys, return_inverse=True)[1]
    shared = trunk * random.normal(size=cluster.max() + 1)[cluster]
    log_loss = law.log_loss(truth[None], Points(REFERENCE, n, pt, spec, unique))[0] + shared + noise * random.normal(size=len(n))
    between = None
    if seeds > 1:
        same = np.unique(np.stack([n, pt, spec, np.nan_to_num(unique)]), axis=1, return_inverse=True)[1].ravel()
        groups = [log_loss[same == group] for group in np.unique(same) if (same == group).sum() > 1]
        between = float(np.sqrt(sum(group.var() * len(group) for group in groups) / sum(len(group) - 1 for group in groups)))
    return FitData([str(k) for k in range(len(n))], {"non_embedding": n}, pt, spec, unique, log_loss, 6 * n * (pt + spec), cluster, between)


__all__ = ["LAWS", "LBFGS", "REFERENCE", "Report", "cells_of", "chinchilla_rows", "cpu", "objective_for_scipy", "synthetic", "table", "truth_of"]
