"""One of the laws that forecast together, as it was fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from planner.arrays import Array
from planner.artifacts import check_numbers
from planner.errors import DataError
from planner.fit.data import PARAMS_KINDS
from planner.fit.diagnosis import STATUS_ADVICE
from planner.fit.level import interval_of
from planner.laws import Law, Points, Reference, law_named

OUT_OF_REACH = "stay nearer to the runs, with fewer FLOPs or a range of sizes that it is defined for, or fix its formula"


@dataclass(frozen=True)
class Member:
    """One of the laws that forecast together."""

    law: Law
    params_kind: str
    """What its N is: "non_embedding" or "total"."""
    reference: Reference
    theta: Array
    """Shape (parameters,)."""
    resamples: Array
    """Shape (resamples, parameters)."""
    status: str
    """Key of `diagnosis.STATUS_ADVICE`."""
    starts: int
    starts_agree: int
    condition: float
    at_bound: tuple[str, ...]
    ridge: tuple[str, ...]
    """Parameters that can double or halve at next to no cost, the others making up for it."""
    objective: float
    unmeasured: tuple[str, ...] = ()
    """Parameters that no run constrains: set to the middle of their start range, and drawn from all of it in the resamples."""

    def log_loss(self, points: Points) -> Array:
        """Forecast ln L, shape (points,).

        Raises:
            DataError: the law gives no number for some point.
        """
        return self._forecast(self.theta[None], points)[0]

    def log_loss_resamples(self, points: Points, most: int | None = None) -> Array:
        """Forecast ln L by every resample, or by the first `most`, shape (resamples, points).

        Raises:
            DataError: the law gives no number for some point.
        """
        return self._forecast(self.resamples[:most], points)

    def _forecast(self, theta: Array, points: Points) -> Array:
        """Forecast ln L; refuse where a user's formula gives no number so far out, as where a loss falls below zero: plans there cannot be compared."""
        try:
            with np.errstate(invalid="ignore"):
                found = self.law.log_loss(theta, points)
                sound = not np.isnan(found.sum()) or not np.isnan(found).any()  # the sum is quicker, but NaN for infinities of both signs
        except Exception as error:  # a user's formula may raise anything
            said = " ".join(str(error).split())[:200]
            raise DataError(f"the law {self.law.name} cannot be computed here ({type(error).__name__}: {said})", remedy=OUT_OF_REACH) from error
        if not sound:
            raise DataError(f"the law {self.law.name} gives no number for {points.told(int(np.isnan(found).any(0).argmax()))}", remedy=OUT_OF_REACH)
        return found

    def interval(self, number: int) -> tuple[float, float]:
        """Return a parameter's interval over the resamples."""
        return interval_of(self.resamples[:, number])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, with the formula and an interval of each parameter for people."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "params_kind": self.params_kind,
            "reference": {key: value for key, value in asdict(self.reference).items() if value is not None},
            "parameters": {
                parameter.name: {"value": value, "interval": self.interval(number), "unit": parameter.unit}
                for number, (parameter, value) in enumerate(zip(self.law.parameters, self.theta, strict=True))
            },
            "status": self.status,
            "starts": self.starts,
            "starts_agree": self.starts_agree,
            "condition": self.condition,
            "at_bound": self.at_bound,
            "ridge": self.ridge,
            "objective": self.objective,
            **({"unmeasured": self.unmeasured} if self.unmeasured else {}),
            "theta": self.theta,
            "resamples": [[float(f"{value:.9g}") for value in row] for row in self.resamples.tolist()],
        }

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> Member:
        """Read what `to_dict` returned; for use inside `artifacts.whole`.

        Raises:
            InputError: a law that is not known.
            KeyError: something is missing.
            TypeError: a value of another kind.
            ValueError: a value that no fit has.
        """
        law = law_named(item["law"])
        if item["params_kind"] not in PARAMS_KINDS:
            raise ValueError(f"params_kind = {item['params_kind']!r}")
        if item["status"] not in STATUS_ADVICE:
            raise ValueError(f"status = {item['status']!r}")
        check_numbers(item["reference"], ("params", "tokens", *({"special"} & set(item["reference"]))), low=5e-324, what=f"the reference of {law.name}")
        check_numbers(item, ("starts", "starts_agree", "objective"), low=0.0, what=law.name)
        check_numbers(item, ("condition",), optional=True, what=law.name)
        if list(item["parameters"]) != [parameter.name for parameter in law.parameters]:
            raise ValueError(f"{law.name} has other parameters now: {', '.join(parameter.name for parameter in law.parameters)}")
        theta, resamples = np.array(item["theta"], dtype=float), np.array(item["resamples"], dtype=float)
        if theta.shape != (len(law.parameters),) or resamples.shape[1:] != theta.shape or not len(resamples):
            raise ValueError(f"{law.name} takes {len(law.parameters)} parameters")
        for number, parameter in enumerate(law.parameters):
            slack = 1e-6 * max(abs(parameter.low), abs(parameter.high))  # resamples are written to nine digits
            values = np.append(resamples[:, number], theta[number])
            if not ((values >= parameter.low - slack) & (values <= parameter.high + slack)).all():  # NaN fails too
                raise ValueError(f"{parameter.name} of {law.name} is outside {parameter.low:g} to {parameter.high:g}")
        if [found["value"] for found in item["parameters"].values()] != item["theta"]:
            raise ValueError(f"the values under parameters of {law.name} differ from theta, by which it forecasts")
        condition = item["condition"] if item["condition"] is not None else math.inf
        return cls(
            law, item["params_kind"], Reference(**item["reference"]), theta, resamples, item["status"], item["starts"], item["starts_agree"], condition,
            tuple(item["at_bound"]), tuple(item["ridge"]), item["objective"], tuple(item.get("unmeasured", ())),
        )  # fmt: skip
