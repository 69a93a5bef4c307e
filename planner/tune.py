"""Find the learning-rate rule: short probes at a few sizes and rates, a parabola in log rate for each size, a power law through its minima.

After arXiv 2503.04715 (optimal rate a power law in N and D); the D-exponent is 0 here, see `planner.recipe`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.artifacts import read_json, write_artifact, write_text
from planner.design.cells import Cell
from planner.design.segment import Segment
from planner.design.spec import MIN_STEPS
from planner.design.tree import Tree, build_tree
from planner.engines.event import Event
from planner.errors import DataError, InputError, PlannerWarning
from planner.ladder import shape_for
from planner.recipe import Recipe
from planner.sweep import Engine, Sweep, run_sweep
from planner.train.job import record_path
from planner.units import format_count

MOST_STEPS = 1e9
"""Most steps of a probe; more is taken for a typing error."""
EXTENSIONS = 3
"""Times that a size's rates are extended when its best one is the lowest or highest tried."""


@dataclass(frozen=True)
class Probes:
    """What to probe."""

    sizes: tuple[float, ...]
    """Requested non-embedding parameters."""
    rates: tuple[float, ...]
    """Learning rates."""
    tokens_pt: float
    """General tokens of a probe."""
    tokens_spec: float
    """Specialist tokens of a probe."""

    def __post_init__(self) -> None:
        for name, values, least in (("size", self.sizes, 2), ("rate", self.rates, 3)):
            if len(set(values)) < len(values):
                raise InputError(f"{name}s of {', '.join(f'{value:g}' for value in values)} contain a duplicate", remedy=f"give each {name} once")
            if len(values) < least:
                raise InputError(
                    f"{name}s of {', '.join(f'{value:g}' for value in values)} are too few for a rule",
                    remedy=f"give --{name}s with at least {least} of them",
                )
        if len({f"{rate:.3g}" for rate in self.rates}) < len(self.rates):  # names of probes keep three digits
            raise InputError(f"rates of {', '.join(map(str, self.rates))} are equal to three digits", remedy="give rates that are farther apart")
        for rate in self.rates:
            if not 0 < rate <= 1:
                raise InputError(f"a rate of {rate:g} is not above 0 and at most 1", remedy="give rates such as 1e-3")


def probe_sweep(sweep: Sweep, probes: Probes, rates: Mapping[float, Sequence[float]]) -> Sweep:
    """Arrange probes as a sweep of their own in the folder `tune/` of the sweep.

    Args:
        sweep: the sweep whose recipe is tuned.
        probes: token counts of a probe.
        rates: the rates to try at each size.

    Raises:
        InputError: the probes are too short or too long.
    """
    segments: list[Segment] = []
    steps = sweep.spec.recipe.steps(probes.tokens_pt + probes.tokens_spec)
    if not MIN_STEPS <= steps <= MOST_STEPS:
        raise InputError(
            f"probes of {format_count(probes.tokens_pt)} general and {format_count(probes.tokens_spec)} specialist tokens are {steps:g} steps",
            remedy=f"give --tokens-pt and --tokens-spec for {MIN_STEPS} to {format_count(MOST_STEPS)} steps of {sweep.spec.recipe.tokens_per_step} tokens",
        )
    available = sweep.corpus.unique_tokens(sweep.domain)
    for rate in sorted({rate for tried in rates.values() for rate in tried}):
        cells = [Cell(size, 0, probes.tokens_pt, probes.tokens_spec, available) for size in probes.sizes if rate in rates[size]]
        segments += build_tree(
            cells, sweep.spec.recipe, sweep.corpus.vocab_size, learning_rate=rate, shapes=sweep.spec.shapes, base=bool(sweep.spec.bases)
        ).segments
    # Probes do not depend on the rule: with the default rule in their recipe, tuning again after the rule was written finds them done.
    neutral = replace(sweep.spec.recipe, lr_coefficient=Recipe.lr_coefficient, lr_exponent=Recipe.lr_exponent)
    spec = replace(sweep.spec, folder=sweep.folder / "tune", name=f"{sweep.spec.name}-tune", recipe=neutral)
    tree = Tree(tuple(segments), spec.recipe, spec.eval_tokens)
    models = {tip.size: tip.shape.params_non_embedding for tip in tree.tips}
    if len(set(models.values())) < len(models):
        same = ", ".join(f"{format_count(size)} is {format_count(params, 4)}" for size, params in models.items())
        raise InputError(f"two of the sizes give the same model: {same} parameters", remedy="give --sizes that are farther apart")
    return Sweep(spec, sweep.corpus, sweep.domain, tuple(tip.cell for tip in tree.tips if tip.cell), {}, tree)


