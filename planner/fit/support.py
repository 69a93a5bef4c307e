"""The box that the runs cover, and how far a point lies outside it. Sizes here are non-embedding parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.artifacts import check_numbers
from planner.fit.data import FitData
from planner.fit.identify import SAME, nearly_one

AXES = ("params", "tokens_pt", "tokens_spec", "unique_spec", "epochs_spec", "tokens_per_param", "flops", "flops_6nd")
NEAR = 1.2
"""Factor outside the box, on any axis, up to which a plan counts as inside."""
FARTHEST = 1e62
"""Largest value of any axis in a file: the FLOPs of the most parameters and tokens that a runs table may have."""
RAY = "pt_per_param"
"""An axis only where general tokens are proportional to size: the runs then lie on one line through the box."""
TOTAL = "tokens_total"
"""An axis only where all two-stage runs have the same total of tokens: each stage varies, yet no run shows the effect of the total."""
TIED = (RAY, TOTAL)


@dataclass(frozen=True)
class Support:
    """Least and greatest positive value of every axis."""

    low: Mapping[str, float]
    high: Mapping[str, float]
    zero: Mapping[str, bool]
    """Whether runs with zero were trained, so that values from zero to the least positive one are inside; else they are outside."""

    @classmethod
    def of(cls, data: FitData) -> Support:
        """Find the box of a table."""
        params = data.params_by["non_embedding"]
        tokens = data.tokens_pt + data.tokens_spec
        unique = np.minimum(np.nan_to_num(data.unique_spec), data.tokens_spec)
        axes = (params, data.tokens_pt, data.tokens_spec, unique, data.epochs, tokens / params, data.flops, 6 * params * tokens)
        low, high, zero = {}, {}, {}
        for name, values in zip(AXES, axes, strict=True):
            positive = values[values > 0]
            low[name], high[name] = (float(positive.min()), float(positive.max())) if len(positive) else (0.0, 0.0)
            zero[name] = bool((values <= 0).any())
        ray = (data.tokens_pt / params)[data.tokens_pt > 0]
        if nearly_one(ray):
            low[RAY], high[RAY], zero[RAY] = float(ray.min()), float(ray.max()), zero["tokens_pt"]
        if data.two_stage and nearly_one(tokens):
            low[TOTAL], high[TOTAL], zero[TOTAL] = float(tokens.min()), float(tokens.max()), False
        return cls(low, high, zero)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Support:
        """Read the fields; for use inside `artifacts.whole`.

        Raises:
            KeyError: one is missing.
            TypeError: a value of another kind.
            ValueError: a least value above the greatest, or one that is none.
        """
        axes = (*AXES, *(name for name in TIED if name in body["low"]))
        for end in ("low", "high"):
            check_numbers(body[end], axes, low=0.0, high=FARTHEST, what=f"the support's {end}")
        for name in axes:
            if body["low"][name] > body["high"][name] or not isinstance(body["zero"][name], bool):
                raise ValueError(f"{name} = {body['low'][name]!r} to {body['high'][name]!r}, zero {body['zero'][name]!r}, of the support")
        return cls(*({name: body[key][name] for name in axes} for key in ("low", "high", "zero")))

    def joined(self, other: Support) -> Support:
        """Return the box of two tables together."""
        names = [*AXES, *(name for name in TIED if name in self.low and name in other.low)]
        low = {name: min((end for end in (self.low[name], other.low[name]) if end > 0), default=0.0) for name in names}
        high = {name: max(self.high[name], other.high[name]) for name in names}
        return Support(low, high, {name: self.zero[name] or other.zero[name] for name in names})

    def factors(self, params: Any, tokens_pt: Any, tokens_spec: Any, unique_spec: Any, flops: Any = None) -> dict[str, Array]:
        """Return by what factor points lie outside on each axis: 1 inside, 3 for three times the most or a third of the least.

        Distinct text counts only as far as it is read. An axis that no run has (specialist tokens in a one-stage table) gives infinity, and so does a
        point without general, or without specialist, tokens where every run has them.
        """
        params, pt, spec, unique = np.broadcast_arrays(*(np.asarray(item, dtype=float) for item in (params, tokens_pt, tokens_spec, unique_spec)))
        with np.errstate(divide="ignore", invalid="ignore"):
            epochs = np.where(spec > 0, spec / unique, 0.0)
        distinct = np.where(spec > 0, np.minimum(unique, spec), 0.0)
        values = {"params": params, "tokens_pt": pt, "tokens_spec": spec, "unique_spec": distinct, "epochs_spec": epochs}
        values["tokens_per_param"] = (pt + spec) / params
        values["flops_6nd"] = 6 * params * (pt + spec)
        if RAY in self.low:
            values[RAY] = pt / params
        if TOTAL in self.low:
            values[TOTAL] = pt + spec
        if flops is not None:
            values["flops"] = np.broadcast_to(np.asarray(flops, dtype=float), params.shape)
        return {name: self._factor(name, value) for name, value in values.items()}

    def distance(self, params: Any, tokens_pt: Any, tokens_spec: Any, unique_spec: Any) -> Array:
        """Return how far outside the runs a point lies, in log units.

        The largest of: the distance from the box of the axes (specialist tokens, read and distinct, count as one axis), the log factor in 6·N·D, and
        that on each axis of `TIED` which the runs have. A sweep under a FLOP limit has no run that is large in both size and tokens: a point may lie
        inside the box on every axis and still be outside the runs. Where a point has no tokens of a kind that every run has, one token is assumed, so
        that the distance is finite.
        """
        logs = {name: np.log(factor) for name, factor in self.factors(params, tokens_pt, tokens_spec, unique_spec).items()}
        for name, tokens in (("tokens_pt", tokens_pt), ("tokens_spec", tokens_spec)):
            logs[name] = np.where(np.asarray(tokens) > 0, logs[name], np.minimum(logs[name], np.log(max(self.low[name], 1.0))))
        text = np.maximum(logs["tokens_spec"], logs["unique_spec"])
        box = np.sqrt(logs["params"] ** 2 + logs["tokens_pt"] ** 2 + text**2 + logs["epochs_spec"] ** 2)
        result: Array = np.maximum(box, logs["flops_6nd"])
        for name in TIED:
            if name in logs:
                result = np.maximum(result, logs[name])
        return result

    def _factor(self, name: str, value: Array) -> Array:
        low, high, zero = self.low[name], self.high[name], self.zero[name]
        if high == 0:
            return np.where(value > 0, np.inf, 1.0)
        # Fewer FLOPs than any run's are not outside where the other axes are inside. Nor are fewer epochs where some run had one pass or less, since
        # repetition begins above that; where every run repeats its text, the loss after one pass is unknown, whatever runs without specialist text say.
        if name == "epochs_spec":
            under = low / np.maximum(value, 1.0) if low > 1 + SAME else 1.0
        else:
            under = 1.0 if zero or name in ("flops", "flops_6nd") else low / np.where(value > 0, value, np.inf)
        # A point without any specialist text is outside by its tokens already, where it is.
        under = np.where(value > 0, under, 1.0 if zero or name in ("unique_spec", "epochs_spec", RAY) else np.inf)
        return np.maximum(1.0, np.maximum(value / high, under))
