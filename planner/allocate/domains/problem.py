"""The domains with their laws: the sizes, costs and limits they share, and the mean losses of many plans at once.

Arrays of plans have the domains on the last axis but one: shape (..., domains, plans).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from planner.allocate.domains.early import MixWorth
from planner.allocate.domains.found import Found
from planner.allocate.domains.request import Domain, DomainsRequest
from planner.allocate.optimum import MOST_RESAMPLES
from planner.allocate.plans import Size, sized
from planner.allocate.problem import Problem
from planner.allocate.replay_cost import cost
from planner.arrays import Array
from planner.errors import DataError, InputError
from planner.fit.fitted import FittedLaw

LADDER = 240
"""Sizes searched between the least and the largest if the laws come from tables without a recipe, so that any size is possible."""
EVERY = 10**9
"""As a maximum number of resamples: all of them."""
CHUNK = 24_000
"""Losses evaluated at a time: as many as stay in a core's cache."""
EVALUATIONS = 6e5
"""Losses evaluated per grid by default."""
FEWEST, MOST = 8, 3 * MOST_RESAMPLES
"""Bounds on the resamples of a law (all members together) used in a grid; forecasts use all."""
ROUNDED = 0.01
"""Share by which tokens per parameter may fall below the minimum through rounding to whole steps."""
PENALTY = 1e6
"""Added to the objective for a loss of twice the required one; steep enough that a required loss is missed only if no plan reaches it."""
MILD = 30.0
"""The same for intermediate plans of a search: one that misses narrowly may be close to the best plan that does not."""


