"""The best plan by brute force: a fine grid, then grids ever closer around its best places."""

from __future__ import annotations

import numpy as np

from planner.allocate.request import Request
from planner.arrays import Array
from planner.fit.fitted import FittedLaw
from tests.allocate.problems import LEAST_STAGE, Sizes, allowed_sizes, epochs_allowed, expected, method_of, smooth, tokens_of


def brute_force(law: FittedLaw, request: Request) -> tuple[float, dict[str, float]]:
    """Return the least expected ln L of any plan that a request allows, and the plan; budget and text may be left over."""
    sizes, shapes = allowed_sizes(law, request), bool(law.source)
    special, fixed = law.members[0].law.stages == 2, bool(request.params or request.params_among)
    at = np.unique(np.linspace(0, len(sizes.params) - 1, 60).astype(int))
    spec_shares = np.unique(np.concatenate([[0.0], np.geomspace(1e-4, 1, 40), np.linspace(0, 1, 30)])) if special else np.zeros(1)
    pt_shares = np.array([0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0]) if special else np.ones(1)
    found = _grid(law, request, sizes.where(at), spec_shares, pt_shares, shapes)
    for reach, kept in ((0.3, 4), (0.08, 4), (0.02, 2), (0.005, 2)):
        factors = np.exp(np.linspace(-reach, reach, 17))
        for middle, spec_share, pt_share in _apart(found)[:kept]:
            # Shapes scatter in cost: all within a factor are tried each time. Other sizes are drawn ever closer.
            near = sizes.where(np.abs(np.log(sizes.params / middle)) <= 0.3 + 1e-9)
            if not shapes and not fixed:
                near = smooth(np.unique(np.clip(middle * np.exp(np.linspace(-reach, reach, 21)), sizes.params.min(), sizes.params.max())))
            shares = (np.unique(np.minimum(share * steps, 1.0)) for share, steps in ((spec_share, factors), (pt_share, factors[::4])))
            found += _grid(law, request, near, *shares, shapes)
    return min(found, key=lambda item: item[0])


def _apart(found: list[tuple[float, dict[str, float]]]) -> list[tuple[float, float, float]]:
    """Return size and shares of the best plans, but for those that are near a better one."""
    kept: list[tuple[float, float, float]] = []
    for _, plan in sorted(found, key=lambda item: item[0]):
        place = (plan["params"], plan["spec_share"], plan["pt_share"])
        if all(max(abs(np.log((a + 1e-6) / (b + 1e-6))) for a, b in zip(place, other, strict=True)) > 0.15 for other in kept):
            kept.append(place)
    return kept


def _grid(law: FittedLaw, request: Request, sizes: Sizes, spec_shares: Array, pt_shares: Array, shapes: bool) -> list[tuple[float, dict[str, float]]]:
    """Evaluate sizes × specialist tokens × general tokens, and return the best of each kind of split."""
    least = LEAST_STAGE if shapes else 0.0
    total, cost = tokens_of(request, sizes), sizes.spec_cost
    most = np.minimum(total / cost, epochs_allowed(law, request) * request.unique_spec)
    spec = most[:, None] * spec_shares
    if len(spec_shares) > 1:
        spec = np.concatenate([spec, np.minimum(request.unique_spec, most)[:, None], np.minimum(least, most)[:, None]], axis=1)
        # General text at its limits: all of it, or its shortest stage.
        edges = np.clip((total[:, None] - np.array([request.general_tokens or 0.0, least])) / cost[:, None], 0.0, most[:, None])
        fewest = np.clip(2.0 * sizes.params - (request.general_tokens or np.inf), 0.0, most)[:, None]  # with all of the general text just enough
        spec = np.concatenate([spec, edges, fewest], axis=1)
    rest = np.minimum(total[:, None] - cost[:, None] * spec, request.general_tokens or np.inf)
    pt = rest[:, :, None] * pt_shares
    grid = np.broadcast_arrays(np.arange(len(total))[:, None, None], spec[:, :, None], pt)
    at, spec, pt = (item.ravel() for item in grid)
    allowed = ((spec == 0) | (spec >= least)) & ((pt == 0) | (pt >= least)) & (pt >= 0) & (pt + spec > 0)
    allowed &= pt + spec >= 2.0 * sizes.params[at] * (1 - 1e-9)
    allowed &= (pt > 0) | (method_of(law) == "full")  # adapters need a model to stand on
    at, spec, pt = at[allowed], spec[allowed], pt[allowed]
    if not len(at):
        return []
    logs = expected(law, sizes.params[at], sizes.total[at], pt, spec, request.unique_spec)
    most, limit = most[at], np.minimum(total[at] - cost[at] * spec, request.general_tokens or np.inf)
    pt_share = np.where(limit > 0, pt / np.where(limit > 0, limit, 1.0), 1.0)
    found = []
    for kind in (spec == 0, (spec > 0) & (spec <= request.unique_spec), spec > request.unique_spec, pt == 0, pt_share < 0.99):
        rows = np.flatnonzero(kind)
        if len(rows):
            best = rows[logs[rows].argmin()]
            plan = {"params": float(sizes.params[at[best]]), "pt": float(pt[best]), "spec": float(spec[best])}
            found.append((float(logs[best]), {**plan, "spec_share": float(spec[best] / most[best]), "pt_share": float(pt_share[best])}))
    return found
