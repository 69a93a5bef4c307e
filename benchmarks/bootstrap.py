"""4,000 bootstraps of Chinchilla's law on Epoch's 240 rows: CPU time, standard errors against the published ones, and whether any
resample ended with a higher objective than scipy's.

Rows are drawn with replacement, as in arXiv 2404.10102, whose standard errors of E, α and β are printed for comparison. Some resamples (all of
them with --all) are also fitted by L-BFGS-B, with an analytic gradient for this law and run to the end, twice: from the solution on all rows,
where ours starts, and from our answer.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from benchmarks.chinchilla import loss_and_gradient
from benchmarks.common import LAWS, LBFGS, UNIT, Report, chinchilla_rows, cpu
from planner.arrays import Array
from planner.fit.estimate import estimate
from planner.fit.resample import draw_weights, fit_weighted
from planner.laws import Points, Reference

PUBLISHED = {"E": 0.0257, "α": 0.0154, "β": 0.0206}
"""Standard errors from 4,000 bootstraps, arXiv 2404.10102."""
TARGET = 2.2
"""CPU seconds for 4,000 resamples."""
WORSE = 1e-9
"""Relative excess over scipy's objective that counts as worse."""


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__, lambda parser: parser.add_argument("--all", action="store_true", help="check every resample with scipy"))
    count = 1000 if report.quick else 4000
    checked = count if report.options.all else 50 if report.quick else 400
    n, d, log_loss = chinchilla_rows()
    law, reference = LAWS["chinchilla"], Reference(1e9, 1e10)
    points = Points(reference, n, d, 0.0, np.nan)
    best = estimate(law, points, log_loss, np.random.default_rng(0))
    weights = draw_weights(np.arange(len(n)), count, "multinomial", np.random.default_rng(1))
    seconds, (theta, values) = cpu(lambda: fit_weighted(law, points, log_loss, weights, best.theta[None]))
    chosen = np.sort(np.random.default_rng(2).permutation(count)[:checked])
    # scipy gets sizes and tokens as ratios to the reference, so that its problem is as well scaled as ours.
    ratios = n / reference.params, d / reference.tokens

    def scipy(k: int, start: Array) -> float:
        found = minimize(loss_and_gradient(*ratios, log_loss, weights[k]), start, jac=True, method="L-BFGS-B", options=LBFGS)
        return float(found.fun) * UNIT

    logs = np.concatenate([np.log(theta[:, :3]), theta[:, 3:]], axis=1)
    start = np.append(np.log(best.theta[:3]), best.theta[3:])
    taken, warm = cpu(lambda: [scipy(k, start) for k in chosen])
    excess, polished = values[chosen] / np.array(warm) - 1, values[chosen] / np.array([scipy(k, logs[k]) for k in chosen]) - 1
    ours, scipys = seconds * 4000 / count, taken * 4000 / checked
    rows = [["planner, one batch", f"{ours:.2f}", "1", f"{count} run; target {TARGET}"]]
    rows.append(["scipy L-BFGS-B, one by one, from the same place", f"{scipys:.1f}", f"{scipys / ours:.1f}", f"{checked} run"])
    report.table("CPU seconds for 4,000 resamples" + (", extrapolated" if report.quick else ""), ["method", "CPU-s", "ratio", ""], rows)
    rows = []
    for number, parameter in enumerate(law.parameters):
        low, high = np.quantile(theta[:, number], [0.025, 0.975])
        published = f"{PUBLISHED[parameter.name]:.4f}" if parameter.name in PUBLISHED else ""
        rows.append([parameter.name, f"{best.theta[number]:.4f}", f"{theta[:, number].std(ddof=1):.4f}", published, f"{low:.4f} to {high:.4f}"])
    report.table("Standard errors (A and B at N0 = 1e9, D0 = 1e10)", ["parameter", "value", "SE", "published SE", "95 % interval"], rows)
    rows = [
        ["scipy from the solution on all rows", f"{excess.max():+.1e}", int((excess > WORSE).sum()), int((excess < -WORSE).sum())],
        ["scipy from our answer", f"{polished.max():+.1e}", int((polished > WORSE).sum()), int((polished < -WORSE).sum())],
    ]
    report.table(
        f"Objective of {checked} resamples against scipy's, relative", ["against", "largest excess", f"ours worse by > {WORSE:g}", "scipy worse"], rows
    )
    report.end()


if __name__ == "__main__":
    main()