def tune_learning_rate(
    sweep: Sweep, probes: Probes, engine: Engine, *, device: str = "cpu", compiled: bool | None = None, on_event: Callable[[Event], None] | None = None
) -> dict[str, Any]:
    """Train the probes that are not yet on disk, fit the rule, and write tune.json beside sweep.toml; return its body.

    A size whose best rate is the least or the greatest tried gets another rate a factor of two beyond, up to `EXTENSIONS` times.

    Args:
        sweep: whose recipe is tuned.
        probes: what to probe.
        engine: where to run.
        device: "cpu" or "cuda".
        compiled: whether probes go through torch.compile, as in `run_sweep`.
        on_event: called with every event.

    Raises:
        DataError: see `fit_rule`; or probes failed.
    """
    rates = {size: sorted(probes.rates) for size in probes.sizes}
    for _ in range(EXTENSIONS + 1):
        rows = _run_probes(probe_sweep(sweep, probes, rates), engine, device, compiled, on_event)
        edges = {size: edge for size in probes.sizes if (edge := _rate_beyond(rows, size, rates[size])) is not None}
        if not edges:
            break
        for size, rate in edges.items():
            rates[size] = sorted({*rates[size], rate})
    body = fit_rule(rows, sweep.spec.recipe.lr_reference_params)
    body["tokens_pt"], body["tokens_spec"] = probes.tokens_pt, probes.tokens_spec
    write_artifact(sweep.folder / "tune.json", "tuning", 1, body)
    return body


def _run_probes(
    probe: Sweep, engine: Engine, device: str, compiled: bool | None, on_event: Callable[[Event], None] | None
) -> list[dict[str, Any]]:
    failures = run_sweep(probe, engine, device=device, compiled=compiled, on_event=on_event)
    if failures:
        name, message = next(iter(failures.items()))
        raise DataError(f"{len(failures)} probes failed, the first {name}: {message.splitlines()[0]}", remedy="run the same command again")
    rows = []
    for tip in probe.tree.tips:
        row = read_json(record_path(probe.folder, tip.segment_id))["row"]
        kept = {key: row[key] for key in ("params_non_embedding", "learning_rate", "loss_spec", "status")}
        rows.append({**kept, "size": tip.size})
    return rows


def _rate_beyond(rows: Sequence[dict[str, Any]], size: float, tried: Sequence[float]) -> float | None:
    """Return the next rate to try if the best so far is the lowest or highest tried; None if it lies between."""
    losses = {row["learning_rate"]: row["loss_spec"] for row in rows if row["size"] == size and row["status"] == "ok"}
    if not losses:
        return tried[0] / 2
    best = min(losses, key=lambda rate: losses[rate])
    if best == min(tried):
        return best / 2
    if best == max(tried):
        return best * 2 if best * 2 <= 1 else None
    return None


