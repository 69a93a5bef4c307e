"""Which law to trust: every candidate forecasts the slices that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.errors import DataError, PlannerWarning
from planner.fit.data import MIN_ROWS, TARGETS, FitData
from planner.fit.estimate import Estimate, estimate
from planner.fit.extrapolation_probe import ExtrapolationProbe
from planner.fit.holdout import Slice, mean_absolute_percent, slices
from planner.fit.identify import numberless, reason_against, rows_for
from planner.fit.outliers import find_outliers
from planner.fit.resample import fit_weighted
from planner.fit.sample import Sample
from planner.fit.solver import DELTAS
from planner.fit.starts import DRAWS_A_START, draw_starts
from planner.fit.support import NEAR, Support
from planner.fit.warm_starts import warm_starts
from planner.laws import LAWS, Law, Points, Reference

NEAR_EQUAL = 1.25
"""Laws whose mean held-out error is within this factor of the least, or within its noise, count as equally good: the best of many is partly lucky."""
MOST_MEMBERS = 3
SAME_LAW = 1e-3
"""Mean difference in ln L outside the runs below which two laws count as one, such as a law with an irreducible loss fitted near zero and one without."""
HOPELESS = 1.8
"""Laws whose residual is over this multiple of the least are not tried on the slices."""
MOST_TRIED = 6
"""Most laws that are, each under a convention of N: those of the least residual, corrected for the number of parameters."""
SCREENING_STARTS = 4
"""Random starts of a rough fit, beside the warm starts."""
SECOND_LOOK, SECOND_DRAWS = 2.0, 16
"""A law whose best start no other agrees with may have missed a better optimum: it is started anew if its residual is within this multiple of the least,
with this many draws for each start."""
MOST_ROUGHLY = 2000
"""Most rows that laws which were not asked for are fitted to."""
STARTS = 12
SLICE_STARTS = 2

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Score:
    """How one law did under one convention of N."""

    params_kind: str
    reference: Reference
    estimate: Estimate
    """Fitted to all rows."""
    rms_percent: float
    """Residual deviation on all rows but the outliers [% of the loss], per degree of freedom."""
    outliers: Any
    """Outliers from the best-fitting laws, so the same for all laws, shape (runs,); they count neither as noise nor as held-out error."""
    held: dict[str, float]
    """Mean absolute error by slice [% of the loss]; empty for a law that was not tried on them."""
    drift: float
    """Standard deviation of ln L per log unit outside the fitted rows, for the slice whose error grew fastest."""

    @property
    def mean(self) -> float:
        """Mean over the slices; infinite for a law that was not tried on them."""
        return float(np.mean(list(self.held.values()))) if self.held else float("inf")


def candidates(data: FitData) -> list[Law]:
    """List the laws that `--law auto` tries and that a table can identify.

    Raises:
        DataError: it can identify none; the message says why not the simplest.
    """
    check_suited(data)
    suited = []
    for law in (law for law in LAWS.values() if law.candidate and data.suits(law)):
        if (reason := numberless(law, data)) is None:
            suited.append(law)
        else:
            warnings.warn(f"the law {law.name} {reason}, and is not tried: fix its formula", PlannerWarning, stacklevel=3)
    found = [law for law in suited if reason_against(law, data) is None]
    if not suited:
        raise DataError("no law for this kind of table gives a number for every run", remedy="fix the formulas")
    if not found:
        simplest = min(suited, key=lambda law: len(law.parameters))
        raise DataError(
            f"these runs cannot identify any law: {simplest.name} has {reason_against(simplest, data)}", remedy="train more runs, over more values"
        )
    return found


def check_suited(data: FitData) -> None:
    """Refuse a table that no law is made for.

    Raises:
        DataError: it has one stage, and the laws of its loss need two.
    """
    if not any(map(data.suits, LAWS.values())):
        raise DataError(
            f"the runs have one stage, and every law of the {data.target} loss needs two",
            remedy=f"fit it as a single-stage loss, with --map loss_spec={TARGETS[data.target]} instead of --target {data.target}",
        )


def score_laws(tables: Sequence[FitData], laws: Sequence[Law], seed: int = 0, progress: Progress | None = None) -> list[Score]:
    """Fit every law to all rows, and the promising ones to the rows outside each slice; return the best by held-out error first.

    Args:
        tables: the same runs under each convention of N that is to be tried.
        laws: the candidates.
        seed: seed of the starts.
        progress: called with the name of each step and the share of the work done.
    """
    tell = progress or (lambda what, share: None)
    by_kind = {data.params_kind: data for data in tables}
    samples = {data.params_kind: Sample.of(data, seed) for data in tables}
    first = _screen(tables, samples, laws, seed, lambda name, share: tell(name, 0.4 * share))
    first, others = _agreed(first, [], by_kind, laws, seed)
    pieces = slices(tables[0])
    promising = _promising(first, tables[0].count, _testable(laws, pieces, tables[0].count))
    pieces = _fair(pieces, tables[0].count, [first[number].estimate.law for number in promising])
    for done, number in enumerate(promising):
        known = first[number]
        data, law = by_kind[known.params_kind], known.estimate.law
        tell(law.name, 0.4 + 0.6 * done / len(promising))
        random = np.random.default_rng([seed, number])
        some = samples[known.params_kind]
        whole = estimate(law, some.points, some.log_loss, random, starts=STARTS, warm=known.estimate.solutions)
        if len(laws) == 1 and whole.starts_agree == 1:  # there is no other law that would do instead
            whole = estimate(law, some.points, some.log_loss, random, starts=STARTS, warm=whole.solutions, draws=SECOND_DRAWS)
        if not some.whole:
            near = estimate(law, data.points(data.reference), data.log_loss, random, starts=0, warm=whole.solutions, deltas=DELTAS[1:])
            whole = replace(near, starts=whole.starts, starts_agree=whole.starts_agree)
        first[number] = replace(known, estimate=whole)
    first, _ = _agreed(first, others, by_kind, laws, seed)
    scores = [_hold_out(by_kind[kind := first[number].params_kind], samples[kind], first[number], pieces, seed) for number in promising]
    scores += [score for number, score in enumerate(first) if number not in promising]
    return sorted(scores, key=lambda score: (score.mean, _cost(score, tables[0].count)))


def _screen(tables: Sequence[FitData], samples: Mapping[str, Sample], laws: Sequence[Law], seed: int, tell: Progress) -> list[Score]:
    """Fit every law roughly to all rows, under each convention of N.

    A law whose best start no other agrees with may have missed its optimum: it is started anew, unless it cannot be among the best.
    """
    found: list[Score] = []
    wanted = [(data, law) for data in tables for law in laws]
    for number, (data, law) in enumerate(wanted):
        tell(law.name, (number + 1) / (len(wanted) + 1))
        found.append(_roughly(data, samples[data.params_kind], law, found, np.random.default_rng([seed, number % len(laws)]), DRAWS_A_START))
    by_kind = {data.params_kind: data for data in tables}
    found = _measured(found, by_kind)
    least = min(score.rms_percent for score in found)
    for number, (data, law) in enumerate(wanted):
        known = found[number]
        if known.estimate.starts_agree == 1 and known.rms_percent <= SECOND_LOOK * least:
            random = np.random.default_rng([seed, 3, number])
            found[number] = _roughly(data, samples[data.params_kind], law, found, random, SECOND_DRAWS, known.estimate.solutions)
    return _measured(found, by_kind)


def _roughly(data: FitData, some: Sample, law: Law, found: Sequence[Score], random: np.random.Generator, draws: int, warm: Array | None = None) -> Score:
    others = [score.estimate for score in found if (score.params_kind == data.params_kind) != (score.estimate.law is law)]
    kin = warm_starts(law, others, some.points, some.log_loss, random)
    starts = kin if warm is None else np.vstack([warm, kin])
    quick = estimate(law, some.points, some.log_loss, random, starts=SCREENING_STARTS, warm=starts, deltas=DELTAS[:1], draws=draws)
    return Score(data.params_kind, data.reference, quick, np.inf, None, {}, np.inf)


def _agreed(
    scores: Sequence[Score], others: list[Score], tables: Mapping[str, FitData], laws: Sequence[Law], seed: int
) -> tuple[list[Score], list[Score]]:
    """Measure the laws' residuals; where they find outliers, laws that were not asked for help to decide, since the ones asked for may be wrong.

    Args:
        scores: laws fitted to all runs.
        others: the laws that were not asked for, where they are fitted already.
        tables: the runs under each convention of N.
        laws: those that were asked for.
        seed: of the starts.

    Returns:
        The scores, and those of the others.
    """
    measured = _measured(scores, tables, others)
    if not measured[0].outliers.any() or others:
        return measured, others
    # Fitted without the suspected outliers: a flexible law would pass through a run that lies alone.
    others = screen_others(next(iter(tables.values())).rows(~measured[0].outliers), laws, seed)
    return _measured(scores, tables, others), others


def screen_others(data: FitData, laws: Sequence[Law], seed: int) -> list[Score]:
    """Fit roughly the laws that were not asked for and that the table can identify.

    Args:
        data: the runs.
        laws: those that were asked for.
        seed: of the starts.
    """
    if data.count > MOST_ROUGHLY:
        data = data.rows(np.random.default_rng([seed, 5]).permutation(data.count) < MOST_ROUGHLY)
    names = {law.name for law in laws}
    rest = [law for law in LAWS.values() if law.name not in names and data.suits(law) and not (reason_against(law, data) or numberless(law, data))]
    return _screen([data], {data.params_kind: Sample.of(data, seed)}, rest, seed, lambda name, share: None) if rest else []


def _measured(scores: Sequence[Score], tables: Mapping[str, FitData], others: Sequence[Score] = ()) -> list[Score]:
    """Find the outliers, and each law's residual on the other runs: on the same runs for all laws, so that they can be compared.

    Args:
        scores: laws fitted to all runs.
        tables: the runs under each convention of N.
        others: further laws that help to decide which runs are outliers, fitted without the suspected ones.
    """
    every = [*scores, *others]
    residuals = np.array([(data := tables[score.params_kind]).log_loss - score.estimate.log_loss(data.points(score.reference)) for score in every])
    parameters = np.array([len(score.estimate.law.parameters) for score in every])
    outliers = find_outliers(residuals, parameters)
    kept = residuals[:, ~outliers]
    deviations = np.sqrt((kept**2).sum(1) / np.maximum(1, kept.shape[1] - parameters))
    return [replace(score, rms_percent=100 * float(off), outliers=outliers, drift=float(off)) for score, off in zip(scores, deviations, strict=False)]


def choose(scores: Sequence[Score], data: FitData) -> list[Score]:
    """Return the laws that the data cannot separate, the simplest first; they forecast together, with equal weights.

    A law is as good as the best when its mean held-out error is within a quarter of the best's, or exceeds it by less than the standard error of the
    difference over the slices. Of these the simplest is kept, then those that disagree most with the ones kept about the most expensive runs with
    twice the size and tokens, or with twice the passes: which law holds outside the runs is unknown, and their difference belongs in the interval. A
    law that agrees there with one kept is left out, since it would count that one twice; so is a law that gives no number there, where others do. The
    laws may use different conventions of N.

    Args:
        scores: the best first.
        data: the runs.
    """
    best = scores[0]
    if not best.held:
        return [best]
    alike = [score for score in scores if score.held and score.mean - best.mean <= max((NEAR_EQUAL - 1) * best.mean, _noise(score, best))]
    alike.sort(key=_simplicity)
    probes = [ExtrapolationProbe.of(data, repeated=repeated) for repeated in (False, True)]
    forecast = [np.stack([probe.log_loss(score.estimate, score.params_kind, score.reference) for probe in probes]) for score in alike]
    if sound := [number for number, item in enumerate(forecast) if np.isfinite(item).all()]:
        alike, forecast = [alike[number] for number in sound], [forecast[number] for number in sound]
    else:
        alike = [best]
    kept = [0]
    while len(kept) < min(MOST_MEMBERS, len(alike)):
        apart = np.nan_to_num([min(_apart(item, forecast[other]) for other in kept) for item in forecast])
        farthest = int(apart.argmax())
        if apart[farthest] < SAME_LAW:
            break
        # Of laws that agree there, the simplest: they are sorted by simplicity.
        same = np.array([_apart(item, forecast[farthest]) < SAME_LAW for item in forecast]) & (apart >= SAME_LAW)
        kept.append(int(same.argmax()))
    return sorted((alike[number] for number in kept), key=_simplicity)


def _apart(one: Array, other: Array) -> float:
    """Return the mean difference of two laws' forecasts, of shape (probes, runs), at the probe where it is largest."""
    return float(np.abs(one - other).mean(1).max())


