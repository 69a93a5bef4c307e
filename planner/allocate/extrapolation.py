"""How far a plan lies beyond the runs: what is said of it, and from where there is no answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from planner.errors import DataError
from planner.fit.fitted import FittedLaw
from planner.units import format_count

FAR = 10.0
"""Factor beyond the support from which a forecast is an extrapolation to be warned of loudly."""
TOO_FAR = 1000.0
"""Factor from which there is no answer unless extrapolation is asked for."""
ADVISED = 100.0
"""Factor in compute between the budget and the dearest run of a sweep that is advised for it."""
NAMES = {
    "params": "model size", "tokens_pt": "general tokens", "tokens_spec": "specialist tokens", "unique_spec": "distinct specialist tokens",
    "epochs_spec": "epochs", "tokens_per_param": "tokens per parameter", "flops": "compute",
}  # fmt: skip


def refuse_far(law: FittedLaw, flops: float, extrapolation: Mapping[str, float], who: str = "the best plan") -> None:
    """Refuse a plan of some FLOPs that lies further than TOO_FAR beyond the runs on any axis.

    Raises:
        DataError: it does; the remedy says what sweep, or what limit, would do.
    """
    far = {name: factor for name, factor in extrapolation.items() if np.isfinite(factor) and factor > TOO_FAR}
    if not far:
        return
    said = ", ".join(f"{NAMES[name]} {factor:.3g}×" for name, factor in sorted(far.items(), key=lambda item: -item[1]))
    if "flops" in far:
        remedy = f"train a sweep up to about {flops / ADVISED:.1g} FLOPs a run (plan sweep design chooses it)"
    else:
        sizes = "..".join(format_count(ends["params"]) for ends in (law.support.low, law.support.high))
        remedy = f"keep the plan nearer to the runs, such as with --params {sizes}, or train runs there"
    raise DataError(
        f"{who} lies too far beyond the runs of the law to be recommended: {said}; the limit is {TOO_FAR:g}×, and the largest run had "
        f"{law.support.high['flops']:.3g} FLOPs",
        remedy=f"{remedy}; --allow-extrapolation shows the answer all the same",
    )


def tell_far(law: FittedLaw, flops: float, extrapolation: Mapping[str, float], who: str = "") -> Iterator[str]:
    """Say how far a plan lies beyond the runs, loudly where it is far.

    Args:
        law: whose runs.
        flops: of the budget.
        extrapolation: factor by axis.
        who: whose plan, where there are several, such as "domain 'medicine': ".
    """
    compute = extrapolation["flops"]
    others = [f"{NAMES[name]} {factor:.3g}×" for name, factor in extrapolation.items() if factor > 1.2 and name != "flops" and np.isfinite(factor)]
    if compute > FAR:
        yield (
            f"EXTRAPOLATION: {who}this plan costs {compute:.3g} times the largest run that the law has seen ({law.support.high['flops']:.3g} FLOPs)"
            + (f"; outside the runs by: {', '.join(others)}" if others else "")
            + f". Do not spend {flops:.3g} FLOPs on it: run a sweep up to about {flops / ADVISED:.1g} FLOPs a run first"
        )
    elif others or compute > 1.2:
        yield f"extrapolation: {who}compute {compute:.3g}× the largest run" + (f"; {', '.join(others)}" if others else "")
    for name, factor in extrapolation.items():
        if not np.isfinite(factor):
            yield f"{who}no run of the table has any {NAMES[name]}: their effect is not measured"
