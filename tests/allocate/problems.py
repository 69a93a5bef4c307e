"""Random laws and requests, what they allow, and what a plan is worth, without the allocator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from planner.allocate.allocation import Plan
from planner.allocate.request import Request
from planner.arrays import Array
from planner.fit.fitted import FittedLaw
from planner.fit.member import Member
from planner.fit.scale import Scale
from planner.fit.support import Support
from planner.flops import flops_per_token
from planner.ladder import shape_for, shapes_at
from planner.laws import LAWS, Law, Points, Reference
from planner.recipe import Recipe
from planner.shapes import ModelShape

REFERENCE = Reference(1e5, 1e6)
RECIPE = Recipe()
VOCAB = 1024
STEP = RECIPE.tokens_per_step
LEAST_STAGE = 200 * STEP
"""Tokens of a stage that is more than a transient, as the allocator has it."""
RESAMPLES = 5
TWO_STAGE = tuple(law for law in LAWS.values() if law.target == "spec" and law.stages == 2)
ONE_STAGE = tuple(law for law in LAWS.values() if law.target == "spec" and law.stages == 1 and not law.repeats)
SWEEPS = Path(__file__).parents[2] / "sweeps"
HIGH = {"params": 3e5, "tokens_pt": 5e6, "tokens_spec": 3e6, "unique_spec": 1.6e6, "epochs_spec": 16.0, "tokens_per_param": 300.0, "flops": 5e12,
        "flops_6nd": 3e12}  # fmt: skip
LOW = {"params": 2e4, "tokens_pt": 3e5, "tokens_spec": 2e5, "unique_spec": 2.5e4, "epochs_spec": 0.25, "tokens_per_param": 3.5, "flops": 5e11,
       "flops_6nd": 1.4e11}  # fmt: skip


def recorded(sweep: str) -> FittedLaw:
    """Return the law of a sweep as it was recorded on 2026-11-29, by which requests that once had a wrong answer were found."""
    return FittedLaw.load(SWEEPS / sweep / "law_2026-11-29.json")


def random_member(law: Law, kind: str, random: np.random.Generator, resamples: int = RESAMPLES) -> Member:
    """Draw parameters where starts are drawn from, and resamples around them."""
    scale, low, high = Scale(law), *(np.array([getattr(item, end) for item in law.parameters]) for end in ("low", "high"))
    theta = scale.draw(random, 1)[0]
    # 10 % on a log scale, and 0.05 of an exponent that may be negative: as uncertain as a small sweep leaves them.
    spread = np.array([0.1 if item.logarithmic else 0.05 for item in law.parameters])
    theta_resampled = np.clip(scale.unnatural(scale.natural(theta[None]) + spread * random.normal(size=(resamples, len(theta)))), low, high)
    return Member(law, kind, REFERENCE, theta, theta_resampled, "converged", 1, 1, 1.0, (), (), 0.0)


def random_law(law: Law, random: np.random.Generator, resamples: int = RESAMPLES) -> FittedLaw:
    """Make a fitted law of one form, sometimes beside a second form; with a recipe, and thus real shapes, or without."""
    forms = [law, TWO_STAGE[int(random.integers(len(TWO_STAGE)))]] if law.stages == 2 and random.random() < 0.2 else [law]
    shapes = random.random() < 0.5
    kinds = ["non_embedding", "total"]
    members = tuple(random_member(form, str(random.choice(kinds)) if shapes else kinds[0], random, resamples) for form in forms)
    source = {"recipe": RECIPE.to_dict(), "vocab_size": VOCAB} if shapes else {}
    return FittedLaw(members, 0.005, 0.005, Support(LOW, HIGH, {name: name.startswith("tokens_") for name in HIGH}), 1.0, source=source)


def random_request(random: np.random.Generator) -> Request:
    """Draw a request; limits bind in some."""
    flops = _log_uniform(random, 3e11, 1e15)
    most = np.sqrt(flops / 21)  # the largest size that is searched
    request = Request(flops, _log_uniform(random, 1e4, 3e6), max_epochs=_log_uniform(random, 1.0, 40.0) if random.random() < 0.7 else None)
    if random.random() < 0.3:
        request = replace(request, general_tokens=_log_uniform(random, 3e5, 3e7))
    if random.random() < 0.25:
        request = replace(request, inference_tokens=_log_uniform(random, 1e5, 1e7))
    least = max(1e4, most / 200)
    kind = random.integers(5)
    if kind == 0:
        return replace(request, params=_log_uniform(random, least, most / 2))
    if kind == 1:
        low = _log_uniform(random, least, most / 3)
        return replace(request, params_range=(low, low * _log_uniform(random, 1.3, 30.0)))
    if kind == 2:
        return replace(request, params_among=tuple(_log_uniform(random, least, most / 2) for _ in range(3)))
    return request


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class Sizes:
    """Sizes as arrays of shape (sizes,)."""

    params: Array
    total: Array
    cost: Array
    """Training FLOPs a general token."""
    spec_cost: Array
    """FLOPs of a specialist token over those."""

    def where(self, mask: Array) -> Sizes:
        return Sizes(self.params[mask], self.total[mask], self.cost[mask], self.spec_cost[mask])


def of_shapes(shapes: list[ModelShape], method: str) -> Sizes:
    costs = [(flops_per_token(s, RECIPE.seq_len), RECIPE.method(method).flops_per_token(s, RECIPE.seq_len)) for s in shapes]
    rows = [(float(s.params_non_embedding), float(s.params_total), full, other / full) for s, (full, other) in zip(shapes, costs, strict=True)]
    return Sizes(*np.array(sorted(rows)).T)


@lru_cache(maxsize=2)
def ladder(method: str) -> Sizes:
    """List every shape of the ladder that a search could meet, some of which are nearest to hardly more than one size."""
    parts = np.array_split(np.geomspace(1e4, 2e7, 500_000), 20)
    return of_shapes(list({shape for part in parts for shape in shapes_at(part, family=RECIPE.family, vocab=VOCAB)}), method)


def smooth(params: Array) -> Sizes:
    return Sizes(params, np.full_like(params, np.nan), 6.0 * params, np.ones_like(params))


def method_of(law: FittedLaw) -> str:
    return str(law.source.get("method", "full"))


def epochs_allowed(law: FittedLaw, request: Request) -> float:
    return request.max_epochs or max(1.0, law.support.high["epochs_spec"])


def tokens_of(request: Request, sizes: Sizes) -> Array:
    """Return the training tokens that the budget pays, a forward pass costing a third of a training token."""
    return request.flops / sizes.cost - request.inference_tokens / 3.0


def allowed_sizes(law: FittedLaw, request: Request) -> Sizes:
    """List the sizes that a request allows, finely."""
    shapes = bool(law.source)
    asked = (request.params,) if request.params else request.params_among
    if asked:
        sizes = of_shapes([shape_for(value, family=RECIPE.family, vocab=VOCAB) for value in asked], method_of(law)) if shapes else smooth(np.array(asked))
    else:
        # The largest N with C/6N − I/3 tokens, as many as the runs cover for each parameter at least.
        ratio, inference = LOW["tokens_per_param"], request.inference_tokens
        most = (np.sqrt(4 * inference**2 + 24 * ratio * request.flops) - 2 * inference) / (12 * ratio) * (1 - 1e-12)
        low, high = request.params_range or (LOW["params"] / 100, np.inf)
        sizes = ladder(method_of(law)) if shapes else smooth(np.geomspace(low, min(most, high), 250))
        sizes = sizes.where((sizes.params >= low * (1 - 1e-9)) & (sizes.params <= high * (1 + 1e-9)))
    ratio = 2.0 if asked else LOW["tokens_per_param"]
    # And no size has more than half a parameter for each token that the text makes, nor any plan for each that it takes.
    special = epochs_allowed(law, request) * request.unique_spec if law.members[0].law.stages == 2 else 0.0
    text = (request.general_tokens or np.inf) + special
    least = np.maximum(ratio * sizes.params, LEAST_STAGE if shapes else 0.0)
    return sizes.where((tokens_of(request, sizes) >= least) & (text >= 2.0 * sizes.params))


def expected(law: FittedLaw, params: Array, total: Array, pt: Array, spec: Array, unique: float) -> Array:
    """Return the mean of ln L over the resamples of all members, straight from the formulas."""
    logs = []
    for member in law.members:
        points = Points(member.reference, total if member.params_kind == "total" else params, pt, spec, unique)
        logs.append(member.law.log_loss(member.resamples, points))
    return np.concatenate(logs).mean(0)


def rounding(law: FittedLaw, plan: Plan) -> float:
    """Return what whole steps cost in expected ln L, against a step more in either stage that there is."""
    step = STEP if law.source else 1
    more_pt, more_spec = (step if tokens else 0 for tokens in (plan.tokens_pt, plan.tokens_spec))
    if plan.tokens_spec < plan.unique_spec < plan.tokens_spec + step:
        more_spec = plan.unique_spec - plan.tokens_spec  # a first repeat may do harm at once
    pt, spec = plan.tokens_pt + more_pt * np.array([0, 0, 1]), plan.tokens_spec + more_spec * np.array([0, 1, 0])
    size = np.full(3, plan.params_non_embedding), np.full(3, plan.params_total or np.nan)
    values = expected(law, *size, pt, spec, plan.unique_spec)
    return float(values[0] - values.min())


def violations(law: FittedLaw, request: Request, params: float, flops_per_token: float, pt: float, spec: float, spec_cost: float = 1.0) -> list[str]:
    """Name the limits that a plan passes."""
    flops = flops_per_token * (pt + spec_cost * spec + request.inference_tokens / 3)
    low, high = request.params_range or (0.0, np.inf)
    # Of a shape, a size may miss the request by 5 %; a range is kept unless no shape lies in it.
    asked = request.params_among or ((request.params,) if request.params else ())
    affordable = request.flops / flops_per_token - request.inference_tokens / 3
    limits = {
        "budget": flops > request.flops * (1 + 1e-9), "general text": pt > (request.general_tokens or np.inf) * (1 + 1e-9),
        "epochs": spec > epochs_allowed(law, request) * request.unique_spec * (1 + 1e-9), "range": not low * (1 - 1e-9) <= params <= high * (1 + 1e-9),
        "sizes asked for": bool(asked) and min(abs(params / size - 1) for size in asked) > (0.05 if law.source else 1e-9),
        "tokens per parameter": affordable < (2.0 if asked else LOW["tokens_per_param"]) * params * (1 - 1e-9),
        "tokens taken per parameter": pt + spec < 2.0 * params - (2 * STEP if law.source else 2),
        "shortest stage": bool(law.source) and min(tokens for tokens in (pt, spec) if tokens) < LEAST_STAGE * (1 - 1e-9), "nothing": pt + spec <= 0,
    }  # fmt: skip
    return [name for name, passed in limits.items() if passed]
