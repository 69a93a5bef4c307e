"""The best plan under a limit on the general loss by brute force."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.replay_cost import cost
from planner.allocate.request import Request
from planner.arrays import Array
from planner.fit.fitted import FittedLaw
from tests.allocate.problems import LEAST_STAGE, ladder


def best_of_each_share(law: FittedLaw, general: FittedLaw, request: Request) -> Iterator[float]:
    """Cross sizes, specialist and general tokens and shares of replay, ever closer around the best of each share; yield what the best are worth.

    Plans without a specialist stage are left out.
    """
    sizes, unique, flops = ladder("full"), request.unique_spec, request.flops
    most_rise, most_loss = (np.inf if limit is None else limit for limit in (request.max_general_rise, request.max_general_loss))
    sizes = sizes.where(flops / sizes.cost >= law.support.low["tokens_per_param"] * sizes.params)
    passes = law.support.high["epochs_spec"]

    def grid(params: Array, spec: Array, pt: Array, shares: Array) -> tuple[Array, Array]:
        at = np.unique(np.searchsorted(sizes.params, params).clip(0, len(sizes.params) - 1))
        at, special, trunk, share = (item.ravel() for item in np.meshgrid(at, spec, pt, shares, indexing="ij"))
        taken = trunk + special
        fits = (taken * sizes.cost[at] <= flops) & (taken >= 2 * sizes.params[at]) & (special <= passes * unique) & (special >= LEAST_STAGE)
        fits &= trunk <= (request.general_tokens or np.inf)
        fits &= trunk - special * share / (1 - share) >= LEAST_STAGE
        at, special, trunk, share = (item[fits] for item in (at, special, trunk, share))
        size = {"non_embedding": sizes.params[at], "total": sizes.total[at]}
        after = general.points(size, trunk - special * share / (1 - share), special, np.full(len(at), unique), share)
        before = general.points(size, trunk, np.zeros(len(at)), np.full(len(at), unique), np.zeros(len(at)))
        ends = general.log_loss(after), general.log_loss(before)
        keeps = (ends[0] - ends[1] <= np.log1p(most_rise)) & (ends[0] <= np.log(most_loss))
        rows = np.array([sizes.params[at], special, trunk, share])[:, keeps]
        points = law.points({kind: values[keeps] for kind, values in size.items()}, trunk[keeps], special[keeps], np.full(int(keeps.sum()), unique))
        return rows, law.log_loss_resamples(points, 30).mean(0) + cost(share[keeps])

    shares = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rows, values = grid(np.geomspace(2e5, 4e6, 30), np.geomspace(LEAST_STAGE, passes * unique, 30), np.geomspace(LEAST_STAGE, 3e7, 70), shares)
    for share in shares:
        own = np.flatnonzero(rows[3] == share)
        if not len(own):
            continue
        place = rows[:, own[values[own].argmin()]]
        for reach in (0.15, 0.15, 0.06, 0.06, 0.025, 0.025, 0.01, 0.01, 0.004, 0.0015):
            spec, pt = (place[axis] * np.exp(np.linspace(-reach, reach, count)) for axis, count in ((1, 11), (2, 21)))
            every = sizes.params[np.abs(np.log(sizes.params / place[0])) < max(reach, 0.04)]
            around = np.unique(np.clip([share, *(place[3] + reach / 3 * np.linspace(-1, 1, 5))], 0.0, shares[-1]))
            found, worth = grid(every[:: max(1, len(every) // 30)], spec, pt, around)
            if len(worth):
                place = found[:, worth.argmin()]
        size = next(number for number, params in enumerate(sizes.params) if params == place[0])
        points = law.points({"non_embedding": place[:1], "total": sizes.total[[size]]}, place[2:3], place[1:2], np.array([unique]))
        yield float(law.log_loss_resamples(points, MOST_RESAMPLES).mean() + cost(place[3]))
