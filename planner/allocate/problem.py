"""A request under a law, and the plans that its budget allows: every candidate size times every amount of specialist text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from planner.allocate.bisection import bisect_log
from planner.allocate.infeasible import least_flops, refuse_shapes, refuse_size
from planner.allocate.plans import Plans, Size, shaped, sized
from planner.allocate.request import Request
from planner.allocate.retention import Retention
from planner.arrays import Array
from planner.design.spec import MIN_STEPS, MIN_TOKENS_PER_PARAMETER
from planner.errors import InputError
from planner.fit.fitted import FittedLaw
from planner.ladder import ASIDE, FINE, GAP, LARGEST, SMALLEST, shapes_between
from planner.laws import Points
from planner.method import TRAINED_BYTES, Method
from planner.recipe import Recipe

SIZES = 48
"""Sizes searched at least if the range is narrow."""
COARSEST = 0.17
"""Step in ln N of the first search."""
LIMITED = 0.125
"""The same under a limit on the general loss; halved repeatedly if the range is narrow."""
SHORT_RUNS = "under_2_tokens_per_parameter"
"""Flag of runs with fewer tokens per parameter."""
FINEST = 2e-4
"""Finest step in ln N for sizes without shapes."""
EVERY_SHAPE = FINE
"""Step in ln N that finds every shape."""
BELOW = 100.0
"""Factor below the smallest run at which the search begins."""
HALVINGS = 18
"""Halvings of the range, in ln N, to find the largest size that the budget can train."""
BESIDE, BESIDES = 1.06, 24
"""Factor above that size, and number of sizes up to there, that are tried for a larger one: one in thirty of 300 budgets had some, up to 3.4 % larger."""
ROUNDING = 1e-9
"""Share by which a limit that is met with equality may be exceeded."""
AT_LEAST_RATIO, SMOOTH_FLOOR = 1.1, 1.005
"""Factor above the minimum of tokens per parameter within which a size counts as bounded by it: shapes leave gaps, sizes without shapes do not."""


@dataclass(frozen=True)
class Problem:
    """A request under a law: sizes, costs and limits."""

    law: FittedLaw
    request: Request
    recipe: Recipe | None
    vocab: int | None
    retention: Retention | None = None
    """Limit on the general loss."""
    robust: bool = True
    """Whether losses are forecast by the mean over the resamples, or by the fitted parameters."""
    beyond: bool = False
    """Whether to search sizes that would get fewer tokens per parameter than any run had."""

    @classmethod
    def of(cls, law: FittedLaw, request: Request, general: FittedLaw | None = None, *, robust: bool = True) -> Problem:
        """Make a problem; recipe and vocabulary are those that the law was measured with, `general` is the law of the general loss, if one is needed.

        Raises:
            InputError: the laws are of other losses or of different methods, or know nothing about a limit of the request.
        """
        for member in law.members:
            if member.law.target != "spec":
                raise InputError(f"the law {member.law.name} is of the {member.law.target} loss", remedy="give a law of the specialist loss")
        one_corpus = law.one_corpus
        if one_corpus and request.general_tokens is not None:
            raise InputError(
                f"the law {law.members[0].law.name} was fitted to runs on one corpus and knows no general text",
                remedy="leave out --general-tokens: --spec-tokens is the size of the corpus",
            )
        recipe = law.source.get("recipe")
        if law.members[0].law.stages == 1 and not one_corpus and not law.support.high["tokens_pt"]:
            raise InputError(
                "the law was fitted to runs with specialist tokens only and knows no general stage",
                remedy="give a two-stage law, or map those tokens to tokens_pt when fitting a single-stage law",
            )
        if not (recipe and law.source.get("vocab_size")) and any(member.params_kind == "total" for member in law.members):
            raise InputError(
                "the law counts embeddings in N, but without a recipe the embeddings of a size are unknown", remedy="fit with --params-kind non_embedding"
            )
        retention = Retention.of(general, request, law.source.get("corpus"))
        if retention is not None:
            ways = [str(one.source.get("method", "full")) for one in (law, retention.law)]
            if ways[0] != ways[1]:
                raise InputError(
                    f"--general-law was fitted to runs with method {ways[1]}, the law to runs with {ways[0]}, which forget differently",
                    remedy=f"fit one with plan fit SWEEP --target general --method {ways[0]}",
                )
        return cls(law, request, Recipe.from_mapping(recipe) if recipe else None, law.source.get("vocab_size"), retention, robust)

    @property
    def max_tokens_spec(self) -> float:
        """Most specialist tokens with repeats; 0 if the law does not know them."""
        return 0.0 if self.one_stage else self.max_epochs * self.request.unique_spec

    @property
    def one_stage(self) -> bool:
        """Whether the law knows only sizes and tokens."""
        return self.law.members[0].law.stages == 1 and not self.one_corpus

    @property
    def one_corpus(self) -> bool:
        """Whether the law is of one corpus and its repeats: no general stage, only specialist text."""
        return self.law.one_corpus

    @property
    def general_tokens(self) -> float:
        """Most general tokens."""
        return 0.0 if self.one_corpus else self.request.general_tokens or math.inf

    @cached_property
    def texts(self) -> tuple[float, float]:
        """Most general and specialist tokens that a model can be trained on; 0 if too short for a stage."""
        least = self.min_tokens_stage * (1 - ROUNDING)
        general = self.general_tokens if self.general_tokens >= least else 0.0
        spec = self.max_tokens_spec if self.max_tokens_spec >= least and (general or not self.needs_trunk) else 0.0
        return general, spec

    @property
    def text(self) -> float:
        """Most tokens of any kind that a model can be trained on."""
        return sum(self.texts)

    @property
    def max_epochs(self) -> float:
        """Most passes."""
        return self.request.max_epochs or max(1.0, self.law.support.high["epochs_spec"])

    @cached_property
    def method(self) -> Method:
        """How the runs of the law were trained."""
        name = str(self.law.source.get("method", "full"))
        return self.recipe.method(name) if self.recipe else Method(name)

    @property
    def needs_trunk(self) -> bool:
        """Whether a specialist stage needs a general stage before it: adapters on an untrained model learn next to nothing."""
        return self.method.name != "full" and not self.law.source.get("based")

    @property
    def min_tokens_per_param(self) -> float:
        """Minimum of tokens per parameter of a size that is searched: the lowest of any run, since the law has not seen shorter ones."""
        return self.shortest if self.beyond else max(self.shortest, self.law.support.low["tokens_per_param"])

    @property
    def shortest(self) -> float:
        """Minimum of tokens per parameter of a requested size: below it a run is a transient of the optimiser, unless such runs were kept in the fit."""
        kept = SHORT_RUNS in self.law.source.get("kept_flags", ())
        return min(MIN_TOKENS_PER_PARAMETER, self.law.support.low["tokens_per_param"]) if kept else MIN_TOKENS_PER_PARAMETER

    def at_floor(self, size: Size) -> bool:
        """Tell whether a size is as large as the minimum of tokens per parameter allows."""
        factor = AT_LEAST_RATIO if self.recipe else SMOOTH_FLOOR
        return not self.request.sized and self.tokens(size) < factor * self.min_tokens_per_param * size.params_non_embedding

    @property
    def min_tokens_stage(self) -> float:
        """Minimum of tokens of a stage: below it a stage is a transient."""
        return MIN_STEPS * self.recipe.tokens_per_step if self.recipe else 0.0

    def size(self, params_non_embedding: float) -> Size:
        """Realise a size."""
        if self.recipe is None or self.vocab is None:
            return Size(params_non_embedding, None, 6.0 * params_non_embedding, None)
        # A realised size may lie just outside the ladder of requested sizes.
        asked = min(max(params_non_embedding, SMALLEST), LARGEST) if 0.9 * SMALLEST < params_non_embedding < 1.1 * LARGEST else params_non_embedding
        return shaped(asked, self.recipe.family, self.vocab, self.recipe.seq_len, self.method)

    def tokens(self, size: Size) -> float:
        """Return the general tokens that the budget pays after inference; negative if inference takes more than the budget.

        A specialist token costs as much as `spec_cost` of them.
        """
        return self.request.paid(size.flops_inference(self.request.inference_tokens)) / size.flops_per_token

    def tokens_at(self, size: Size, share: float) -> float:
        """Return the training tokens of a size at a share of specialist tokens, which the general text may limit further."""
        return float(self.tokens_at_each((size,), share)[0])

    def tokens_at_each(self, sizes: Sequence[Size], share: float) -> Array:
        """Return the same of many sizes, shape (sizes,)."""
        token, over, cost = np.array([(size.flops_per_token, size.training_over_forward, size.spec_cost) for size in sizes]).reshape(-1, 3).T
        paid = np.minimum(self.request.flops - self.request.inference_tokens * token / over, self.request.training_flops or math.inf)
        result: Array = np.minimum(paid / token / (1 - share + cost * share), self.general_tokens / (1 - share) if share < 1 else math.inf)
        return result

    def sizes(self) -> tuple[Size, ...]:
        """List the sizes to search: those requested, or a ladder down from the size at which tokens per parameter become too few.

        Raises:
            DataError: the budget is too small for the requested sizes, or for any.
        """
        asked = (self.request.params,) if self.request.params is not None else self.request.params_among
        if asked:
            sizes = [self.size(params) for params in asked]
            trainable = tuple(size for size in sizes if self.trainable(size, self.shortest))
            return trainable or refuse_size(self, sizes, self.shortest)
        least, most = self.size_range()
        step = max(min(COARSEST, math.log(most / least) / SIZES), FINEST)
        if self.retention is not None:  # steps independent of the budget: a larger one, part of which may be left over, then tries the same sizes
            step = LIMITED * 2.0 ** min(math.ceil(math.log2(step / LIMITED)), 0)
        if found := self.between(least, most, step):
            return found
        foot = self._foot(least)
        if not foot:
            refuse_shapes(self)
        return tuple(size for size in foot if self.trainable(size, self.min_tokens_per_param)) or refuse_size(self, foot, self.min_tokens_per_param)

    def between(self, low: float, high: float, step: float) -> tuple[Size, ...]:
        """Realise sizes a step in ln N apart; keep, each once, those that the budget can train and that lie in the requested range."""
        least, most = self.request.params_range or (0.0, math.inf)
        ends = least * (1 - ROUNDING), most * (1 + ROUNDING)
        return tuple(size for size in self._sizes(low, high, step) if ends[0] <= size.params_non_embedding <= ends[1])

    def _foot(self, least: float) -> tuple[Size, ...]:
        """List all shapes from the least size to search up to where none can be cheaper than the cheapest: a coarse step misses some of them."""
        if self.recipe is None:
            return (self.size(least),)
        low, high = self.request.params_range or (0.0, math.inf)
        if not (foot := self.every(max(low, least / GAP), min(high, least * GAP))):
            return ()
        cost = min(least_flops(self, size, self.min_tokens_per_param) for size in foot)
        most = math.sqrt(cost / (self.method.general.least_flops * self.min_tokens_per_param))
        return (*foot, *self.every(least * GAP * (1 + ROUNDING), min(high, most)))

    def every(self, low: float, high: float) -> tuple[Size, ...]:
        """List all shapes between two sizes."""
        assert self.recipe is not None and self.vocab is not None
        first, last = (min(max(end, SMALLEST), LARGEST) for end in (low / ASIDE, high * ASIDE))
        shapes = shapes_between(first, last, EVERY_SHAPE, family=self.recipe.family, vocab=self.vocab)
        return tuple(sized(shape, self.recipe.seq_len, self.method) for shape in shapes if low <= shape.params_non_embedding <= high)

    def _sizes(self, low: float, high: float, step: float) -> tuple[Size, ...]:
        ends = self.clipped(0.0), self.clipped(math.inf)
        if self.recipe is not None and self.request.params_range:
            low, high = (low / ASIDE if low <= ends[0] else low), (high * ASIDE if high >= ends[1] else high)
            ends = max(ends[0] / ASIDE, SMALLEST), min(ends[1] * ASIDE, LARGEST)
        low, high = (min(max(end, ends[0]), ends[1]) for end in (low, high))
        if self.recipe is None or self.vocab is None:
            steps = step * np.arange(math.ceil(math.log(low) / step), math.floor(math.log(high) / step) + 1)
            sizes = [self.size(value) for value in dict.fromkeys([low, *np.exp(steps).tolist(), high])]
        else:
            shapes = shapes_between(low, high, step, family=self.recipe.family, vocab=self.vocab)
            sizes = [sized(shape, self.recipe.seq_len, self.method) for shape in shapes]
        return tuple(size for size in sizes if self.trainable(size, self.min_tokens_per_param))

    def clipped(self, params_non_embedding: float) -> float:
        """Clip a size to the range to search: the requested one, or from far below the runs upward, on the ladder of shapes."""
        low, high = self.request.params_range or (self.law.support.low["params"] / BELOW, math.inf)
        if self.recipe is not None:
            low, high = max(low, SMALLEST), min(high, LARGEST)
        return min(max(params_non_embedding, low), high)

    def fits(self, size: Size) -> bool:
        """Return whether a size's states fit the memory of the GPUs."""
        return self.request.memory_per_gpu is None or self.bytes_per_gpu(size) <= self.request.memory_per_gpu

    def bytes_per_gpu(self, size: Size) -> float:
        """Return the least memory of each GPU for training a size [bytes]; only its states if it has no shape."""
        if size.shape is None or self.recipe is None:
            return TRAINED_BYTES * size.params_non_embedding / self.request.gpus
        return self.method.general.bytes_per_gpu(size.shape, self.request.gpus, self.recipe.seq_len)

    def whole_bytes(self, size: Size) -> float:
        """Return the part of that which is on every GPU, however many there are [bytes]."""
        return 0.0 if size.shape is None or self.recipe is None else self.method.general.whole_bytes(size.shape, self.recipe.seq_len)

    def trainable(self, size: Size, tokens_per_param: float) -> bool:
        """Tell whether memory, budget and text allow a size with at least some tokens per parameter."""
        if not self.fits(size):
            return False
        return self.tokens(size) >= self.least_tokens(size, tokens_per_param) * (1 - ROUNDING) and self.text_does(size)

    def text_does(self, size: Size) -> bool:
        """Tell whether there is enough text for the minimum of tokens of a size."""
        return self.text >= max(self.shortest * size.params_non_embedding, self.min_tokens_stage) * (1 - ROUNDING)

    def least_tokens(self, size: Size, tokens_per_param: float) -> float:
        """Return the least that the budget must pay for a size with at least some tokens per parameter, in general tokens."""
        stage, needed = self.min_tokens_stage, self.shortest * size.params_non_embedding
        least = max(tokens_per_param * size.params_non_embedding, stage)
        general, spec = self.texts
        if general >= needed or spec >= needed and not self.needs_trunk or general + spec < needed:
            return least
        # Neither kind of text is enough alone, and both stages have a minimum: take as few specialist tokens as possible, or as many.
        fewest = max(stage, needed - general)
        amounts = fewest, max(fewest, min(spec, needed - stage))
        return max(least, min(max(needed - amount, stage) + size.spec_cost * amount for amount in amounts))

    def size_range(self) -> tuple[float, float]:
        """Return the least size to search, which does not depend on the budget, and the largest that the budget can train."""
        cheapest = self.method.general.least_flops * self.min_tokens_per_param
        least, most = self.clipped(0.0), self.clipped(math.sqrt(self.request.flops / cheapest))
        if self.trainable(self.size(most), self.min_tokens_per_param):
            return least, most
        # Embeddings and attention make a token cost more than 6·N, and inference is paid too: the largest size is smaller.
        low, _ = bisect_log(least, most, lambda params: not self.trainable(self.size(params), self.min_tokens_per_param), HALVINGS)
        # A slightly larger shape with narrower embeddings may cost less: a budget must not miss what a smaller one finds.
        for larger in np.geomspace(BESIDE * low, low, BESIDES, endpoint=False):
            if self.trainable(self.size(float(larger)), self.min_tokens_per_param):
                return least, float(larger)
        return least, low

    def plans(self, sizes: tuple[Size, ...], fractions: Array, general: Sequence[float] = (math.inf,)) -> Plans:
        """Cross sizes with amounts of specialist text and of general text.

        Specialist tokens are fractions of the most possible, none, and amounts that a grid misses: one pass, the shortest stage, all but the shortest
        general stage, what is left when the general text is used up, and what the size then still needs. No plan has fewer than `shortest` tokens per
        parameter.

        Args:
            sizes: the sizes.
            fractions: of the most specialist tokens that budget and passes allow, each in (0, 1].
            general: general tokens, ascending; capped at what budget and text allow. With less, some of the budget is left over.
        """
        stage, least = self.min_tokens_stage, self.min_tokens_stage * (1 - ROUNDING)
        # Text too short for a stage counts as none.
        general_tokens, unique = self.texts[0], float(self.request.unique_spec)
        total, cost = (np.array(values)[:, None] for values in zip(*((self.tokens(size), size.spec_cost) for size in sizes), strict=True))
        most = np.minimum(total / cost, self.max_tokens_spec)
        enough = self.shortest * np.array([[size.params_non_embedding] for size in sizes])
        ends = [np.full_like(total, stage), (total - stage) / cost, np.full_like(total, unique), (total - general_tokens) / cost, enough - general_tokens]
        edges = np.hstack(ends)
        spec = np.hstack([np.zeros_like(total), fractions * most, np.where((edges > 0) & (edges < most), edges, np.nan)])
        left = total - cost * spec
        rest = np.where(left > 1e-9 * total, np.minimum(left, general_tokens), 0.0)
        # General text too short for a stage is left over; amounts that are capped to the same value are one plan.
        taken = np.minimum(rest[:, :, None], np.asarray(general))
        taken = np.where(taken >= least, taken, 0.0)
        again = np.diff(taken, axis=2, prepend=-1.0) == 0
        keep = (((spec == 0) | (spec >= least))[:, :, None]) & ~again & (taken + (0.0 if self.needs_trunk else spec[:, :, None]) > 0)
        number, amount, share = np.nonzero(keep)
        alone = np.flatnonzero(((stage <= most) & (most < total / cost) & (most > 0))[:, 0] & (not self.needs_trunk))
        # With less general text than possible: the specialist text that the size then still needs.
        every = np.broadcast_to(np.asarray(general), (len(sizes), len(general)))
        missing = enough - every
        inside = (every >= least) & (every > 0) & (every < np.minimum(total, general_tokens)) & (missing >= least) & (missing < most)
        floor = np.nonzero(inside & (np.where(inside, every, 0.0) + cost * missing < total))
        made = self.make(
            np.concatenate([number, alone, floor[0]]), np.concatenate([taken[number, amount, share], np.zeros(len(alone)), every[floor]]),
            np.concatenate([spec[number, amount], most[alone, 0], missing[floor]]), sizes,
        )  # fmt: skip
        return made.rows(self.enough(made))

    def enough(self, plans: Plans) -> Any:
        """Tell which plans have the minimum of tokens per parameter."""
        return plans.tokens_pt + plans.tokens_spec >= self.shortest * plans.params * (1 - ROUNDING)

    def split(self, sizes: tuple[Size, ...], share: float, *, stage: bool = True, alone: Sequence[float] = (math.inf,)) -> Plans:
        """Return the plans with one share of specialist tokens, without sizes for which it would take too many passes.

        Args:
            sizes: the sizes.
            share: of specialist tokens in all tokens.
            stage: whether they are a stage of their own, with the minimum of a stage; else they cost the same as general ones.
            alone: for a share of 1, amounts of specialist tokens, ascending; capped at what budget and passes allow.
        """
        least = self.min_tokens_stage if stage else 0.0
        sizes = sizes if stage else tuple(replace(size, spec_cost=1.0) for size in sizes)
        total = self.tokens_at_each(sizes, share)[:, None]
        if share == 1:  # what the passes, or a smaller amount, do not use stays unspent
            total = np.minimum(np.minimum(total, self.max_tokens_spec), np.asarray(alone))
        trained = (total > 0) & (share * total <= self.max_tokens_spec) & ((share == 0) | (share * total >= least)) & (share < 1 or not self.needs_trunk)
        number, amount = np.nonzero(trained & (np.diff(total, axis=1, prepend=-1.0) != 0))
        taken = total[number, amount]
        made = self.make(number, (1 - share) * taken, share * taken, sizes)
        return made.rows(self.enough(made))

    def points(self, plans: Plans) -> list[Points]:
        """Prepare plans as points of the law, for each member."""
        return self.law.points(plans.params_by, plans.tokens_pt, plans.tokens_spec, plans.unique_spec)

    def realise(self, size: Size, tokens_pt: float, tokens_spec: float) -> Plans:
        """Round one plan to whole optimiser steps of the recipe, without exceeding a limit."""
        step = self.recipe.tokens_per_step if self.recipe else 1
        spec = step * math.floor(tokens_spec / step + ROUNDING)
        # The part of a step that the specialist stage leaves over may make one more step of the general stage.
        left = min(tokens_pt + size.spec_cost * (tokens_spec - spec), self.general_tokens) if tokens_pt > 0 else 0.0
        pt = step * math.floor(left / step + ROUNDING)
        return self.make(np.zeros(1, dtype=int), np.array([float(pt)]), np.array([float(spec)]), (size,))

    def make(self, number: Any, pt: Array, spec: Array, sizes: tuple[Size, ...]) -> Plans:
        """Make plans from numbers of sizes, general and specialist tokens, each of shape (plans,)."""
        params = np.array([size.params_non_embedding for size in sizes], dtype=float)[number]
        return Plans(number, params, pt, spec, np.full(len(number), float(self.request.unique_spec)), sizes)
