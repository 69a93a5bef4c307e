"""The recommendation and its file `allocation.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from planner.allocate.budget import check_cost
from planner.allocate.loss_units import loss_units
from planner.arrays import Array
from planner.artifacts import check_numbers, read_artifact, whole, write_artifact
from planner.errors import InputError
from planner.fit.support import NEAR
from planner.shapes import ModelShape

KIND = "allocation"
VERSION = 1
KNOWS_NO_TEXT = "the law knows no specialist tokens"
"""Note of arms under a law of one stage."""
NOTHING = 0.01
"""Expected regret of a recommendation below which no further runs are worth their FLOPs [% of the loss]."""
PASSES = {"one pass": 1.0, "four passes": 4.0}
"""Arms under a law of one corpus and its repeats; four passes are what arXiv 2305.16264 found nearly as good as fresh text."""


@dataclass(frozen=True)
class Plan:
    """One way to spend the budget, with its forecast loss."""

    params_non_embedding: float
    params_total: float | None
    tokens_pt: float
    """General tokens, including those replayed in the specialist stage."""
    tokens_spec: float
    """Specialist tokens, repeats included."""
    unique_spec: float
    """Distinct specialist tokens."""
    epochs_spec: float
    """Passes over the specialist text."""
    share_spec: float
    """Share of specialist tokens in all tokens."""
    flops: float
    """Exact for the shape; 6·N·D if the law's table names no recipe."""
    flops_6nd: float
    """6·N·D with non-embedding parameters, for comparison."""
    loss: float
    """Forecast [nats/token]."""
    loss_low: float
    loss_high: float
    """90 % interval of one run."""
    shape: dict[str, Any] | None = None
    """Layers, width, heads and vocabulary; None if the law's table names no recipe."""
    flops_inference: float = 0.0
    """FLOPs of its lifetime inference, if counted."""
    replay_fraction: float = 0.0
    """Share of replayed general text in the specialist stage, if the general loss is limited; the loss includes its cost."""

    @property
    def params_by(self) -> dict[str, Array]:
        """Parameters under each convention, each of shape (1,)."""
        return {"non_embedding": np.array([self.params_non_embedding]), "total": np.array([self.params_total or np.nan])}

    @property
    def model_shape(self) -> ModelShape:
        """Return the shape; only plans of a recipe have one."""
        assert self.shape is not None
        return ModelShape(**self.shape)


@dataclass(frozen=True)
class Arm:
    """A plan to compare with, such as no specialisation."""

    name: str
    plan: Plan | None
    """None if the budget or the passes do not allow it."""
    worse_percent: float | None
    """How much higher its loss is than the recommendation's, by the mean of ln L over the resamples, the measure of the choice; 0 if it is lower by no
    more than rounding to whole steps cost the recommendation."""
    probability: float | None
    """Share of the resamples in which the recommendation is better."""
    note: str = ""

    @classmethod
    def unavailable(cls, name: str, why: str) -> Arm:
        """Make an arm that has no plan, with the reason as its note."""
        return cls(name, None, None, None, why)


def behind(theirs: Array, mine: Array, rounding: float = 0.0) -> tuple[float, float]:
    """Return by how much a plan is worse than the recommendation [% of the loss], and in which share of the resamples, from ln L under each.

    Args:
        theirs: ln L of the plan, shape (resamples,).
        mine: ln L of the recommendation, of the same shape.
        rounding: mean cost of rounding the recommendation to whole steps; a plan that is better by no more than that counts as equal.
    """
    difference = theirs - mine
    mean = float(difference.mean())
    mean = min(mean + rounding, 0.0) if mean < 0 else mean
    # After rounding the two plans may be identical; equal is not better.
    return 100 * float(np.expm1(mean)) + 0.0, float((difference > 1e-6).mean())


@dataclass(frozen=True)
class Worth:
    """Gain from one change of the request."""

    change: str
    """The change in words, such as "10 % more compute"."""
    lower_percent: float
    """By how much the loss would be lower, from the mean of ln L over the resamples [% of it]."""
    low: float
    high: float
    """90 % interval over the resamples."""