@dataclass(frozen=True)
class DomainsProblem:
    """A request together with the laws of its domains."""

    request: DomainsRequest
    problems: tuple[Problem, ...]
    """The problem of each domain alone, with the whole budget."""
    ladder: tuple[Size, ...]
    """Sizes to choose among, ascending; their shapes come from the recipe of the first domain's law."""
    mix: MixWorth | None = None
    """For one model of the whole mix: what each domain's own text in it is worth; None if domains have stages of their own."""
    robust: bool = True
    """Whether a search minimises the mean over the resamples, or the forecast of the fitted parameters."""
    evaluations: float = EVALUATIONS
    """Losses evaluated per grid: with many domains, fewer resamples are used."""

    @classmethod
    def of(cls, request: DomainsRequest, *, robust: bool = True, beyond: bool = False) -> DomainsProblem:
        """Prepare a request, with a stage of its own for every domain.

        Args:
            request: the request.
            robust: the field.
            beyond: whether to search sizes that would get fewer tokens per parameter than any run had.

        Raises:
            DataError: a law knows no specialist tokens or is of runs with adapters in both stages, or the budget is too small for any size.
        """
        problems = tuple(replace(_problem(request, domain), beyond=beyond) for domain in request.domains)
        for domain, problem in zip(request.domains, problems, strict=True):
            if problem.method.both:
                raise DataError(
                    f"the law of domain {domain.name!r} was fitted to runs with {problem.method.name}, which a shared trunk cannot use",
                    remedy="give it a law of runs whose general stage trains all parameters",
                )
            if problem.one_stage or problem.one_corpus:
                raise DataError(f"the law of domain {domain.name!r} knows no specialist stage", remedy="give it a law fitted to two-stage runs")
        # The model with the least inference may be the largest.
        part = min(domain.weight for domain in request.domains if domain.weight > 0) / sum(domain.weight for domain in request.domains)
        text = sum(domain.unique_spec for domain in request.domains)  # a mixed model has the text of all
        first, widest = (
            replace(one, request=replace(one.request, inference_tokens=part * request.inference_tokens, unique_spec=text))
            for one in (problems[0], min(problems, key=lambda one: one.min_tokens_per_param))
        )
        if request.inference_tokens:  # all inference at the least size must be paid in any structure
            replace(widest, request=replace(widest.request, inference_tokens=request.inference_tokens)).sizes()
        sizes = (first if request.sized else widest).sizes()
        if not request.sized:
            ends = sizes[0].params_non_embedding, sizes[-1].params_non_embedding
            if request.params_range and first.recipe:  # the ends of the range may lie beside the sizes tried
                ends = widest.size_range()
            # The ends are as requested: in a narrow range no shape may lie between them.
            sizes = first.every(*ends) or sizes if first.recipe else tuple(first.size(float(value)) for value in np.geomspace(*ends, LADDER))
            sizes = tuple(size for size in sizes if first.fits(size)) or sizes
        return cls(request, problems, tuple(sorted(sizes, key=lambda size: size.params_non_embedding)), robust=robust)

    @property
    def count(self) -> int:
        """Number of domains."""
        return len(self.problems)

    @cached_property
    def groups(self) -> tuple[tuple[FittedLaw, Any], ...]:
        """Laws, each with the numbers of its domains."""
        found: dict[int, tuple[FittedLaw, list[int]]] = {}
        for number, domain in enumerate(self.request.domains):
            found.setdefault(id(domain.law), (domain.law, []))[1].append(number)
        return tuple((law, np.array(members)) for law, members in found.values())

    @cached_property
    def unique(self) -> Array:
        """Distinct specialist tokens, shape (domains,)."""
        return np.array([domain.unique_spec for domain in self.request.domains])

    @cached_property
    def worth(self) -> Array:
        """Factor by which specialist tokens count, shape (domains,): 1 in a stage of their own."""
        return np.ones(self.count) if self.mix is None else self.mix.value

    @cached_property
    def most_spec(self) -> Array:
        """Most specialist tokens with repeats, shape (domains,)."""
        return np.array([problem.max_tokens_spec for problem in self.problems])

    @cached_property
    def weights(self) -> Array:
        """Weights with a sum of 1, shape (domains,)."""
        weights = np.array([domain.weight for domain in self.request.domains])
        return weights / weights.sum()

    @cached_property
    def max_loss(self) -> Array:
        """Required losses [nats/token], infinite where there is none, shape (domains,)."""
        return np.array([np.inf if domain.max_loss is None else domain.max_loss for domain in self.request.domains])

    @cached_property
    def least_ratio(self) -> Array:
        """Minimum of training tokens per parameter of a domain's model, shape (domains,), as for one domain alone."""
        return np.array([problem.shortest if self.request.sized else problem.min_tokens_per_param for problem in self.problems])

    def enough(self, size: Any, tokens_pt: Any) -> Array:
        """Return the fewest specialist tokens, in whole steps, that bring sizes to their minimum of tokens after some general ones; 0 if those suffice.

        Args:
            size: numbers of sizes of the ladder; like the tokens, broadcast to shape (domains, ...).
            tokens_pt: general tokens.
        """
        ratio = self.least_ratio.reshape(-1, *[1] * (np.ndim(size) - 1))
        missing = (1 - ROUNDED) * ratio * self.params[size] - self.whole(tokens_pt)
        result: Array = np.maximum(np.ceil(missing / self.step - 1e-9), 0.0) * self.step
        return result

    @property
    def least_stage(self) -> float:
        """Minimum of tokens of a stage; 0 for a mix, whose domains have no stages."""
        return 0.0 if self.mix is not None else self.problems[0].min_tokens_stage

    @property
    def general_tokens(self) -> float:
        """Most general tokens of a model."""
        return self.request.general_tokens or np.inf

    @cached_property
    def params(self) -> Array:
        """Non-embedding parameters of the ladder."""
        return np.array([size.params_non_embedding for size in self.ladder], dtype=float)

    def nearest(self, log_params: Array) -> Any:
        """Return the numbers of the sizes of the ladder nearest to sizes given by their logarithms."""
        logs = np.log(self.params)
        above = np.clip(np.searchsorted(logs, log_params), 1, max(1, len(logs) - 1))
        lower = above - 1
        upper = np.minimum(above, len(logs) - 1)
        return np.where(log_params - logs[lower] < logs[upper] - log_params, lower, upper)

    @cached_property
    def params_total(self) -> Array:
        """Parameters of the ladder with embeddings."""
        return np.array([size.params_total or np.nan for size in self.ladder], dtype=float)

    @cached_property
    def price(self) -> Array:
        """Training FLOPs of a token, by size of the ladder."""
        return np.array([size.flops_per_token for size in self.ladder])

    @cached_property
    def spec_cost(self) -> Array:
        """FLOPs of a token of a domain's own stage over those of a general one, as the runs of its law were trained, shape (domains, sizes)."""
        by_way: dict[tuple[Any, int | None], Array] = {}
        for one in self.problems:
            way = one.method, one.recipe.seq_len if one.recipe else None
            if way not in by_way:
                shapes = [size.shape for size in self.ladder]
                cost = [sized(shape, way[1], one.method).spec_cost if shape and way[1] else 1.0 for shape in shapes]
                by_way[way] = np.array(cost if self.mix is None else np.ones(len(cost)))
        return np.array([by_way[one.method, one.recipe.seq_len if one.recipe else None] for one in self.problems])

    @property
    def step(self) -> float:
        """Tokens of an optimiser step."""
        recipe = self.problems[0].recipe
        return float(recipe.tokens_per_step) if recipe else 1.0

    def whole(self, tokens: Any) -> Any:
        """Round tokens down to whole optimiser steps."""
        return np.floor(tokens / self.step + 1e-9) * self.step

    @cached_property
    def needs_trunk(self) -> Any:
        """Whether a domain's stage needs a general stage before it, shape (domains,)."""
        return np.array([one.needs_trunk for one in self.problems])

    @cached_property
    def inference(self) -> Array:
        """FLOPs of all inference together, by size of the ladder, if all models have that size."""
        forward = np.array([size.flops_per_token / size.training_over_forward for size in self.ladder])
        return self.request.inference_tokens * forward

    def inference_of(self, found: Found) -> float:
        """Return the FLOPs of all inference of a plan: models of different sizes divide it by weight."""
        return float((self.weights * self.inference[found.size]).sum())

    def spent(self, found: Found) -> float:
        """Return the FLOPs of training and inference of a plan."""
        return found.total_flops + self.inference_of(found)

    def params_by(self, size: Any) -> dict[str, Array]:
        """Return parameters under each convention, of numbers of sizes of the ladder."""
        return {"non_embedding": self.params[size], "total": self.params_total[size]}

    def tokens(self, size: Any) -> Array:
        """Return the training tokens that the budget pays after inference if all models have one size; 0 if inference takes it all."""
        result: Array = np.maximum(self.request.flops - self.inference[size], 0.0) / self.price[size]
        return result

    def tokens_each(self, flops: Array, size: Any) -> Array:
        """Return the same for every domain's own budget and size, of shape (domains, ...): its share of the inference is its weight."""
        weights = self.weights.reshape(-1, *[1] * (np.ndim(size) - 1))
        result: Array = np.maximum(flops - weights * self.inference[size], 0.0) / self.price[size]
        return result

    def expected(
        self, size: Any, tokens_pt: Any, tokens_spec: Any, most: int | None = None, like: Found | None = None, replay: Any = 0.0
    ) -> Array:
        """Return mean losses over resamples [nats/token]; infinite if a plan has too few tokens for its size or a stage, or exceeds a limit.

        Args:
            size: numbers of sizes of the ladder; like the tokens, broadcast to shape (..., domains, plans).
            tokens_pt: general tokens.
            tokens_spec: specialist tokens with repeats.
            most: most resamples of a law, all its members together; None for as many as the number of plans allows.
            like: a plan close to these, at which the means over few resamples are calibrated to the mean over all.
            replay: share of general text in the specialist stage, whose cost is added; NaN if no share keeps the limit.
        """
        size, pt, spec, replay = np.broadcast_arrays(size, *(np.asarray(item, dtype=float) for item in (tokens_pt, tokens_spec, replay)))
        enough = 1 - 1e-9
        # Rounding to whole steps may leave a plan slightly below the minimum.
        trained = pt + spec >= np.maximum((1 - ROUNDED) * self.least_ratio[:, None] * self.params[size], self.least_stage) * enough
        stages = ((spec == 0) | (spec >= self.least_stage * enough)) & ((pt == 0) | (pt >= self.least_stage * enough))
        stages &= (pt > 0) | np.logical_not(self.needs_trunk)[:, None]
        good = trained & stages & (pt >= 0) & (spec >= 0) & (pt + spec > 0) & np.isfinite(replay)
        few = most or self.few(int(good.sum()))
        out = np.full(size.shape, np.inf)
        for law, members in self.groups:
            here = good[..., members, :]
            unique, worth = (np.broadcast_to(item[members][:, None], here.shape)[here] for item in (self.unique, self.worth))
            block = np.full(here.shape, np.inf)
            at, general, special, share = (item[..., members, :][here] for item in (size, pt, spec, replay))
            block[here] = self._mean(law, at, general, worth * special, unique, few) * np.exp(cost(share))
            out[..., members, :] = block
        if like is not None:
            near, general, special, share = (item[:, None] for item in like.plan)
            shown = self.expected(near, general, special, few, replay=share)[:, 0]
            with np.errstate(invalid="ignore"):
                ratio = self.losses(like) / shown
            out *= np.where(np.isfinite(ratio), ratio, 1.0)[:, None]
        return out

    def losses(self, found: Found) -> Array:
        """Return the losses of a plan as its search sees them [nats/token], shape (domains,): means over all resamples, or of the fitted parameters."""
        if id(found) not in self._measured:
            size, general, special, share = (item[:, None] for item in found.plan)
            self._measured[id(found)] = found, self.expected(size, general, special, EVERY, replay=share)[:, 0]
        return self._measured[id(found)][1]

    def missed(self, found: Found) -> float:
        """Return the largest relative miss of a required loss; 0 or less if the plan keeps them all."""
        return float((self.losses(found) / self.max_loss).max()) - 1

    @cached_property
    def _measured(self) -> dict[int, tuple[Found, Array]]:
        """Cache of `losses` by identity of the plan; the plan is kept too, so that its identity is not reused."""
        return {}

    def few(self, plans: int) -> int:
        """Return how many resamples are used for a number of plans."""
        return int(np.clip(self.evaluations / max(1, plans), FEWEST, MOST))

    def _mean(self, law: FittedLaw, size: Any, pt: Array, spec: Array, unique: Array, most: int) -> Array:
        result = np.empty(len(size))
        each = max(1, most // len(law.members))
        step = max(1, CHUNK // min(most, sum(len(member.resamples) for member in law.members)))
        for start in range(0, len(size), step):
            at = slice(start, start + step)
            points = law.points(self.params_by(size[at]), pt[at], spec[at], unique[at])
            result[at] = np.exp(law.log_loss_resamples(points, each)).mean(0) if self.robust else np.exp(law.log_loss(points))
        return result

    def resampled(self, found: Found) -> list[Array]:
        """Return the losses of a plan under all resamples [nats/token], for each law an array of shape (resamples, its domains)."""
        losses, (size, pt, spec, share) = [], found.plan
        for law, members in self.groups:
            points = law.points(self.params_by(size[members]), pt[members], (self.worth * spec)[members], self.unique[members])
            losses.append(np.exp(law.log_loss_resamples(points) + cost(share[members])))
        return losses

    def value(self, loss: Array, margin: float, penalty: float | Array = PENALTY) -> Array:
        """Return the objective by domain: the weighted loss, plus a penalty if a required loss is missed.

        Args:
            loss: shape (..., domains, plans).
            margin: share by which required losses are tightened, to allow for rounding to whole steps.
            penalty: per relative miss.
        """
        with np.errstate(invalid="ignore"):
            missed = np.maximum(loss / (self.max_loss[:, None] * (1 - margin)) - 1, 0.0)
        weighted = self.weights[:, None] * np.where(np.isfinite(loss), loss, 0.0)
        return np.where(np.isfinite(loss), weighted + penalty * np.where(np.isfinite(missed), missed, 0.0), np.inf)


def _problem(request: DomainsRequest, domain: Domain) -> Problem:
    """Make the problem of one domain; errors about its laws name the domain."""
    try:
        return Problem.of(domain.law, request.of(domain), domain.general_law)
    except InputError as error:
        raise InputError(f"domain {domain.name!r}: {error.message.replace('--general-law', 'general_law')}", remedy=error.remedy) from None