def _simplicity(score: Score) -> tuple[int, float]:
    return len(score.estimate.law.parameters), score.mean


def _noise(score: Score, best: Score) -> float:
    """Return the standard error of the mean difference in held-out error between two laws."""
    difference = np.array([score.held[name] - best.held[name] for name in best.held])
    return float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 2 else 0.0


def _cost(score: Score, count: int) -> float:
    """Return the residual with Akaike's correction for the law's parameters."""
    return float(score.rms_percent * np.exp(len(score.estimate.law.parameters) / count))


def _promising(first: Sequence[Score], count: int, testable: set[str]) -> list[int]:
    """Return the indices of the laws to try on the slices: those of the least residual, corrected for the number of parameters."""
    tested = [number for number, score in enumerate(first) if score.estimate.law.name in testable]
    least = min(first[number].rms_percent for number in tested)
    order = sorted(tested, key=lambda number: _cost(first[number], count))
    return [number for number in order if first[number].rms_percent <= HOPELESS * least][:MOST_TRIED]


def _testable(laws: Sequence[Law], pieces: Sequence[Slice], count: int) -> set[str]:
    """Name the laws that can be tested on at least half as many slices as any law can: a law that was hardly tested is not to be trusted."""
    tests = {law.name: len(_fair(pieces, count, [law])) for law in laws}
    return {name for name, number in tests.items() if 2 * number >= max(tests.values())}


