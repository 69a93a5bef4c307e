"""`plan allocate --domains` under a limit on the general loss, against brute force in whole steps: random requests of two domains.

Both domains have the recorded law `computing` and its law of the general loss. Budget, texts, weights, the kind of limit and its tightness are random;
in every third request general text is scarce. The brute force tries 60 sizes with a grid of trunks, of divisions of the rest between the branches, and
of budget left unused. From the best plans of eight sizes, and from our plan, it then moves size, trunk and branches as long as the loss falls, in steps
of 64 down to 1; every plan is evaluated under all resamples, with the least replay that keeps the limit. Independent models are compared with
`plan allocate` for each domain alone, with the budget divided in 24 ways and 13 more around the best. Excess is relative, of the weighted loss.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np

from benchmarks.common import ROOT, Report
from planner.allocate.allocate import allocate
from planner.allocate.domains.general_limit import branch_replay
from planner.allocate.domains.independent import independent
from planner.allocate.domains.left_over import with_less
from planner.allocate.domains.problem import EVERY, DomainsProblem
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.domains.rounding import cooldown
from planner.allocate.domains.split import split
from planner.allocate.replay_cost import cost
from planner.allocate.request import Request
from planner.errors import DataError
from planner.fit.fitted import FittedLaw

REQUESTS, OF_INDEPENDENT = 18, 6
SIZES, STARTS, ROUGHLY = 60, 8, 24
TRUNKS = np.array([0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 0.95, 1.0])
PARTS = np.concatenate([[0.0], np.linspace(0.02, 0.98, 25), [1.0]])
USED = (1.0, 0.97, 0.85, 0.5)
MOVES = np.array(list(itertools.product((0, -1, 1, -3, 3), *[(-1, 0, 1)] * 3)))


def requests(count: int) -> list[DomainsRequest]:
    """Draw requests."""
    folder, random = ROOT / "sweeps" / "computing", np.random.default_rng(0)
    law, general = FittedLaw.load(folder / "law.json"), FittedLaw.load(folder / "replay" / "law_general.json")

    def drawn(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    asked = []
    for number in range(count):
        domains = tuple(Domain(name, law, drawn(6e4, 2e6), float(random.uniform(0.3, 2)), general_law=general) for name in "ab")
        rise, loss, scarce = drawn(0.01, 0.3), drawn(3.4, 4.2), drawn(5e5, 5e6)
        limits = ({"max_general_rise": rise}, {"max_general_loss": loss}, {"max_general_rise": rise, "general_tokens": scarce})[number % 3]
        asked.append(replace(DomainsRequest(drawn(1e13, 3e14), domains), **limits))  # type: ignore[arg-type]
    return asked


def value(problem: DomainsProblem, plans: np.ndarray, most: int) -> np.ndarray:
    """Return the weighted loss of each plan, infinite if it breaks the budget or the limit; a row is size, trunk, two branches, shape (plans, 4)."""
    size, trunk, spec = plans[:, 0].astype(int), plans[:, 1], plans[:, 2:].T
    share = branch_replay(problem, size[None], trunk[None], spec, 0.0)
    stages = spec / (1 - share)
    again = np.where((spec == 0).any(0) & (spec > 0).any(0), cooldown(problem), 0.0)
    used = trunk * (1 + again) + (problem.spec_cost[:, size] * stages).sum(0)
    good = np.isfinite(share).all(0) & (used <= problem.tokens(size) * (1 + 1e-9)) & (spec <= problem.most_spec[:, None] * (1 + 1e-9)).all(0)
    good = np.flatnonzero(good & (trunk + (stages - spec).max(0) <= problem.general_tokens * (1 + 1e-9)))
    found = np.full(len(plans), np.inf)
    loss = problem.expected(size[good][None], (trunk + stages - spec)[:, good], spec[:, good], most, replay=share[:, good])
    found[good] = np.where(np.isfinite(loss).all(0), problem.weights @ np.where(np.isfinite(loss), loss, 0.0), np.inf)
    return found


def allowed(problem: DomainsProblem, plans: np.ndarray) -> np.ndarray:
    """Move plans to existing sizes and whole steps, with a trunk of at least the shortest stage, and branches of at least that or none."""
    size, spec = np.clip(plans[:, :1], 0, len(problem.ladder) - 1), problem.whole(np.minimum(plans[:, 2:], problem.most_spec))
    trunk = problem.whole(np.maximum(plans[:, 1:2], problem.least_stage))
    return np.hstack([size, trunk, np.where(spec < problem.least_stage, 0.0, spec)])


def brute_force(problem: DomainsProblem, ours: np.ndarray | None) -> float:
    """Return the least weighted loss found."""
    sizes = np.unique(np.linspace(0, len(problem.ladder) - 1, SIZES).astype(int))
    rows = []
    for size, total in zip(sizes, problem.tokens(sizes), strict=True):
        for trunk, part, used in itertools.product(np.append(TRUNKS * total, problem.least_stage), PARTS, USED):
            left = used * max(total - trunk, 0.0)
            rows.append((size, min(trunk, problem.general_tokens), part * left, (1 - part) * left))
    plans = allowed(problem, np.array(rows))
    rough = value(problem, plans, ROUGHLY)
    order = rough.argsort()[: int(np.isfinite(rough).sum())]
    starts = plans[order[np.sort(np.unique(plans[order, 0], return_index=True)[1])][:STARTS]]
    best = np.inf
    for start in starts if ours is None else np.vstack([starts, ours]):
        here, least, steps = start, float(value(problem, start[None], EVERY)[0]), 64
        while steps:
            moved = allowed(problem, here + MOVES * np.append(1, np.full(3, steps * problem.step)))
            losses = value(problem, moved, EVERY)
            if losses.min() < least - 1e-12:
                here, least = moved[losses.argmin()], float(losses.min())
            else:
                steps //= 2
        best = min(best, least)
    return best


def alone(asked: DomainsRequest) -> float:
    """Return the least weighted loss of `plan allocate` for each domain alone, over divisions of the budget."""
    first, second = asked.domains
    weight = first.weight / (first.weight + second.weight)

    def loss(domain: Domain, flops: float) -> float:
        request = Request(flops, domain.unique_spec, **{name: getattr(asked, name) for name in ("max_general_rise", "max_general_loss", "general_tokens")})
        try:
            plan = allocate(domain.law, request, general=domain.general_law, allow_extrapolation=True).plan
        except DataError:
            return np.inf
        # The mean of the loss, as for many domains, although plan allocate minimises the mean of ln L.
        points = domain.law.points(plan.params_by, np.array([plan.tokens_pt]), np.array([plan.tokens_spec]), np.array([domain.unique_spec]))
        return float(np.exp(domain.law.log_loss_resamples(points) + cost(plan.replay_fraction)).mean())

    def both(part: float) -> float:
        return weight * loss(first, part * asked.flops) + (1 - weight) * loss(second, (1 - part) * asked.flops)

    parts = np.linspace(0.04, 0.96, 24)
    coarse = [both(part) for part in parts]
    middle = int(np.argmin(coarse))
    return min(*coarse, *(both(part) for part in np.linspace(parts[max(middle - 1, 0)], parts[min(middle + 1, 23)], 13)))


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    excess: dict[str, list[float]] = {"split training": [], "independent models": []}
    scarce: dict[str, list[float]] = {name: [] for name in excess}
    ours = theirs = 0.0
    refused = 0
    for number, asked in enumerate(requests(6 if report.quick else REQUESTS)):
        try:
            problem = DomainsProblem.of(asked)
        except DataError:
            refused += 1
            continue
        for name, search in (("split training", split), ("independent models", independent)):
            if search is independent and number >= (2 if report.quick else OF_INDEPENDENT):
                continue
            began = time.process_time()
            found = with_less(problem, lambda less, margin, search=search: search(less, margin=margin), 0.0)
            between = time.process_time()
            if search is split:
                plan = None if found is None else np.array([found.size[0], found.tokens_general, *found.tokens_spec], dtype=float)
                best = brute_force(problem, plan)
            else:
                best = alone(asked)
            ours, theirs = ours + between - began, theirs + time.process_time() - between
            if found is None and not np.isfinite(best):
                refused += 1
                continue
            mine = np.inf if found is None else float(problem.weights @ problem.losses(found))
            (scarce if asked.general_tokens else excess)[name].append(mine / best - 1)
    rows = []
    for kind, found_by in (("as much as one likes", excess), ("scarce", scarce)):
        for name, values in found_by.items():
            if values:
                rows.append([name, kind, len(values), *(f"{number:+.1e}" for number in (np.median(values), max(values))), sum(v > 1e-4 for v in values)])
    report.table("Weighted loss less that of the best by brute force", ["structure", "general text", "requests", "median", "largest", "over 1e-4"], rows)
    report.say(f"{refused} searches of requests that nothing keeps; {ours:.1f} CPU-s in ours, {theirs:.1f} in brute force")
    report.end()


if __name__ == "__main__":
    main()
