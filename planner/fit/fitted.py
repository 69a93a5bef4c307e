"""A fitted law: forecasts with their intervals, how far they extrapolate, and its file `law.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.artifacts import check_numbers, read_artifact, whole, write_artifact
from planner.fit.allocator import keep_memory
from planner.fit.early import Early
from planner.fit.level import LEVEL, Z
from planner.fit.member import Member
from planner.fit.support import Support
from planner.flags import ONE_PASS
from planner.laws import Points

KIND = "law"
VERSION = 2
WIDEST = 1e9
"""Largest deviation or loss that a file may state: no fit has more, and its square would overflow."""
FAR_OVER_SEEDS = 4.0
"""Noise around a law over that between seeds from which a warning is due: with three pairs of seeds, a right law reaches it once in fifty times."""


@dataclass(frozen=True)
class Forecast:
    """Forecast losses [nats/token] with their intervals, each of shape (points,)."""

    loss: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class FittedLaw:
    """The result of `plan fit`, which later stages read."""

    members: tuple[Member, ...]
    noise: float
    """Standard deviation of ln L of one run around the law."""
    drift: float
    """Standard deviation of ln L per log unit outside the support."""
    support: Support
    least_loss: float
    """The lowest loss that any run reached [nats/token]."""
    scores: list[dict[str, Any]] = field(default_factory=list)
    """The table of all candidates: law, parameters, rms_percent, held by slice, mean."""
    holdout: dict[str, Any] = field(default_factory=dict)
    """The largest size, forecast by laws that were chosen and fitted without it."""
    source: dict[str, Any] = field(default_factory=dict)
    """Where the runs are from: sweep, corpus, domain, recipe, vocab_size, rows, flagged."""
    early: Early | None = None
    """What specialist text inside the general stage is worth; None where no run measures it."""

    @property
    def names(self) -> str:
        """Names of its laws, joined by commas."""
        return ", ".join(dict.fromkeys(member.law.name for member in self.members))

    @property
    def one_corpus(self) -> bool:
        """Whether it describes one corpus: its runs have no general stage, and either the law knows repeats or no run repeats."""
        once = not self.support.high["tokens_pt"] and self.support.high["epochs_spec"] <= ONE_PASS
        return all(member.law.stages == 1 for member in self.members) and (once or self.members[0].law.repeats)

    @property
    def origin(self) -> dict[str, Any]:
        """Where the runs are from, as answers keep it: without paths of tables, which are relative to the law's file, and without flagged runs."""
        return {key: value for key, value in self.source.items() if key not in ("runs", "with", "last_seed", "flagged")}

    def points(self, params: Mapping[str, Any], tokens_pt: Any, tokens_spec: Any, unique_spec: Any, replay_fraction: Any = None) -> list[Points]:
        """Prepare points to forecast, for each member; members with the same reference share theirs, with all that is computed of them.

        Args:
            params: parameters by convention, each of shape (points,); at least the conventions of the members.
            tokens_pt: general tokens.
            tokens_spec: specialist tokens with repeats.
            unique_spec: distinct specialist tokens.
            replay_fraction: share of general tokens in the specialist stage; None for none.
        """
        replay = 0.0 if replay_fraction is None else replay_fraction
        kinds = [(member.params_kind, member.reference) for member in self.members]
        made = {kind: Points(kind[1], params[kind[0]], tokens_pt, tokens_spec, unique_spec, replay) for kind in dict.fromkeys(kinds)}
        return [made[kind] for kind in kinds]

    def log_loss(self, points: Sequence[Points]) -> Array:
        """Forecast ln L, shape (points,)."""
        each = [member.log_loss(at) for member, at in zip(self.members, points, strict=True)]
        result: Array = np.mean(each, axis=0)
        return result

    def log_loss_resamples(self, points: Sequence[Points], most: int | None = None) -> Array:
        """Forecast ln L by every resample of every member, shape (resamples, points).

        Args:
            points: where.
            most: resamples of each member, at most.
        """
        keep_memory()
        return np.concatenate([member.log_loss_resamples(at, most) for member, at in zip(self.members, points, strict=True)])

    def forecast(
        self, params: Mapping[str, Any], tokens_pt: Any, tokens_spec: Any, unique_spec: Any, replay_fraction: Any = None, *, mean: bool = False
    ) -> Forecast:
        """Forecast the loss of one more run, with its 90 % prediction interval.

        The interval combines the resamples of all members, run noise, and drift outside the support. A law without an irreducible loss cannot know
        where the loss stops falling: outside the support the upper end of its interval is never below the lowest loss measured.

        Args:
            params: parameters by convention, as for `points`.
            tokens_pt: general tokens.
            tokens_spec: specialist tokens with repeats.
            unique_spec: distinct specialist tokens.
            replay_fraction: share of general tokens in the specialist stage; None for none.
            mean: whether to forecast the mean of ln L over the resamples, by which plans are chosen, instead of that of the fitted parameters.
        """
        points = self.points(params, tokens_pt, tokens_spec, unique_spec, replay_fraction)
        middle = self.log_loss_resamples(points).mean(0) if mean else self.log_loss(points)
        distance = self.support.distance(params["non_embedding"], tokens_pt, tokens_spec, unique_spec)
        deviation = self.deviation(points, distance, middle)
        # Beyond a deviation of 5 the interval says "anything"; the cap keeps it finite.
        width = Z * np.minimum(deviation, 5.0)
        high = np.exp(middle + width)
        if not self.bounded_below:
            high = np.where(distance > 0, np.maximum(high, self.least_loss), high)
        return Forecast(np.exp(middle), np.exp(middle - width), high)

    @property
    def bounded_below(self) -> bool:
        """Whether every law has an irreducible loss."""
        return all(member.law.has_irreducible for member in self.members)

    @property
    def unexplained(self) -> str:
        """Return a warning where the noise around the law is far above that between seeds, so that the law misses something; else an empty string."""
        seeds = self.source.get("replicate_sd")
        if not seeds or self.noise < FAR_OVER_SEEDS * seeds:
            return ""
        return (
            f"runs scatter around the law by {self.noise / seeds:.2g} times the noise between seeds: the law misses something, such as a skill that is "
            "learnt abruptly; see which runs lie farthest from it, and measure close to where it is to forecast"
        )

    def deviation(self, points: Sequence[Points], distance: Array, middle: Array) -> Array:
        """Return the standard deviation of ln L of a run from its forecast, at points a distance [log units] outside the support."""
        spread = ((self.log_loss_resamples(points) - middle) ** 2).mean(0)
        with np.errstate(invalid="ignore"):
            drift = np.where(distance > 0, self.drift * distance, 0.0)
        result: Array = np.sqrt(spread + self.noise**2 + drift**2)
        return result

    def save(self, path: Path, inputs: Mapping[str, str]) -> None:
        """Write law.json."""
        body = {
            "members": [member.to_dict() for member in self.members],
            "level": LEVEL,
            "noise": self.noise,
            "drift": self.drift,
            "least_loss": self.least_loss,
            "support": asdict(self.support),
            "scores": self.scores,
            "holdout": self.holdout,
            "source": self.source,
            **({"early": self.early.to_dict()} if self.early else {}),
        }
        write_artifact(path, KIND, VERSION, body, inputs)

    @classmethod
    def load(cls, path: Path | str) -> FittedLaw:
        """Read law.json.

        Raises:
            InputError: no such file, or another kind of file.
            StateError: written by another version.
        """
        body = read_artifact(path, KIND, VERSION)
        with whole(path):
            members = tuple(Member.from_dict(item) for item in body["members"])
            if not members:
                raise ValueError("no law in it")
            check_numbers(body, ("noise", "drift"), low=0.0, high=WIDEST)
            check_numbers(body, ("least_loss",), low=5e-324, high=WIDEST)
            source = dict(body["source"])
            _check_source(source)
            early = Early.from_dict(body["early"]) if body.get("early") else None
            if early is not None and len(early.resamples) != sum(len(member.resamples) for member in members):
                raise ValueError("a worth of early text for another number of resamples")
            return cls(
                members, body["noise"], body["drift"], Support.from_dict(body["support"]), body["least_loss"], list(body["scores"]),
                dict(body["holdout"]), source, early,
            )  # fmt: skip


def _check_source(body: Mapping[str, Any]) -> None:
    """Check the fields of the source that later stages read; for use inside `whole`."""
    for name, kind in (("recipe", dict), ("corpus_path", str), ("method", str), ("domain", str), ("sweep", str)):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise ValueError(f"{name} = {body[name]!r} of the source")
    kept = body.get("kept_flags", [])
    if not isinstance(kept, list) or not all(isinstance(flag, str) for flag in kept):
        raise ValueError(f"kept_flags = {kept!r} of the source")
    for name, least in (("vocab_size", 1), ("eval_tokens", 1), ("last_seed", 0), ("bytes_per_token", 5e-324), ("replicate_sd", 0.0)):
        if name in body:
            check_numbers(body, (name,), low=least, optional=True, what="the source")