def fit_rule(rows: Sequence[dict[str, Any]], reference: float) -> dict[str, Any]:
    """Fit the rule rate = coefficient · (N / reference)^−exponent through each size's minimum.

    Args:
        rows: params_non_embedding, learning_rate, loss_spec, status of each probe.
        reference: size at which the rate is the coefficient.

    Returns:
        probes, optima (with the basin: the rates between which the loss is within 1 %) and rule, with residuals in per cent.

    Raises:
        DataError: no size has its minimum inside the rates probed, too few probes ended without diverging, or no recipe accepts the rule.
    """
    optima = []
    for size in sorted({row["params_non_embedding"] for row in rows}):
        points = sorted((row["learning_rate"], row["loss_spec"]) for row in rows if row["params_non_embedding"] == size and row["status"] == "ok")
        if len(points) < 3:
            raise DataError(f"only {len(points)} probes at {size} parameters ended without diverging", remedy="probe lower rates")
        x, y = np.log([rate for rate, _ in points]), np.array([loss for _, loss in points])
        middle = int(np.clip(np.argmin(y), 1, len(y) - 2))
        near = slice(max(0, middle - 2), middle + 3)
        curvature, slope, _ = np.polyfit(x[near] - x[middle], y[near], 2)
        inside = curvature > 0 and x[0] <= x[middle] - slope / (2 * curvature) <= x[-1]
        best = float(x[middle] - slope / (2 * curvature)) if inside else float(x[int(np.argmin(y))])
        half = float(np.sqrt(0.01 * y.min() / curvature)) if curvature > 0 else None
        optima.append(
            {
                "params_non_embedding": size,
                "learning_rate": float(np.exp(best)),
                "inside": bool(inside),
                "basin_1_percent": [float(np.exp(best - half)), float(np.exp(best + half))] if half else None,
            }
        )
    if not any(item["inside"] for item in optima):
        raise DataError("no size has its best rate inside the rates probed", remedy="widen --rates")
    for item in optima:
        if not item["inside"]:
            what = f"no minimum lies inside the rates probed at {format_count(item['params_non_embedding'])} parameters"
            warnings.warn(f"{what}: the rule uses {item['learning_rate']:.3g}, the best rate tried; widen --rates", PlannerWarning, stacklevel=2)
    n = np.log([item["params_non_embedding"] / reference for item in optima])
    r = np.log([item["learning_rate"] for item in optima])
    slope, constant = np.polyfit(n, r, 1)
    residuals = np.exp(r - (constant + slope * n)) - 1
    for item, residual in zip(optima, residuals, strict=True):
        item["residual_percent"] = float(100 * residual)
    rule = {"lr_coefficient": float(f"{np.exp(constant):.3g}"), "lr_exponent": float(f"{-slope:.3g}"), "lr_reference_params": reference}
    try:
        Recipe.from_mapping(rule)
    except InputError as error:  # written into sweep.toml, it would keep the sweep from being opened
        raise DataError(f"the rule fitted is not valid: {error.message}", remedy="probe sizes that are farther apart, with more tokens") from error
    return {
        "probes": [
            {"params_non_embedding": row["params_non_embedding"], "learning_rate": row["learning_rate"], "loss": row["loss_spec"],
             "diverged": row["status"] != "ok"} for row in rows
        ],
        "optima": optima,
        "rule": rule,
    }  # fmt: skip


def write_rule(path: Path, body: dict[str, Any]) -> None:
    """Write the rule into the [recipe] table of a sweep.toml, keeping everything else as it stands."""
    import tomlkit

    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    recipe = document.setdefault("recipe", tomlkit.table())
    for key, value in body["rule"].items():
        recipe[key] = value
    worst = max(abs(item["residual_percent"]) for item in body["optima"])
    recipe["lr_coefficient"].comment(f"plan sweep tune-lr: optima within {worst:.0f} % of the rule")
    write_text(path, tomlkit.dumps(document))


def default_rates(recipe_rate: float) -> tuple[float, ...]:
    """Return five rates a factor of two apart around the recipe's own."""
    return tuple(float(f"{recipe_rate * 2.0**power:.3g}") for power in (-2, -1, 0, 1, 2))


def default_sizes(sizes: Sequence[float], family: str, vocab: int) -> tuple[float, ...]:
    """Return the smallest, middle and largest sizes of a sweep."""
    ordered = sorted(set(sizes), key=lambda size: shape_for(size, family=family, vocab=vocab).params_non_embedding)
    return tuple(dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])))
