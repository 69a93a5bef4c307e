"""The answer of `plan allocate --domains`, and its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from planner.allocate.allocation import Worth, check_interval, check_shape
from planner.allocate.budget import check_cost
from planner.arrays import Array
from planner.artifacts import check_numbers, read_artifact, whole, write_artifact
from planner.fit.support import NEAR

KIND = "domains"
VERSION = 1


@dataclass(frozen=True)
class DomainPlan:
    """The part of one domain in a structure, with its forecast loss."""

    name: str
    weight: float
    """As given."""
    params_non_embedding: float
    tokens_pt: float
    """Tokens that count as general text for it: of the trunk, of its own model, or those of a mix that are assumed to count."""
    tokens_spec: float
    """Specialist tokens, repeats included; 0 for no specialist stage."""
    unique_spec: float
    epochs_spec: float
    flops: float
    """FLOPs of its branch, its model, or its own text in the mix."""
    flops_path: float
    """FLOPs of everything its loss depends on: trunk and branch, its model, or the whole mix."""
    share_flops: float
    """`flops` as a share of the budget."""
    loss: float
    """Forecast, mean over the resamples [nats/token]."""
    loss_low: float
    loss_high: float
    """90 % interval of one run, from resamples, run noise, and drift outside the runs."""
    max_loss: float | None
    """Required loss [nats/token]."""
    extrapolation: dict[str, float]
    """By what factor it lies outside the runs of its law on each axis; 1 is inside, None (infinity) if it has something that no run has, or lacks what
    every run has."""
    shape: dict[str, Any] | None = None
    params_total: float | None = None
    general: dict[str, Any] | None = None
    """The general loss after the specialist stage, if it is limited, with the replay that keeps the limit: fields of `retention.GeneralLoss`."""
    accuracy: dict[str, Any] | None = None
    """Forecast accuracy with its 90 % interval, as `accuracy.forecast` describes it; only in the recommended structure, for domains with a table."""
    flops_6nd: float | None = None
    """6·N·D for the training that `flops` counts, with non-embedding parameters, for comparison; None in answers of older versions."""
    probability: float | None = None
    """Probability that one run reaches the required loss, from the interval; None if none is required, and in answers of older versions."""
    surer_max_loss: float | None = None
    """Required loss to ask for so that this one is reached in 95 % of runs; None if it already is, if the law cannot know, if no loss is required, and in
    answers of older versions."""

    @property
    def params_by(self) -> dict[str, Array]:
        """Parameters under each convention, each of shape (1,)."""
        return {"non_embedding": np.array([self.params_non_embedding]), "total": np.array([self.params_total or np.nan])}

    @property
    def tokens_trunk(self) -> float:
        """General tokens before the specialist stage, without those replayed in it."""
        return self.tokens_pt - (self.general["tokens_replayed"] if self.general else 0.0)

    @property
    def replay_fraction(self) -> float:
        """Share of general text in the specialist stage."""
        return float(self.general["replay_fraction"]) if self.general else 0.0


@dataclass(frozen=True)
class Structure:
    """One way to organise the training, with its best plan."""

    name: str
    assumption: str
    """What is assumed without measurement; empty if the sweeps measure everything."""
    loss: float | None
    """Weighted mean of the domains' losses, mean over the resamples [nats/token]; None if the budget or a required loss allows no plan."""
    loss_low: float | None
    loss_high: float | None
    """90 % interval, from resamples, the noise of each run, and drift outside the runs."""
    worse_percent: float | None
    """How much higher its loss is than the recommended structure's [%]; None for an arm that does not keep the limits of that structure."""
    probability: float | None
    """Share of the resamples in which the recommended structure is better; None for itself, for a mix whose loss is a bound, and if `worse_percent` is
    None."""
    params_non_embedding: float | None
    """Size of the one model or trunk; None if each domain has a size of its own."""
    tokens_general: float | None
    """General tokens in total."""
    flops: float | None
    share_general: float | None
    """Share of the budget for the trunk, or for the general text of the mix; None if each domain has its own model."""
    domains: tuple[DomainPlan, ...]
    note: str = ""
    """Why there is no plan, or remarks on this one."""
    flops_inference: float = 0.0
    """FLOPs of the lifetime inference of all models, if counted."""
    flops_6nd: float | None = None
    """6·N·D of all that is trained, trunk and branches, with non-embedding parameters, for comparison; None in answers of older versions."""

    @classmethod
    def unavailable(cls, name: str, assumption: str, why: str) -> Structure:
        """Make a structure that has no plan, with the reason as its note."""
        return cls(name, assumption, None, None, None, None, None, None, None, None, None, (), why)


@dataclass(frozen=True)
class InformationValue:
    """Value of the law of some domains for the decision."""

    domains: tuple[str, ...]
    """Domains that share the law, those with the most FLOPs first."""
    saved_percent: float
    """By how much the weighted loss would be lower if the law were known exactly, mean over its resamples [% of it]: runs for it cannot save more."""
    most_percent: float
    """The same for the resample with the largest saving."""


