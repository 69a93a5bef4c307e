"""`plan allocate --domains`: seconds for many domains, and split training against scipy's SLSQP on the same 10 domains at equal FLOPs.

Domains: the recorded laws `medicine`, `computing`, `nature` in turn, 50k to 2M distinct tokens, weights 0.5 to 2. scipy solves one fixed size after
another, from a grid, for the trunk and the amounts of all domains together, with numerical slopes and the stated number of starts. Both minimise the
weighted loss, averaged over the same resamples. scipy's amounts lie between the shortest stage and the most epochs: it cannot omit a stage, except
where it is told which domains have none in our answer. Both results are then forecast with all resamples.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.optimize import minimize

from benchmarks.common import ROOT, Report
from planner.allocate.domains.allocate import allocate_domains
from planner.allocate.domains.found import SPLIT, Found
from planner.allocate.domains.problem import MOST, DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.rounding import cooldown
from planner.allocate.domains.split import split
from planner.fit.fitted import FittedLaw

FLOPS = 2e14
SWEEPS = ("medicine", "computing", "nature")
COUNTS = (2, 10, 100, 1000)
SIZES, STARTS = 7, 2


def request(count: int, flops: float) -> DomainsRequest:
    """Make a request with domains of the recorded laws."""
    laws = [FittedLaw.load(ROOT / "sweeps" / name / "law.json") for name in SWEEPS]
    random = np.random.default_rng(0)
    unique, weights = np.exp(random.uniform(np.log(5e4), np.log(2e6), count)), random.uniform(0.5, 2, count)
    domains = (Domain(f"d{k}", laws[k % len(laws)], float(unique[k]), float(weights[k])) for k in range(count))
    return DomainsRequest(flops, tuple(domains))


def by_scipy(problem: DomainsProblem, size: int, random: np.random.Generator, starts: int, ours: Found | None = None, warm: bool = True) -> Found | None:
    """Solve for the trunk and all amounts of one size, from random starts or from our answer; given our answer, domains without a stage stay so."""
    total = problem.request.flops / float(problem.price[size])
    low, high = np.full(problem.count + 1, problem.least_stage / total), np.minimum(np.append(1e12, problem.most_spec) / total, 1.0)
    if ours is not None:
        bare = np.append(False, ours.tokens_spec == 0)
        low[bare] = high[bare] = 0.0
    if low.sum() > 1:
        return None
    # Domains without a stage use the trunk after a cooldown, which is paid for in addition to the branches.
    again = cooldown(problem) if ours is not None and (ours.tokens_spec == 0).any() else 0.0

    def value(parts: np.ndarray) -> float:
        loss = problem.expected(size, parts[0] * total, parts[1:, None] * total, MOST)[:, 0]
        return float(problem.weights @ np.where(np.isfinite(loss), loss, 20.0))

    best, least = None, np.inf
    for _ in range(starts):
        start = low + (1 - low.sum()) * random.dirichlet(np.append(float(problem.count), np.ones(problem.count)))
        if ours is not None and warm:
            start = np.append(ours.tokens_pt[0], ours.tokens_spec) / total
        limit = {"type": "ineq", "fun": lambda parts: 1.0 - parts.sum() - again * parts[0]}
        bounds = list(zip(low, high, strict=True))
        found = minimize(value, np.minimum(start, high), method="SLSQP", bounds=bounds, constraints=limit, options={"maxiter": 200, "ftol": 1e-9})
        if found.fun < least and found.x.sum() + again * found.x[0] <= 1 + 1e-6:
            best, least = found.x, float(found.fun)
    if best is None:
        return None
    numbers, price = np.full(problem.count, size), float(problem.price[size])
    trunk = float(best[0] * total)
    return Found(SPLIT, numbers, np.full(problem.count, trunk), best[1:] * total, trunk, best[1:] * total * price, trunk * price)


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    rows = []
    for count in COUNTS[:3] if report.quick else COUNTS:
        asked = request(count, FLOPS * max(1.0, count / 100))
        wall, used = time.perf_counter(), time.process_time()
        answer = allocate_domains(asked, allow_extrapolation=True)
        wall, used = time.perf_counter() - wall, time.process_time() - used
        found = [f"{structure.loss:.4f}" if structure.loss else "-" for structure in (*answer.structures, *answer.arms)]
        rows.append([count, f"{asked.flops:.0e}", f"{used:.2f}", f"{wall:.2f}", *found])
    report.say("the time target is 5 s for 100 domains, all structures and arms together, the reading of the laws aside")
    columns = ["domains", "FLOPs", "CPU-s", "wall s", "split", "independent", "mixed (assumed)", "equal parts", "no general text"]
    columns += ["no specialisation", "50/50", "90/10"]
    report.table("Weighted loss by structure [nats/token]", columns, rows)
    problem = DomainsProblem.of(request(10, FLOPS))
    random = np.random.default_rng(1)
    ours = split(problem)
    assert ours is not None
    used = time.process_time()
    split(problem)
    used = time.process_time() - used
    mine = float(problem.weights @ problem.losses(ours))
    best = int(ours.size[0])
    grid = np.linspace(0.3, 1, SIZES) * (len(problem.ladder) - 1)
    sizes = [best] if report.quick else np.unique(np.append(grid.astype(int), best))
    lines, spent = [], 0.0
    for size in sizes:
        seconds = time.process_time()
        found = by_scipy(problem, int(size), random, STARTS)
        seconds = time.process_time() - seconds
        spent += seconds
        loss = "-" if found is None else f"{float(problem.weights @ problem.losses(found)) - mine:+.6f}"
        lines.append([f"{problem.params[size]:.4g}", loss, f"{seconds:.2f}"])
    for name, starts, warm in (("told our stages", STARTS, False), ("told our stages, from ours", 1, True)):
        seconds = time.process_time()
        found = by_scipy(problem, best, random, starts, ours, warm)
        seconds = time.process_time() - seconds
        loss = "-" if found is None else f"{float(problem.weights @ problem.losses(found)) - mine:+.6f}"
        lines.append([f"{problem.params[best]:.4g}, {name}", loss, f"{seconds:.2f}"])
    report.table(f"10 domains, SLSQP with {STARTS} starts a size", ["size", "weighted loss above ours", "CPU-s"], lines)
    bare = int((ours.tokens_spec == 0).sum())
    report.say(f"ours: {mine:.6f} nats/token at {problem.params[best]:.4g} parameters in {used:.2f} CPU-s over all sizes, {bare} domains without a stage")
    report.say(f"scipy: {spent:.1f} CPU-s over these sizes")
    report.end()


if __name__ == "__main__":
    main()
