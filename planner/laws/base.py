"""What a law is: a formula for the loss, its parameters with their bounds, and the runs it is evaluated on.

Legend for this package: N non-embedding parameters, D tokens, U distinct tokens, L loss, E its irreducible part. Sizes and
tokens enter as ratios to a reference (N0, D0) that is stored with the fit, so an amplitude is what its term adds at the
reference, in nats/token, and parameters of one law are of like magnitude. Specialist tokens that are far scarcer than general ones
have a reference S0 of their own, else offsets and starts that fit one table would be out of reach in another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.laws.compiled import CompiledLaw, Program
from planner.laws.dual import Dual, curvature, derivatives

NEEDS = ("", "repeats", "passes", "distinct", "replay")
"""What a parameter may need of the runs; see `Parameter.needs`."""
AUTO = "auto"
"""Value of `--law` that chooses among all laws; no law may have this name."""
NARROWEST = 1e-6
"""Least standard deviation of a prior, as a share of its mean where the parameter is searched on a log scale, else of the parameter's range."""
WIDEST = 1e100
"""Largest standard deviation of a prior: squares of larger ones overflow, and no resample would move from the fit."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law."""

    name: str
    """Symbol in the formula."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    start: tuple[float, float]
    """Range that starts are drawn from."""
    unit: str
    """"nats/token", "exponent", "ratio" or "passes"."""
    logarithmic: bool = True
    """Whether it is searched on a log scale; not so where it may be zero or negative."""
    linear: bool = False
    """Whether the loss, apart from harm by repetition, is linear in it while the parameters without this mark are fixed: starts then solve for it."""
    needs: str = ""
    """What runs must have beside sizes and tokens to measure it: "repeats", specialist text that repeats; "passes", two numbers of passes above one;
    "distinct", repeats of two amounts of distinct text; "replay", general text in the specialist stage; "" for nothing more."""
    irreducible: bool = False
    """Whether it is the irreducible loss, which no size and no number of tokens goes below."""
    prior: tuple[float, float] | None = None
    """Mean and standard deviation over other tables, for a parameter that many tables leave open (`planner/fit/prior.py`); None: the runs alone tell."""

    def __post_init__(self) -> None:
        if self.needs not in NEEDS:
            raise ValueError(f"{self.name} needs {self.needs!r}, which is none of {', '.join(NEEDS[1:])}; leave it empty for nothing")
        least, most = self.start
        if not isinstance(self.name, str):
            raise ValueError(f"a parameter is named {self.name!r}; give it a string as name")
        if not np.isfinite([self.low, self.high]).all():
            raise ValueError(f"{self.name} is bounded by {self.low:g} and {self.high:g}, and a search needs numbers; give finite bounds")
        if not self.low <= least < most <= self.high:
            raise ValueError(f"{self.name} starts from {least:g} to {most:g}, which is no range between its bounds, {self.low:g} and {self.high:g}")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"{self.name} may be {self.low:g}, and is searched on a log scale; set logarithmic=False")
        if self.prior is not None:
            object.__setattr__(self, "prior", self._sound(self.prior))

    def _sound(self, prior: Any) -> tuple[float, float]:
        try:
            mean, deviation = map(float, prior)
        except (TypeError, ValueError):
            mean = deviation = np.nan
        if not (self.low <= mean <= self.high and 0 < deviation <= WIDEST):
            raise ValueError(f"{self.name} has the prior {prior}; give a mean between {self.low:g} and {self.high:g}, and a standard deviation")
        if deviation < NARROWEST * (mean if self.logarithmic else self.high - self.low):
            raise ValueError(f"{self.name} has the prior {prior}, which leaves nothing to fit; write the number into the formula instead")
        return mean, deviation


@dataclass(frozen=True)
class Reference:
    """The size and token count that ratios are taken to."""

    params: float
    """N0 [parameters]."""
    tokens: float
    """D0 [tokens]."""
    special: float | None = None
    """S0, the unit of specialist tokens S and U [tokens]; None where it is D0."""


class Points:
    """Where a law is evaluated: flat arrays of shape (runs,), as ratios to the reference; each is computed when a law first asks for it."""

    def __init__(self, reference: Reference, params: Any, tokens_pt: Any, tokens_spec: Any, unique_spec: Any, replay_fraction: Any = 0.0) -> None:
        """Prepare points.

        Args:
            reference: N0, D0 and S0.
            params: N, shape (runs,).
            tokens_pt: general tokens, zero allowed.
            tokens_spec: specialist tokens with repeats, zero allowed.
            unique_spec: distinct specialist tokens; ignored (may be NaN) where tokens_spec is zero.
            replay_fraction: share of general tokens in the specialist stage, on top of tokens_spec.
        """
        given = (np.atleast_1d(np.asarray(item, dtype=float)) for item in (params, tokens_pt, tokens_spec, unique_spec, replay_fraction))
        params, pt, spec, unique, replay = np.broadcast_arrays(*given)
        self._params, self._pt, self._spec, self._tokens, self._scale = params, pt, spec, reference.tokens, reference.params
        self._special = reference.special or reference.tokens
        self._unique: Array = np.where(spec > 0, unique, self._special)
        self.special: float = self._special / self._tokens
        """S0/D0: converts specialist tokens to the unit of all others."""
        self.replay: Array = replay
        self.count = len(params)
        self.laws: dict[int, CompiledLaw] = {}
        """See `Law.on`."""

    def told(self, number: int) -> str:
        """Describe a point in words."""
        return f"{self._params[number]:.3g} parameters with {self._pt[number]:.3g} general and {self._spec[number]:.3g} specialist tokens"

    @cached_property
    def general(self) -> Array:
        """General tokens, replayed ones included."""
        return (self._pt + self._spec * self.replay / (1 - self.replay)) / self._tokens

    @cached_property
    def log_n(self) -> Array:
        """Logarithm of the size."""
        return np.log(self._params / self._scale)

    @cached_property
    def pt(self) -> Array:
        """General tokens."""
        return self._pt / self._tokens

    @cached_property
    def has_pt(self) -> Array:
        """1 where there is a general stage, else 0; `has_spec` and `has_repeats` likewise."""
        return (self._pt > 0).astype(float)

    @cached_property
    def log_pt(self) -> Array:
        """Logarithm of the general tokens, 0 where there are none; likewise for all logarithms below."""
        return np.log(np.where(self._pt > 0, self._pt, self._tokens) / self._tokens)

    @cached_property
    def has_spec(self) -> Array:
        """See `has_pt`."""
        return (self._spec > 0).astype(float)

    @cached_property
    def unique(self) -> Array:
        """Distinct specialist tokens; 0 where none are read."""
        return self.has_spec * self._unique / self._special

    @cached_property
    def log_unique(self) -> Array:
        """Logarithm of the distinct specialist tokens."""
        return np.log(self._unique / self._special)

    @cached_property
    def log_spec(self) -> Array:
        """Logarithm of the specialist tokens with repeats."""
        return np.log(np.where(self._spec > 0, self._spec, self._special) / self._special)

    @cached_property
    def first(self) -> Array:
        """Specialist tokens of the first pass."""
        return np.minimum(self._spec, self._unique) / self._special * self.has_spec

    @cached_property
    def log_first(self) -> Array:
        """Logarithm of the specialist tokens of the first pass."""
        return np.log(np.where(self._spec > 0, self.first, 1.0))

    @cached_property
    def repeats(self) -> Array:
        """Passes beyond the first."""
        return np.where(self._spec > self._unique, self._spec / self._unique - 1, 0.0)

    @cached_property
    def has_repeats(self) -> Array:
        """See `has_pt`."""
        return (self.repeats > 0).astype(float)

    @cached_property
    def log_repeats(self) -> Array:
        """Logarithm of the passes beyond the first."""
        return np.log(np.where(self.repeats > 0, self.repeats, 1.0))

    @cached_property
    def total(self) -> Array:
        """General and specialist tokens, repeats included."""
        return self.pt + self._spec / self._tokens

    @cached_property
    def log_total(self) -> Array:
        """Logarithm of all tokens."""
        return np.log(np.maximum(self.total, 1e-300))


Formula = Callable[[Mapping[str, Any], Points], Any]
"""From parameters by name (each a dual or an array that broadcasts against the points) to the loss [nats/token]."""


@dataclass(frozen=True)
class Law:
    """A parametric law of the loss."""

    name: str
    """Name in `plan laws` and `--law`."""
    formula: str
    """The formula for people."""
    parameters: tuple[Parameter, ...]
    """In the order of parameter vectors."""
    loss: Formula
    """The formula as code."""
    source: str
    """Where the form is from (arXiv id), and where this departs from it."""
    use: str
    """When to use it."""
    stages: int = 2
    """1: sizes and tokens only; 2: general and specialist tokens."""
    repeats: bool = False
    """For a law of one stage: whether it knows distinct tokens and passes."""
    target: str = "spec"
    """Which loss it is for: "spec", on held-out specialist text, or "general"."""
    plain: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Amplitudes of plain powers: their axis, "N" or "D", and the name of the exponent; to write them without N0 and D0."""
    interaction: str = ""
    """Name of the parameter that is positive where a specialist token buys less the longer the general stage was; empty where the form fixes that."""
    candidate: bool = True
    """Whether `--law auto` tries it; a law that is not is fitted by name only."""
    tied: bool = False
    """Whether size and tokens have one exponent, so that the best size grows as the square root of the compute whatever the runs say."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name == AUTO or set(self.name) & set(", \t\n"):
            raise ValueError(f"a law is named {self.name!r}, which --law could not ask for; choose a name without commas and blanks, other than {AUTO}")
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) < len(names):
            raise ValueError(f"the law {self.name} has two parameters of the same name: {', '.join(names)}")
        for amplitude, power in self.plain.items():
            if len(power) != 2 or power[0] not in ("N", "D") or not {amplitude, power[1]} <= set(names):
                raise ValueError(f"the law {self.name} has {amplitude!r}: {power!r} as plain; give an amplitude, and N or D with its exponent")
        if self.interaction and self.interaction not in names:
            raise ValueError(f"the interaction of the law {self.name} is {self.interaction!r}, which is no parameter of it: {', '.join(names)}")
        if self.stages not in (1, 2) or self.target not in ("spec", "general"):
            raise ValueError(f"the law {self.name} is of {self.stages} stages and the {self.target} loss: stages are 1 or 2, the loss spec or general")

    @cached_property
    def programs(self) -> dict[Any, Program | None]:
        """Its compiled programs, by kind; None where its formula cannot be compiled."""
        return {}

    def on(self, points: Points) -> CompiledLaw:
        """Return the law compiled for some runs, for repeated use: faster from the second time on, the same to the last bit."""
        if id(self) not in points.laws:
            points.laws[id(self)] = CompiledLaw(self, points)
        return points.laws[id(self)]

    @property
    def needs(self) -> set[str]:
        """What its parameters need in the runs."""
        return {parameter.needs for parameter in self.parameters}

    @property
    def has_irreducible(self) -> bool:
        """Whether it has an irreducible loss."""
        return any(parameter.irreducible for parameter in self.parameters)

    @property
    def has_prior(self) -> bool:
        """Whether some parameter has a prior."""
        return any(parameter.prior is not None for parameter in self.parameters)

    @property
    def knows_general(self) -> bool:
        """Whether it knows general tokens: all laws but those of one corpus and its repeats."""
        return self.stages == 2 or not self.repeats

    @property
    def knows_special(self) -> bool:
        """Whether it knows specialist tokens, distinct ones and passes: all laws but those of sizes and tokens alone."""
        return self.stages == 2 or self.repeats

    def log_loss(self, theta: Array, points: Points) -> Array:
        """Forecast ln L, shape (problems, runs), at parameters of shape (problems, parameters)."""
        named = {parameter.name: theta[:, number : number + 1] for number, parameter in enumerate(self.parameters)}
        with np.errstate(over="ignore"):  # a term of an extreme run may be infinite where the loss is not
            return _full(np.log(self.loss(named, points)), (len(theta), points.count))

    def traced(self, theta: Array, points: Points) -> Dual:
        """Forecast L as a dual, from which slopes and curvature follow."""
        named = {parameter.name: Dual.parameter(theta[:, number : number + 1], number) for number, parameter in enumerate(self.parameters)}
        result: Dual = self.loss(named, points)
        return result

    def log_loss_and_slopes(self, theta: Array, points: Points) -> tuple[Array, Array]:
        """Forecast ln L, shape (problems, runs), and its derivatives, shape (problems, parameters, runs)."""
        value, slopes, _ = self.log_loss_slopes_and_trace(theta, points)
        return value, slopes

    def log_loss_slopes_and_trace(self, theta: Array, points: Points, out: Array | None = None) -> tuple[Array, Array, Dual]:
        """Forecast ln L and its derivatives (into `out` where given), with the trace of L that `log_curvature` takes."""
        trace = self.traced(theta, points)
        shape = (len(theta), points.count)
        by = derivatives(trace, 1.0 / trace.value)
        found = np.empty((shape[0], len(self.parameters), shape[1])) if out is None else out
        for number in range(len(self.parameters)):
            found[:, number] = by.get(number, 0.0)
        return _full(np.log(trace.value), shape), found, trace

    def log_curvature(self, trace: Dual, slopes: Array, weights: Array) -> Array:
        """Sum the weighted second derivatives of ln L over the runs.

        Args:
            trace: of L, as `log_loss_slopes_and_trace` returned it.
            slopes: derivatives of ln L by θ, from the same call.
            weights: shape (problems, runs).

        Returns:
            Σ_runs weights · ∂²ln L/∂θ∂θ', shape (problems, parameters, parameters).
        """
        bent = curvature(trace, weights / trace.value, len(self.parameters))
        return bent - (slopes * weights[:, None, :]) @ slopes.transpose(0, 2, 1)


def _full(values: Array, shape: tuple[int, int]) -> Array:
    return values if values.shape == shape else np.broadcast_to(values, shape)


def irreducible() -> Parameter:
    """Describe E."""
    return Parameter("E", 1e-3, 20.0, (0.2, 2.5), "nats/token", linear=True, irreducible=True)


def amplitude(name: str, linear: bool = True) -> Parameter:
    """Describe what a term adds at the reference."""
    return Parameter(name, 1e-4, 100.0, (0.05, 3.0), "nats/token", linear=linear)


def exponent(name: str, high: float = 3.0) -> Parameter:
    """Describe a decay exponent."""
    return Parameter(name, 5e-3, high, (0.08, 0.9), "exponent")