@dataclass(frozen=True)
class DomainsAllocation:
    """The structures at equal FLOPs."""

    request: dict[str, Any]
    best: str
    """Name of the recommended structure: the best of those that the sweeps measure."""
    structures: tuple[Structure, ...]
    arms: tuple[Structure, ...]
    """Restricted forms of split training: equal branches, no general text, no specialist tokens, and half or a tenth of all tokens specialist, divided as
    in the recommended plan; not compared if they break required losses or a limit on the general loss."""
    warnings: tuple[str, ...]
    sources: dict[str, Any] = field(default_factory=dict)
    """By law: its path, sweep, recipe, vocabulary."""
    created: str = ""
    """Time of writing [UTC]."""
    around: dict[str, Any] = field(default_factory=dict)
    """How sharp the optimum is: fields of `sensitivity.Sensitivity`."""
    worths: tuple[Worth, ...] = ()
    """Gains from more of each resource."""
    exchange: str = ""
    """What the specialist text is worth in compute, in words."""
    knowing: tuple[InformationValue, ...] = ()
    """Value of knowing each law exactly, largest first, if that was asked for."""
    cost: dict[str, Any] | None = None
    """Cost of the recommended structure: the fields of `budget.Cost`; None if no speed of a GPU was given, and in answers of older versions."""

    @property
    def recommended(self) -> Structure:
        """Return the best structure."""
        return next(structure for structure in self.structures if structure.name == self.best)

    @property
    def settled(self) -> bool:
        """Whether more runs are unnecessary: all plans lie inside the runs, and the 90 % regret is within the tolerance."""
        inside = all(factor <= NEAR for plan in self.recommended.domains for factor in plan.extrapolation.values())
        regret = self.around.get("regret_90_percent")
        return inside and regret is not None and regret <= 100 * float(self.request["tolerance"])

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write the file."""
        body = asdict(self)
        body.pop("created")
        write_artifact(path, KIND, VERSION, body, inputs)

    @classmethod
    def load(cls, path: Path | str) -> DomainsAllocation:
        """Read the file.

        Raises:
            InputError: no such file, another kind of file, or impossible values.
        """
        body = read_artifact(path, KIND, VERSION)
        with whole(path):
            structures, arms = (tuple(_structure(item) for item in body[key]) for key in ("structures", "arms"))
            best = next((item for item in structures if item.name == body["best"]), None)
            if best is None or best.loss is None or not best.domains:
                raise ValueError(f"best = {body['best']!r}, of which there is no plan")
            lawful = {name for source in body["sources"].values() for name in source["domains"]}
            lost = [plan.name for item in (*structures, *arms) for plan in item.domains if plan.name not in lawful]
            if lost:
                raise ValueError(f"no source for the domain {lost[0]!r}")
            dict(body["request"].items())
            datetime.fromisoformat(body["created"])
            worths = tuple(Worth(**item) for item in body.get("worths", []))
            check_cost(body.get("cost"))
            return cls(
                body["request"], body["best"], structures, arms, tuple(body["warnings"]), body["sources"], body["created"],
                dict(body.get("around", {})), worths, body.get("exchange", ""),
                tuple(InformationValue(**{**item, "domains": tuple(item["domains"])}) for item in body.get("knowing", [])),
                body.get("cost"),
            )  # fmt: skip


def _structure(body: Mapping[str, Any]) -> Structure:
    numbers = ("loss", "loss_low", "loss_high", "params_non_embedding", "tokens_general", "flops", "share_general")
    check_numbers(body, numbers, low=0.0, optional=True, what=body["name"])
    check_numbers(body, ("worse_percent", "probability"), optional=True, what=body["name"])
    for one in (body, *body["domains"]):
        check_numbers({"flops_6nd": one.get("flops_6nd")}, ("flops_6nd",), low=0.0, optional=True, what=f"6·N·D of {body['name']}")
    for item in body["domains"]:
        what = f"the domain {item['name']} of {body['name']}"
        if not isinstance(item["name"], str):
            raise ValueError(f"name = {item['name']!r} of a domain")
        check_numbers(item, ("params_non_embedding", "loss"), low=5e-324, what=what)
        check_numbers(item, ("weight", "tokens_pt", "tokens_spec", "unique_spec", "epochs_spec", "flops", "flops_path", "share_flops"), low=0.0, what=what)
        check_numbers(item, ("loss_low", "loss_high", "max_loss"), low=0.0, optional=True, what=what)
        sure = {key: item.get(key) for key in ("probability", "surer_max_loss")}
        check_numbers(sure, sure, low=0.0, optional=True, what=what)
        check_interval(item, what)
        check_numbers(item["extrapolation"], item["extrapolation"], optional=True, what=what)
        check_shape(item.get("shape"), what)
        if item.get("general") is not None:
            kept = ("replay_fraction", "tokens_replayed", "loss", "loss_low", "loss_high")
            check_numbers(item["general"], kept, low=0.0, what=f"the general loss of {what}")
            if item["general"]["replay_fraction"] >= 1:
                raise ValueError(f"replay_fraction = {item['general']['replay_fraction']} of {what}")
    plans = [{**item, "extrapolation": {name: math.inf if to is None else to for name, to in item["extrapolation"].items()}} for item in body["domains"]]
    return Structure(**{**body, "domains": tuple(DomainPlan(**plan) for plan in plans)})