@dataclass(frozen=True)
class Allocation:
    """The answer of `plan allocate`."""

    request: dict[str, Any]
    """The request, with defaults filled in."""
    plan: Plan
    """The recommendation: least expected regret over the resamples, or the best guess if that was asked for; rounded to whole optimiser steps."""
    best_guess: Plan
    """Best plan by the fitted parameters alone."""
    share_interval: tuple[float, float]
    """90 % interval, over the resamples, of the share of specialist tokens in each resample's own best plan."""
    params_interval: tuple[float, float]
    """The same for the non-embedding parameters."""
    share_within: tuple[float, float]
    """Range of shares among all plans whose loss is within the tolerance of the best."""
    params_within: tuple[float, float]
    """The same for the non-embedding parameters."""
    regret_expected_percent: float
    """Mean over resamples of the plan's excess loss over the resample's own best plan [%]."""
    regret_90_percent: float
    """90 % quantile of that excess over the resamples [%]."""
    arms: tuple[Arm, ...]
    """Other ways to spend the budget, such as specialist text alone."""
    extrapolation: dict[str, float]
    """By what factor the plan lies outside the runs of the law on each axis; 1 is inside, None (infinity) if it has something that no run has, or lacks
    what every run has."""
    warnings: tuple[str, ...]
    curve: dict[str, list[float]]
    """Best loss by share of specialist tokens, for the figure."""
    source: dict[str, Any] = field(default_factory=dict)
    """Origin of the law: recipe, vocabulary, corpus, domain."""
    created: str = ""
    """Time of writing [UTC]."""
    alternatives: tuple[Arm, ...] = ()
    """Plans within the tolerance of the best that are simpler or cheaper to use."""
    worths: tuple[Worth, ...] = ()
    """Gains from more of each resource."""
    exchange: str = ""
    """What the specialist text is worth in compute, in words, and why no gain is given for one more epoch, if so."""
    general: dict[str, Any] | None = None
    """The general loss, if it is limited: the fields of `retention.GeneralLoss`."""
    accuracy: dict[str, Any] | None = None
    """Forecast accuracy on a benchmark with its 90 % interval, as `accuracy.forecast` describes it; None if no table was given."""
    tokens_pt_interval: tuple[float, float] | None = None
    """90 % interval, over the resamples, of the general tokens of each resample's own best plan; None in answers of older versions, as below."""
    epochs_interval: tuple[float, float] | None = None
    """The same for the passes over the specialist text."""
    epochs_within: tuple[float, float] | None = None
    """Range of passes among all plans whose loss is within the tolerance of the best."""
    cost: dict[str, Any] | None = None
    """Cost of the plan: the fields of `budget.Cost`; None if no speed of a GPU was given, and in answers of older versions."""

    @property
    def replay_fraction(self) -> float:
        """Share of general text in the specialist stage."""
        return float(self.general["replay_fraction"]) if self.general else 0.0

    @property
    def tokens_trunk(self) -> float:
        """General tokens before the specialist stage."""
        return self.plan.tokens_pt - (float(self.general["tokens_replayed"]) if self.general else 0.0)

    @property
    def one_stage(self) -> bool:
        """Whether the law knows only sizes and tokens."""
        return any(arm.note == KNOWS_NO_TEXT for arm in self.arms)

    @property
    def one_corpus(self) -> bool:
        """Whether the law is of one corpus and its repeats, so that all text is specialist text."""
        return any(arm.name in PASSES for arm in self.arms)

    @property
    def settled(self) -> bool:
        """Whether more runs are unnecessary: the plan lies inside the runs, and its 90 % regret is within the tolerance."""
        inside = all(factor <= NEAR for factor in self.extrapolation.values())
        within = self.general is None or self.general.get("extrapolation", 1.0) <= NEAR
        return inside and within and self.regret_90_percent <= 100 * float(self.request["tolerance"])

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write allocation.json."""
        body = {**asdict(self), "felt": loss_units(self.plan, self.source)}
        body.pop("created")
        write_artifact(path, KIND, VERSION, body, inputs)

    @classmethod
    def load(cls, path: Path | str) -> Allocation:
        """Read allocation.json.

        Raises:
            InputError: no such file, another kind of file, or impossible values.
        """
        body = read_artifact(path, KIND, VERSION)
        with whole(path):
            check_plan(body["plan"], "the plan")
            check_plan(body["best_guess"], "the best guess")
            for arm in (*body.get("arms", ()), *body.get("alternatives", ())):
                check_numbers(arm["plan"] or {}, sorted(set(arm["plan"] or {}) - {"shape"}), optional=True, what=f"the arm {arm['name']}")
                check_numbers(arm, ("worse_percent", "probability"), optional=True, what=f"the arm {arm['name']}")
            if body.get("general") is not None:
                check_numbers(body["general"], ("replay_fraction", "tokens_replayed", "loss"), low=0.0, what="the general loss")
                check_numbers(body["general"], ("loss_low", "loss_high"), low=0.0, optional=True, what="the general loss")
                check_interval(body["general"], "the general loss")
            check_numbers(body, ("regret_expected_percent", "regret_90_percent"), optional=True)
            check_numbers(body["extrapolation"], body["extrapolation"], optional=True, what="the extrapolation")
            check_cost(body.get("cost"))
            for key in ("request", "source", "curve"):
                dict(body[key].items())
            datetime.fromisoformat(body["created"])
            arms, alternatives = (tuple(_arm(arm) for arm in body.get(key, ())) for key in ("arms", "alternatives"))
            plan, guess = Plan(**body["plan"]), Plan(**body["best_guess"])
            spans = ("tokens_pt_interval", "epochs_interval", "epochs_within")
            given = [key for key in spans if body.get(key) is not None]
            pairs = {key: (body[key][0], body[key][1]) for key in ("share_interval", "params_interval", "share_within", "params_within", *given)}
            for key, ends in pairs.items():
                check_numbers(dict(zip((f"{key} from", f"{key} to"), ends, strict=True)), (f"{key} from", f"{key} to"), low=0.0)
            return cls(
                request=body["request"], plan=plan, best_guess=guess, **pairs, regret_expected_percent=body["regret_expected_percent"],
                regret_90_percent=body["regret_90_percent"], arms=arms, alternatives=alternatives,
                worths=tuple(Worth(**worth) for worth in body.get("worths", ())), exchange=body.get("exchange", ""),
                extrapolation={name: math.inf if factor is None else factor for name, factor in body["extrapolation"].items()},
                warnings=tuple(body["warnings"]), curve=body["curve"], source=body["source"], created=body["created"], accuracy=body.get("accuracy"),
                general=body.get("general"), cost=body.get("cost"),
            )  # fmt: skip


def check_plan(body: Mapping[str, Any], what: str) -> None:
    """Check the numbers of a plan from a file; for use inside `whole`.

    Raises:
        KeyError: one is missing.
        TypeError: an incomplete shape.
        ValueError: an impossible number.
    """
    check_numbers(body, ("params_non_embedding", "flops", "flops_6nd", "loss"), low=5e-324, what=what)
    check_numbers(body, ("tokens_pt", "tokens_spec", "unique_spec", "epochs_spec", "share_spec"), low=0.0, what=what)
    check_numbers(body, ("params_total", "loss_low", "loss_high"), low=0.0, optional=True, what=what)
    check_numbers({"replay_fraction": body.get("replay_fraction", 0.0)}, ("replay_fraction",), low=0.0, high=0.999, what=what)
    check_interval(body, what)
    if body["tokens_pt"] + body["tokens_spec"] <= 0 or body["share_spec"] > 1:
        raise ValueError(f"{body['tokens_pt']:g} and {body['tokens_spec']:g} tokens, a share of {body['share_spec']:g}, of {what}")
    check_shape(body.get("shape"), what)


def check_interval(body: Mapping[str, Any], what: str) -> None:
    """Check that a forecast loss from a file lies in its interval; for use inside `whole`.

    Raises:
        ValueError: it does not.
    """
    if not (body["loss_low"] or 0.0) <= body["loss"] <= (math.inf if body["loss_high"] is None else body["loss_high"]):
        raise ValueError(f"a loss of {body['loss']:g} from {body['loss_low']} to {body['loss_high']}, of {what}")


def check_shape(body: Mapping[str, Any] | None, what: str) -> None:
    """Check a shape from a file; for use inside `whole`.

    Raises:
        TypeError: it is incomplete.
        ValueError: it is invalid.
    """
    if body is None:
        return
    try:
        shape = ModelShape(**body)
    except InputError as error:
        raise ValueError(f"{error.message}, of {what}") from error
    for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab"):
        if type(getattr(shape, name)) is not int:
            raise ValueError(f"{name} = {getattr(shape, name)!r} in the shape of {what}")


def _arm(body: dict[str, Any]) -> Arm:
    plan = None if body["plan"] is None else Plan(**body["plan"])
    return Arm(body["name"], plan, body["worse_percent"], body["probability"], body["note"])