def _fair(pieces: Sequence[Slice], count: int, laws: Sequence[Law]) -> list[Slice]:
    """Keep the slices that leave enough rows for every law, so that all are scored on the same ones."""
    most = max(MIN_ROWS, *map(rows_for, laws))
    return [piece for piece in pieces if count - piece.held.sum() >= most]


def _hold_out(data: FitData, some: Sample, score: Score, pieces: Sequence[Slice], seed: int) -> Score:
    """Forecast every slice by the law fitted without it; all slices are fitted in one batch, as weights of zero and one.

    Outliers do not count: one slip of a digit would be most of a slice's error, and of the drift.
    """
    usual = ~score.outliers
    pieces = [piece for piece in pieces if (piece.held & usual).any()]
    if not pieces:
        return score
    law, points = score.estimate.law, data.points(data.reference)
    whole = score.estimate
    weights, starts = np.array([~piece.held[some.drawn] for piece in pieces], dtype=float), whole.solutions
    if 2 * whole.starts_agree < whole.starts:  # several minima: a slice may prefer another one
        starts = np.vstack([starts, draw_starts(law, some.points, some.log_loss, np.random.default_rng([seed, 2]), SLICE_STARTS)])
    theta, _ = fit_weighted(law, some.points, some.log_loss, weights, starts, deltas=DELTAS)
    forecast = law.log_loss(theta, points)
    variance = (score.rms_percent / 100) ** 2
    held: dict[str, float] = {}
    rates = []
    for number, piece in enumerate(pieces):
        these = piece.held & usual
        out = data.rows(these)
        held[piece.name] = mean_absolute_percent(forecast[number, these], out.log_loss)
        support = Support.of(data.rows(~piece.held & usual))
        distance = support.distance(out.params_by["non_embedding"], out.tokens_pt, out.tokens_spec, out.unique_spec)
        # What the noise of a run and the parameters' own uncertainty explain is no drift.
        expected = variance * (1 + _leverage(law, theta[number], points, some.drawn & ~piece.held)[these])
        rates.append(_rate((forecast[number, these] - out.log_loss) ** 2 - expected, distance))
    # The slice whose error grew fastest, not the mean: each rests on few trunks, and the law was chosen for doing well on them.
    return replace(score, held=held, drift=max(rates))


def _rate(beyond: Array, distance: Array) -> float:
    """Return how fast the error of forecasts grew, as a standard deviation of ln L per log unit outside the support."""
    outside = distance > np.log(NEAR)
    if not outside.any():
        return 0.0
    # Means of squares, not of roots: noise in single rows would look like drift.
    return float(np.sqrt(max((beyond[outside] / distance[outside] ** 2).mean(), 0.0)))


def _leverage(law: Law, theta: Array, points: Points, fitted: Any) -> Array:
    """Return the variance of each forecast of ln L, divided by that of a run, linearised around a fit to some of the rows, shape (runs,)."""
    with np.errstate(all="ignore"):
        slopes = np.nan_to_num(law.log_loss_and_slopes(theta[None], points)[1][0], posinf=0.0, neginf=0.0)
    slopes = slopes / np.maximum(np.sqrt((slopes[:, fitted] ** 2).sum(1)), 1e-300)[:, None]
    information = slopes[:, fitted] @ slopes[:, fitted].T + 1e-9 * np.eye(len(theta))
    result: Array = np.einsum("pn,pn->n", slopes, np.linalg.solve(information, slopes))
    return result
