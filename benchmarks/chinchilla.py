"""Time to fit Chinchilla's law to Epoch's 240 rows (arXiv 2404.10102): ours against the tools in common use.

All minimise Σ Huber_1e-3 of ln L. (a) the notebooks' way: L-BFGS-B with finite differences from a grid of 4,500 starts;
(b) the same starts with an analytic gradient for this law; (c) the PyPI package `chinchilla`: BFGS with
finite differences from the same grid. Ours is `planner.fit.estimate.estimate` with its defaults, over many seeds of its starts.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from benchmarks.common import LAWS, UNIT, Report, chinchilla_rows, cpu
from planner.arrays import Array
from planner.fit.estimate import STARTS, estimate
from planner.fit.solver import DELTA, huber
from planner.laws import Points, Reference

BEST = 1.0182741e-3
"""The objective after a refit from the published parameters, rounded up."""
OPTIONS = {"maxiter": 5000, "ftol": 1e-10, "gtol": 1e-9}
"""For (b), whose objective is in units of 1e-3; it stops when a step gains less than 1e-10 of the objective."""
GRID = {
    "e": [-1.0, -0.5, 0.0, 0.5, 1.0], "a": [0.0, 5.0, 10.0, 15.0, 20.0, 25.0], "b": [0.0, 5.0, 10.0, 15.0, 20.0, 25.0],
    "alpha": [0.0, 0.5, 1.0, 1.5, 2.0], "beta": [0.0, 0.5, 1.0, 1.5, 2.0],
}  # fmt: skip


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    n, d, log_loss = chinchilla_rows()
    grid = np.array(list(itertools.product(*GRID.values())))
    few = grid[np.random.default_rng(0).permutation(len(grid))[:60]] if report.quick else grid
    # The package scales its coordinates by the range of its grid, so a smaller grid keeps the ends.
    corners = {name: [axis[0], axis[2], axis[-1]] if name in "ab" else [axis[0], axis[-1]] for name, axis in GRID.items()}
    package = corners if report.quick else GRID
    timed = {count: _ours(n, d, log_loss, 20 if report.quick else 100, count) for count in (1, 4, STARTS)}
    ours, values, agree = timed[STARTS]
    rows = [
        [f"planner, {count} starts, median", f"{1e3 * seconds:.1f} ms", f"{max(worst):.9e}", f"{seconds / ours:.2f}", f"the worst of {len(worst)} seeds"]
        for count, (seconds, worst, _) in timed.items()
    ]
    tried: list[tuple[str, Callable[[], float], int]] = [
        ("(a) L-BFGS-B, finite differences", lambda: _finite(n, d, log_loss, few), len(few)),
        ("(b) L-BFGS-B, analytic gradient", lambda: _analytic(n, d, log_loss, few), len(few)),
    ]
    if find_spec("chinchilla"):
        tried.append(("(c) PyPI chinchilla", lambda: _package(n, d, log_loss, package), int(np.prod([len(axis) for axis in package.values()]))))
    else:
        report.say("(c) is left out: pip install chinchilla")
    for name, run, starts in tried:
        seconds, value = cpu(run)
        whole = seconds * len(grid) / starts
        note = f"{starts} starts" if starts == len(grid) else f"{starts} of {len(grid)} starts: time extrapolated, objective of those few"
        rows.append([name, f"{whole:.1f} s", f"{value:.9e}", f"{whole / ours:,.0f}", note])
    report.table("Chinchilla's law, 240 rows", ["method", "CPU time", "objective", "ratio to ours", ""], rows)
    report.say()
    report.say(f"ours: {sum(value <= BEST for value in values)} of {len(values)} seeds reach {BEST:.7e}; {agree:.1f} of {STARTS} starts agree on average")
    report.end()


def _ours(n: Array, d: Array, log_loss: Array, repeats: int, starts: int) -> tuple[float, list[float], float]:
    points = Points(Reference(1e9, 1e10), n, d, 0.0, np.nan)
    found = [cpu(lambda seed=seed: estimate(LAWS["chinchilla"], points, log_loss, np.random.default_rng(seed), starts=starts)) for seed in range(repeats)]
    return float(np.median([seconds for seconds, _ in found])), [item.objective for _, item in found], float(np.mean([x.starts_agree for _, x in found]))


def _forecast(free: Array, log_n: Array, log_d: Array) -> tuple[Array, Array, Array, Array, Array]:
    e, a, b, alpha, beta = free
    size, data = a - alpha * log_n, b - beta * log_d
    most = np.maximum(np.maximum(size, data), e)
    size, data, rest = np.exp(size - most), np.exp(data - most), np.exp(e - most)
    total = size + data + rest
    return most + np.log(total), size, data, rest, total


def _finite(n: Array, d: Array, log_loss: Array, starts: Array) -> float:
    log_n, log_d = np.log(n), np.log(d)

    def value(free: Array) -> float:
        return float(huber(log_loss - _forecast(free, log_n, log_d)[0], DELTA).sum())

    return min(float(minimize(value, start, method="L-BFGS-B").fun) for start in starts)


def loss_and_gradient(n: Array, d: Array, log_loss: Array, weights: Array | float = 1.0) -> Callable[[Array], tuple[float, Array]]:
    """Return the summed Huber objective of this law, in units of `UNIT`, with its gradient in (ln E, ln A, ln B, α, β)."""
    log_n, log_d = np.log(n), np.log(d)

    def value(free: Array) -> tuple[float, Array]:
        forecast, size, data, rest, total = _forecast(free, log_n, log_d)
        residual = log_loss - forecast
        pull = weights * np.clip(residual, -DELTA, DELTA) / total
        by_a, by_b = pull * size, pull * data
        gradient = np.array([-(pull * rest).sum(), -by_a.sum(), -by_b.sum(), by_a @ log_n, by_b @ log_d])
        return float((weights * huber(residual, DELTA)).sum()) / UNIT, gradient / UNIT

    return value


def _analytic(n: Array, d: Array, log_loss: Array, starts: Array) -> float:
    value = loss_and_gradient(n, d, log_loss)
    return min(float(minimize(value, start, jac=True, method="L-BFGS-B", options=OPTIONS).fun) * UNIT for start in starts)


def _package(n: Array, d: Array, log_loss: Array, grid: dict[str, list[float]]) -> float:
    """Fit with the package, in this process. It averages what its loss function returns, so the function multiplies by the rows to give the sum."""
    from chinchilla import Chinchilla

    def log_huber(measured: Any, forecast: Any) -> Any:
        return len(n) * huber(np.log(measured) - np.log(forecast), DELTA)

    logging.getLogger("chinchilla").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        model = Chinchilla(folder, param_grid=grid, loss_fn=log_huber, log_level=50)
        model.visualizer.optim = lambda *args, **kwargs: None
        model.database.df = pd.DataFrame({"C": 6 * n * d, "N": n, "D": d, "loss": np.exp(log_loss)})
        model.fit(parallel=False)
    forecast = model.E + model.A / n**model.alpha + model.B / d**model.beta
    return float(huber(log_loss - np.log(forecast), DELTA).sum())


if __name__ == "__main__":
    main()
