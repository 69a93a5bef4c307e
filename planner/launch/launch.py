"""Carry out an allocation as one run, with the sweep's recipe and trainer; its forecast is recorded before it begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from planner import lock
from planner.allocate.allocation import Allocation
from planner.artifacts import read_artifact, read_json, sha256_file, whole, write_artifact, write_bytes
from planner.design.cells import Cell
from planner.design.spec import SweepSpec
from planner.design.tree import build_tree
from planner.errors import DataError, InputError, StateError
from planner.launch.start import checkpoint_of, corpus_of, read_plan, warn_of_cut_warmups, warn_of_scarce_text
from planner.method import Method
from planner.recipe import Recipe
from planner.sweep import Sweep, single_run
from planner.train.record import tokens_seen
from planner.units import format_count

KIND = "launch"
VERSION = 1
COPY = "allocation.json"
"""The plan as it was when the run began."""
STATES = 20
"""States that a run saves on its way, about: a kill then costs a twentieth of it at most."""
LEAST_STEPS = 200
"""Steps between two states, at least."""


@dataclass(frozen=True)
class Launch:
    """An allocation, ready to run."""

    allocation: Allocation
    allocation_path: Path
    folder: Path
    run: Sweep
    sunk: float = 0.0
    """General tokens of the plan that are already in the open checkpoint."""
    arm: str | None = None
    """Which of the answer's other ways to spend the budget it is; None for the recommendation."""

    @property
    def name(self) -> str:
        """Name of the one endpoint."""
        return self.run.tree.tips[0].segment_id

    @property
    def checkpoint(self) -> Path:
        """Where the Hugging Face checkpoint goes."""
        return self.folder / "checkpoint"

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the open checkpoint that it starts from, if it starts from one."""
        return next((base.fingerprint for base in self.run.spec.pretrained.values()), None)

    def realised(self) -> list[tuple[str, float, float]]:
        """List quantity, planned and realised value."""
        tip, plan = self.run.tree.tips[0], self.allocation.plan
        general, spec, replayed = tokens_seen(tip, self.run.spec.recipe)
        unique = float(self.run.corpus.subset(self.run.domain, plan.unique_spec).size) if spec else 0.0
        return [
            ("params_non_embedding", plan.params_non_embedding, float(tip.shape.params_non_embedding)),
            ("tokens_pt", plan.tokens_pt, general + replayed + self.sunk),
            ("tokens_spec", plan.tokens_spec, float(spec)),
            ("unique_spec", plan.unique_spec if spec else 0.0, unique),
            ("flops", plan.flops, self.run.tree.flops_of_run(tip)),
        ]


def steps_between_states(steps: int) -> int:
    """Return how many of its steps a run takes between two states."""
    return max(LEAST_STEPS, steps // STATES)


def prepare(
    allocation_path: Path, folder: Path, *, corpus: Path | None = None, seed: int = 0, base: Path | None = None, arm: str | None = None
) -> Launch:
    """Read an allocation and lay its run out.

    Args:
        allocation_path: what `plan allocate` wrote.
        folder: where the run goes.
        corpus: corpus folder, if it has moved since the sweep.
        seed: seed of initialisation and data order.
        base: folder of the open checkpoint to start from, for plans that do.
        arm: another way to spend the budget, see `read_plan`.

    Raises:
        InputError: the law behind the allocation has no recipe, the corpus is missing, not the sweep's or too short to measure held-out losses, or
            the base is not the plan's.
        DataError: the corpus has fewer distinct specialist tokens than the plan counts on.
    """
    planned = read_plan(allocation_path, arm)
    allocation = planned.allocation
    source, plan = allocation.source, allocation.plan
    opened = corpus_of(allocation_path, source, corpus)
    if plan.shape is None and base is None and not planned.sunk:
        raise InputError(f"{allocation_path} comes from a table of runs without a recipe", remedy="launch it with the trainer that made those runs")
    domain = opened.specialist(source.get("domain"))
    available = opened.unique_tokens(domain)
    if plan.tokens_spec > 0 and plan.unique_spec > available:
        raise DataError(
            f"the plan counts on {format_count(plan.unique_spec)} distinct specialist tokens, and corpus {opened.folder} has {format_count(available)}",
            remedy=f"allocate again with --spec-tokens {available} or less, or build a larger corpus",
        )
    recipe = Recipe.from_mapping(source["recipe"])
    if planned.adapters is not None:
        recipe = replace(recipe, lora_rank=planned.adapters[0], lora_targets=planned.adapters[1])
    start = checkpoint_of(planned, allocation_path, base, recipe, opened)
    spec = SweepSpec(
        name=folder.name, folder=folder, corpus=opened.folder.resolve(), domain=domain, grids=(), recipe=recipe,
        eval_tokens=int(source.get("eval_tokens") or SweepSpec.eval_tokens),
        bases=(start.folder.absolute(),) if start else (), base_tokens=(planned.sunk,) if start and planned.sunk else (),
    )  # fmt: skip
    special, early = plan.tokens_spec > 0 and not planned.early_fraction, planned.early_fraction
    replay = allocation.replay_fraction if special else 0.0
    shape = start.shape if start else plan.model_shape
    general = allocation.tokens_trunk - planned.sunk
    method = planned.method if special else Method(planned.method).general.name
    if method != "full" and start is None and general <= 0:
        raise InputError(f"the plan in {allocation_path} puts {method} on a model that was never trained", remedy="plan with general tokens, or a base")
    spec_stage, unique = plan.tokens_spec if special else 0.0, plan.unique_spec if special or early else None
    cell = Cell(float(shape.params_non_embedding), seed, general, spec_stage, unique, replay, early, method)
    steps = recipe.steps(general + plan.tokens_spec)
    tree = build_tree(
        [cell], recipe, opened.vocab_size, eval_tokens=spec.eval_tokens, max_segment_steps=steps_between_states(steps),
        shapes={cell.size: shape}, base=start is not None,
    )  # fmt: skip
    run = single_run(spec, opened, domain, tree)
    opened.check_heldout(run.domains, recipe.seq_len)
    warn_of_cut_warmups([tree])
    warn_of_scarce_text([run])
    return Launch(allocation, allocation_path, folder, run, planned.sunk, planned.arm)


def kind_of(folder: Path) -> str:
    """Return the kind of the launch in a folder: one run or many domains.

    Raises:
        InputError: it holds none.
    """
    if not (folder / "launch.json").is_file():
        raise InputError(f"{folder} holds no launch", remedy="check the path: name the folder of a run that plan launch began")
    return str(read_json(folder / "launch.json").get("kind"))


def is_of_a_start(item: Path, digest: str) -> bool:
    """Tell whether a file is left from a start killed before it wrote launch.json: a lock, the same allocation, or a partial file."""
    return item.name.startswith((lock.NAME, f".{lock.NAME}.", f".{COPY}.", ".launch.json.")) or (item.name == COPY and sha256_file(item) == digest)


def start_after(created: str, path: Path) -> str:
    """Return the time at which a run begins: now, which must be later than its forecast for a fair comparison in the end.

    Args:
        created: when the forecast was made, in ISO format.
        path: its file.

    Raises:
        InputError: `created` is not a time.
        StateError: it is stamped later than now.
    """
    now = datetime.now(timezone.utc)
    with whole(path):
        later = datetime.fromisoformat(created) >= now
    if later:
        what = f"the forecast in {path} was made at {created}, but the clock here shows {now.isoformat(timespec='microseconds')}"
        raise StateError(what, remedy="correct this machine's clock; or correct that of the machine that planned, and allocate again")
    return now.isoformat(timespec="microseconds")


def begin(launch: Launch) -> None:
    """Record once, before the first step, the forecast that the run will be compared with.

    Raises:
        StateError: the folder holds something else, or a run off another open checkpoint; or the forecast is stamped later than now.
    """
    digest, base = sha256_file(launch.allocation_path), launch.base_fingerprint
    path = launch.folder / "launch.json"
    if path.exists():
        before = read_artifact(path, KIND, VERSION)
        if before.get("arm") != launch.arm:
            held = before.get("arm") or "the recommendation"
            raise StateError(f"{launch.folder} holds {held}, not {launch.arm or 'the recommendation'}", remedy="give its --arm, or another --out")
        if before["run_id"] != launch.name:
            raise StateError(f"{launch.folder} holds the run {before['run_id']}, not {launch.name}", remedy="give its --seed, or another --out")
        if before["inputs"].get("allocation") != digest:
            raise StateError(f"{launch.folder} holds the run of another allocation", remedy="give another --out, or delete that folder")
        begun_on = before["inputs"].get("base", base)  # launches of earlier versions do not say
        if begun_on != base:
            what = f"the run in {launch.folder} was begun on base {begun_on}, now it is {base or 'none'}"
            raise StateError(what, remedy="restore that base, or give another --out")
        return
    if launch.folder.exists() and not all(is_of_a_start(item, digest) for item in launch.folder.iterdir()):
        raise StateError(f"{launch.folder} is not empty and holds no launch", remedy="give another --out")
    started = start_after(launch.allocation.created, launch.allocation_path)
    launch.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(launch.folder / COPY, launch.allocation_path.read_bytes())
    body = {
        "run_id": launch.name,
        **({"arm": launch.arm} if launch.arm else {}),
        "started": started,
        "requested_and_realised": launch.realised(),
        "forecast": {"loss": launch.allocation.plan.loss, "low": launch.allocation.plan.loss_low, "high": launch.allocation.plan.loss_high},
    }
    write_artifact(path, KIND, VERSION, body, {"allocation": digest, **({"base": base} if base else {})})
