"""`plan launch`."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.compiling import FLAGS, compiled_among
from planner.cli.console import say
from planner.cli.paths import MOST_THREADS
from planner.cli.tables import table
from planner.errors import DataError, InputError, PlannerWarning, without_secret
from planner.units import format_count

if TYPE_CHECKING:
    from planner.launch.launch import Launch
    from planner.train.full.plan import FullRun, Settings

HELP = (
    "Train the recommended run with the sweep's own recipe; after a stop the same command resumes it.\n\n"
    "Example: plan launch allocation.json --dry-run\n\nExample: plan launch allocation.json --out launches/first\n\n"
    "Example: plan launch allocation.json --ranks 8 --device cuda --compile --peak-flops H100\n\n"
    "Example: plan launch allocation.json --ranks 64 --device cuda --engine slurm --slurm-option partition=gpu --slurm-option time=24:00:00\n\n"
    "Example: plan launch allocation.json --arm 'specialist only'\n\n"
    "Example: plan launch allocation.json --export torchtitan"
)
FAR_FROM_PLAN = 0.05
ENGINES = ("local", "slurm", "ray")
RANKS_PER_NODE = 8


def launch(
    allocation: Annotated[Path, typer.Argument(help="What plan allocate wrote.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; launches/NAME by default.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="The sweep's corpus, if it has moved.")] = None,
    base: Annotated[Path | None, typer.Option(help="Open checkpoint to start from, in safetensors, for plans that start from one.")] = None,
    structure: Annotated[str | None, typer.Option(help="For a plan of many domains: split, independent or mixed; by default the recommended one.")] = None,
    arm: Annotated[str | None, typer.Option(help="Train one of the answer's alternatives instead, such as 'specialist only'.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="Seed of initialisation and data order.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_THREADS, help="Threads per rank; by default OMP_NUM_THREADS or a share of the cores, 1 on Ray and Slurm, 8 on Slurm with cuda."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be trained, and what it needs.")] = False,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that train the run together, one per GPU; may change on resuming.")] = 1,
    engine: Annotated[str, typer.Option(help="Where the ranks run: local, slurm or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Ray cluster, such as auto or 10.0.0.4:6379; by default Ray starts here, on loopback.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (reductions in fp32); bf16 on a GPU by default.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences per forward pass of a rank; gradients are accumulated to the plan's batch.")
    ] = None,
    compiled: Annotated[bool | None, typer.Option(FLAGS, help="Use torch.compile, layer by layer; off by default.")] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option("--checkpoint-activations", help="Recompute layers in the backward pass, to save memory.")
    ] = False,
    shard_ranks: Annotated[int | None, typer.Option(min=1, help="Ranks that shard one copy of the model; all by default.")] = None,
    save_every: Annotated[int | None, typer.Option(min=1, help="Steps between saved states; by default a twentieth of the run, at least 200.")] = None,
    save_minutes: Annotated[float | None, typer.Option(min=0.1, help="Also save a state this many minutes after the last; 30 by default.")] = None,
    peak_flops: Annotated[str | None, typer.Option(help="Peak of one rank's device, for MFU: a GPU such as H100, or FLOP/s.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events beside metrics.jsonl.")] = False,
    wandb: Annotated[str | None, typer.Option(help="Project of Weights & Biases to log to.")] = None,
    law: Annotated[Path | None, typer.Option(help="The plan's law or its folder, if it has moved; for the forecast shown during the run.")] = None,
    export: Annotated[str | None, typer.Option(help="Only write the run's configuration for torchtitan or megatron.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(min=1, help="Slurm: ranks per node; by default 8, or all if fewer.")] = None,
    slurm_option: Annotated[list[str] | None, typer.Option(help="Slurm: an option of sbatch as KEY=VALUE; repeatable.")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="Slurm: submit the job.")] = False,
) -> None:
    """Launch a run."""
    from planner.artifacts import read_json

    options = slurm_option or []
    _check(
        engine, export, ranks, device, threads, address, wandb, arm, slurm_only=bool(submit or slurm_option or ranks_per_node)
    )  # fmt: skip
    of_domains = read_json(allocation).get("kind") == "domains"
    folder = out or Path("launches") / _name(allocation, None if of_domains else arm)
    settings = _settings(
        engine, ranks, device, threads, options, precision=precision, micro_batch=micro_batch, compiled=compiled,
        checkpoint_activations=checkpoint_activations, shard_ranks=shard_ranks, save_minutes=save_minutes, peak_flops=peak_flops,
        tensorboard=tensorboard, wandb=wandb,
    )  # fmt: skip
    per_node = ranks_per_node or min(ranks, RANKS_PER_NODE)
    if of_domains:
        from planner.cli.launch_domains import launch_domains
        from planner.launch.domains import prepare_domains

        _refuse({"--base": base, "--law": law, "--export": export, "--arm": arm})
        many = prepare_domains(allocation, folder, structure=structure, corpus=corpus, seed=seed)
        return launch_domains(
            many, settings, ranks, engine, save_every=save_every, address=address, per_node=per_node, slurm_options=options, submit=submit,
            compiled=compiled, dry_run=dry_run,
        )  # fmt: skip
    from planner.cli.paths import law_file
    from planner.launch.full import default_save_every, settle
    from planner.launch.launch import prepare

    if structure is not None:
        raise InputError(f"--structure {structure!r} applies to a plan for many domains only", remedy="leave it out")
    ready = prepare(allocation, folder, corpus=corpus, seed=seed, base=base, arm=arm)
    method = ready.run.cells[0].method
    if law is not None and law.is_dir():
        law = law_file(law, method)
    if compiled and engine == "local":  # elsewhere other machines compile
        compiled_among(ready.run.tree, ready.run.tree.segments, compiled, device)
    if method != "full" and export is not None:
        what = f"--export {export} does not support adapters, and the plan uses {method}"
        raise InputError(what, remedy="leave it out: plan launch trains it on many ranks")
    run = settle(ready.run, ranks, replace(settings, save_every=save_every or default_save_every(ready.run)))
    show_realised(ready, f"Run in {ready.folder}" if export is None else f"Run for {export}")
    if export is not None:
        return _export(ready, run, export, ranks, dry_run)
    _run(ready, run, ranks, engine, address=address, law=law, per_node=per_node, slurm_options=options, submit=submit, dry_run=dry_run)


def _check(
    engine: str, export: str | None, ranks: int, device: str, threads: int | None, address: str | None, wandb: str | None, arm: str | None, *,
    slurm_only: bool,
) -> None:  # fmt: skip
    """Refuse options that are unknown, contradict each other, or cannot be met on this machine.

    Args:
        engine: where the ranks run.
        export: trainer to write the configuration for, None to train the run.
        ranks: processes.
        device: that they train on.
        threads: of a rank.
        address: Ray cluster.
        wandb: project to log to.
        arm: of the answer.
        slurm_only: whether an option for Slurm only is given.

    Raises:
        PlannerError: one of these.
    """
    from planner.cli.needs import require_wandb
    from planner.cli.paths import default_workers
    from planner.launch.export import TARGETS
    from planner.launch.runners import check_ranks

    for name, value, known in (("--engine", engine, ENGINES), ("--export", export, (None, *TARGETS))):
        if value not in known:
            raise InputError(f"{name} {value!r} is not known", remedy=f"choose one of {', '.join(item for item in known if item)}")
    if engine != "slurm" and slurm_only:
        raise InputError("--submit, --slurm-option and --ranks-per-node need --engine slurm", remedy="add it, or leave them out")
    if engine != "ray" and address is not None:
        raise InputError(f"--address {without_secret(address)} needs --engine ray", remedy="add it, or leave it out")
    if wandb is not None and not wandb.strip():
        raise InputError(f"--wandb {wandb!r} names no project", remedy="name one, or leave it out")
    if export is None:
        require_wandb(wandb, engine, address)
        check_ranks(ranks, device, engine, default_workers(), threads=threads or 1, address=address)
    if export is not None and arm is not None:
        raise InputError(f"--export {export} writes the recommendation only", remedy="leave out --arm, or leave out --export to train the arm")


def _settings(
    engine: str, ranks: int, device: str, threads: int | None, slurm_options: list[str], *, precision: str | None, micro_batch: int | None,
    compiled: bool | None, checkpoint_activations: bool, shard_ranks: int | None, save_minutes: float | None, peak_flops: str | None,
    tensorboard: bool, wandb: str | None,
) -> Settings:  # fmt: skip
    """Return the settings of the ranks, with defaults for the device and the engine; the arguments are the options of `launch`.

    Raises:
        InputError: an unknown device, or an invalid value.
    """
    from planner.allocate.budget import peak_flops as peak_of
    from planner.cli.paths import default_threads
    from planner.launch.slurm import gpu_cores, options_of
    from planner.train.full.plan import Settings

    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device!r} is not known", remedy="choose cpu or cuda")
    alone = gpu_cores(options_of(slurm_options)) if engine == "slurm" and device == "cuda" else 1
    return Settings(
        device=device,
        threads=threads or (default_threads(ranks) if engine == "local" else alone),
        precision=precision or ("bf16" if device == "cuda" else "fp32"),
        micro_batch=micro_batch,
        compile_backend="inductor" if compiled else None,
        checkpoint_activations=checkpoint_activations,
        shard_ranks=shard_ranks,
        save_minutes=save_minutes or Settings.save_minutes,
        peak_flops=None if peak_flops is None else peak_of(peak_flops),
        tensorboard=tensorboard,
        wandb=wandb,
    )


def _export(ready: Launch, run: FullRun, target: str, ranks: int, dry_run: bool) -> None:
    """Write the run's configuration for another trainer."""
    from planner.launch.export import export

    path = export(ready, target, ready.folder, ranks, run.settings.micro_batch or run.recipe.batch_sequences // ranks, dry_run=dry_run)
    say(f"{'would be written' if dry_run else 'written'}: {path}")


def _run(
    ready: Launch, run: FullRun, ranks: int, engine: str, *, address: str | None, law: Path | None, per_node: int, slurm_options: list[str], submit: bool,
    dry_run: bool,
) -> None:  # fmt: skip
    """Show the resources that a run needs, train or resume it, and print how it ended; a dry run only shows and checks."""
    from planner.cli.full import carry_on, check_options, show_resources
    from planner.cli.needs import require_here, require_method
    from planner.launch.full import outcome

    show_resources(run, ranks, [(ready.run.tree, segment) for segment in ready.run.tree.segments])
    check_options(ready, run, ranks, engine, law=law, per_node=per_node, slurm_options=slurm_options)
    if dry_run:
        return
    if engine != "slurm":  # Slurm trains elsewhere
        require_method(ready.run.cells[0].method)
    row = outcome(ready)
    if row is None or (row["status"] == "ok" and not ready.checkpoint.exists()):
        require_here(run.settings, engine, address)
        if not carry_on(ready, run, ranks, engine, address=address, law=law, per_node=per_node, slurm_options=slurm_options, submit=submit):
            return
        row = outcome(ready)
        assert row is not None
    _tell(ready, row)


def _name(allocation: Path, arm: str | None) -> str:
    """Name a launch after its answer, and its arm."""
    from planner.launch.start import read_plan

    return allocation.stem if arm is None else "-".join([allocation.stem, *re.findall(r"\w+", str(read_plan(allocation, arm).arm))])


def _refuse(options: dict[str, Any]) -> None:
    """Refuse options for a single run where a plan has several.

    Raises:
        InputError: one of them is given.
    """
    given = [name for name, value in options.items() if value is not None]
    if given:
        several = len(given) > 1
        what = f"{', '.join(given)} {'apply' if several else 'applies'} to a single run, and a plan for many domains has several"
        raise InputError(what, remedy=f"leave {'them' if several else 'it'} out")


def _tell(ready: Launch, row: dict[str, Any]) -> None:
    """Print how a run ended.

    Raises:
        DataError: it diverged.
    """
    if row["status"] != "ok":
        raise DataError(f"the run diverged: {row['reason']}", remedy="lower the learning rate in the recipe and sweep again")
    say(f"specialist loss {row['loss_spec']:.4f} nats/token ({row['bpb_spec']:.3f} bits/byte), general loss {row['loss_general']:.4f}")
    say(f"checkpoint: {ready.checkpoint}; next: plan verify {shlex.quote(str(ready.folder))}")


def show_realised(ready: Launch, title: str) -> None:
    """Print requested against realised values."""
    import warnings

    from planner.launch.start import repeated_general_text

    if repeats := repeated_general_text([ready.run]):
        say(f"warning: {repeats}")
    rows = []
    for name, planned, realised in ready.realised():
        change = realised / planned - 1 if planned else 0.0
        rows.append([name, format_count(planned, 5), format_count(realised, 5), f"{change:+.2%}"])
        if abs(change) > FAR_FROM_PLAN:
            warnings.warn(f"{name} is realised {change:+.1%} off the plan; the forecast is for the plan", PlannerWarning, stacklevel=2)
    tip = ready.run.tree.tips[0]
    shape = tip.shape
    caption = f"{shape.family}, {shape.layers} layers, width {shape.hidden}, learning rate {tip.learning_rate:.3g}, seed {tip.seed}"
    table(title, ["", "planned", "realised", "change"], rows, caption=caption)
