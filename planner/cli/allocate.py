"""`plan allocate`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.allocation_tables import show, wants_runs
from planner.cli.answers import ANSWERS, accuracy_of, beside, budget_of_runs, design_for, general_law_file, tell
from planner.cli.budget import read_budget, read_throughput
from planner.cli.case import take_case
from planner.cli.console import say
from planner.cli.sizes import read_sizes
from planner.errors import InputError
from planner.units import parse_count, parse_share

if TYPE_CHECKING:
    from planner.allocate.allocation import Plan
    from planner.allocate.request import Request
    from planner.fit.fitted import FittedLaw

HELP = (
    "Recommend how to split a budget: size, general tokens, specialist tokens, epochs, and the loss to expect.\n\n"
    "Example: plan allocate --law sweeps/medicine --flops 2e13 --spec-tokens 200k\n\n"
    "Example: plan allocate --law mine --usd 20000 --usd-per-gpu-hour 2.5 --gpu H100 --mfu 0.4 --spec-tokens 5B --general-tokens 300B\n\n"
    "Example: plan allocate --law mine --gpus 64 --hours 72 --gpu A100 --mfu 0.45 --spec-tokens 5B --params 1B..8B\n\n"
    "Example: plan allocate --law mine --usd 50000 --usd-per-gpu-hour 2 --gpu A100 --mfu 0.45 --spec-tokens 5B --inference-tokens 1T --gpus 64 "
    "--hours 72\n\n"
    "Example: plan allocate --law mine --flops 1e22 --spec-tokens 30B --base name=A,tokens=2T,params=6.5B --base name=B,tokens=15T,params=7B "
    "--inference-tokens 100B\n\n"
    "Example: plan allocate --case examples/llamat.toml\n\n"
    "Example: plan allocate --flops 2e14 --domains domains.toml\n\n"
    "domains.toml has a table [[domain]] for each domain: name, law (path relative to the file; a law = at the top applies to all), unique_tokens = 200k, "
    "and optionally weight (of its loss in the weighted mean that is minimised; 1 by default), max_loss (required loss in nats/token), general_law (law "
    "of its general loss, where that is limited), accuracy (a CSV of your models: loss on this text, accuracy on its task) and chance (accuracy of "
    "random guessing in it)."
)


def allocate(
    spec_tokens: Annotated[
        str | None,
        typer.Option(help="Distinct specialist tokens available, such as 5e9 or 5B; or give --domains. A single-stage law without repeats needs none."),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(help='Budget in FLOPs (1e22), or in GPU time ("3 GPU-days", needs --gpu and --mfu or --gpu-flops). With FLOPs, these add GPU-hours.'),
    ] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="Budget in GPU-hours; needs --gpu and --mfu, or --gpu-flops.")] = None,
    gpu_days: Annotated[float | None, typer.Option(help="Budget in GPU-days; needs the same.")] = None,
    usd: Annotated[float | None, typer.Option(help="Budget in dollars; needs --usd-per-gpu-hour, and --gpu with --mfu or --gpu-flops.")] = None,
    usd_per_gpu_hour: Annotated[float | None, typer.Option(help="Price of one GPU-hour; also used to report the plan's cost.")] = None,
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs: for --hours, for the duration of the run, and for sharding a model's memory.")] = None,
    hours: Annotated[float | None, typer.Option(help="Time limit of the training run on --gpus; inference is not limited.")] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU model, such as A100 or H100; needs --mfu.")] = None,
    mfu: Annotated[str | None, typer.Option(help="MFU: share of the GPU's peak that your training reaches, such as 0.4 or 40%.")] = None,
    gpu_flops: Annotated[str | None, typer.Option(help="Instead of --gpu and --mfu: FLOP/s that one GPU really reaches, such as 4e14.")] = None,
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; by default the one here, or the only one under sweeps/.")] = None,
    general_tokens: Annotated[str | None, typer.Option(help="Distinct general tokens available; as many as needed by default.")] = None,
    params: Annotated[
        str | None, typer.Option(help="Model size [non-embedding parameters]: fixed (7B), one of a list (1B,3B,8B), or in a range (1B..8B).")
    ] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most epochs over the specialist text; by default the most that the runs cover.")] = None,
    inference_tokens: Annotated[
        str, typer.Option(help="Tokens read and written over the lifetime of the model (each --base; all --domains together), paid from the budget.")
    ] = "0",
    max_general_loss: Annotated[
        float | None, typer.Option(help="Highest general loss allowed after specialising [nats/token], as --general-law forecasts it.")
    ] = None,
    max_general_rise: Annotated[str | None, typer.Option(help="Largest rise of the general loss allowed by specialising, such as 3%.")] = None,
    general_law: Annotated[
        Path | None, typer.Option(help="Law of the general loss, from plan fit --target general; by default law_general.json beside the law.")
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(help="A checkpoint to specialise: name=A,tokens=2T,params=7B,context=4096 (or config=FOLDER for params); repeatable."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="How each --base is trained: full, lora or qlora; by default as the law's runs.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of lora and qlora adapters; by default that of the law's runs, else 16.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of one GPU [GB]; models that do not fit on --gpus of them are excluded.")] = None,
    kept_back: Annotated[
        str | None, typer.Option(help="With --base: report what it costs to keep these shares of the budget, such as 0.1,0.3, for a later stage.")
    ] = None,
    accuracy: Annotated[
        Path | None, typer.Option(help="Also forecast accuracy, from a CSV of your models: loss on the same text, accuracy. With --domains see above.")
    ] = None,
    chance: Annotated[str | None, typer.Option(help="Accuracy of random guessing for --accuracy, such as 0.25; fitted by default.")] = None,
    robust: Annotated[
        bool,
        typer.Option("--robust/--best-guess", help="The plan of least expected regret over the resamples, or the best under the fitted parameters alone."),
    ] = True,
    tolerance: Annotated[
        str | None, typer.Option(help="Plans within this share of the best loss count as equally good; 0.5% by default.")
    ] = None,
    allow_extrapolation: Annotated[bool, typer.Option(help="Answer even where the plan lies far beyond the runs.")] = False,
    next_runs: Annotated[
        str | None, typer.Option(help="FLOPs for further runs: also propose those that would say most about this decision; takes a few seconds more.")
    ] = None,
    case: Annotated[
        Path | None,
        typer.Option(help="Read options from a file, such as examples/llamat.toml; the command line overrides it.", is_eager=True, callback=take_case),
    ] = None,
    domains: Annotated[Path | None, typer.Option(help="A file of 2 to 1000 specialist domains, instead of --spec-tokens; see above.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recommendation.")] = Path("allocation.json"),
    figure: Annotated[bool, typer.Option("--figure/--no-figure", help="Draw a figure beside the answer; takes longer than the answer itself.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Recommend a split."""
    from planner.allocate.budget import Budget
    from planner.allocate.request import TOLERANCE, Request
    from planner.cli.paths import apart, replaceable
    from planner.fit.fitted import FittedLaw

    if chance is not None and accuracy is None:
        raise InputError("--chance has no effect without --accuracy", remedy="add --accuracy with a table of models, or leave it out")
    fixed, between, among = read_sizes(params)
    speed = read_throughput(gpu, mfu, gpu_flops)
    # Without --hours, --gpus only sets how many share the memory and the work; without --usd, the price only serves to report the plan's cost.
    shared = gpus if hours is not None or (gpu_memory is None and not base and speed is None) else None
    price = usd_per_gpu_hour if usd is not None or speed is None else None
    served = parse_count(inference_tokens)
    budget, within = read_budget(flops, Budget(gpu_hours, gpu_days, usd, price, shared, hours), speed, served > 0)
    if domains is not None and within is not None:
        if served:
            raise InputError("--hours with --inference-tokens works for one model only, and --domains has several", remedy="leave out one of the three")
        budget = min(budget, within)
    limits: dict[str, Any] = {
        "flops": budget, "params": fixed, "params_range": between, "params_among": among, "max_epochs": max_epochs,
        "general_tokens": None if general_tokens is None else parse_count(general_tokens), "inference_tokens": served,
        "tolerance": TOLERANCE if tolerance is None else parse_share(tolerance),
        "flops_per_gpu_second": speed, "usd_per_gpu_hour": usd_per_gpu_hour,
        "memory_per_gpu": None if gpu_memory is None else 1e9 * gpu_memory, "gpus": 1 if gpus is None else gpus,
        "max_general_loss": max_general_loss, "max_general_rise": None if max_general_rise is None else parse_share(max_general_rise),
    }  # fmt: skip
    picture = out.with_suffix(".png") if figure else None
    if picture is not None:
        apart(picture, out, domains, accuracy, case)
        replaceable(picture)
    if domains is not None:
        from planner.cli.domains import allocate_many

        others = {
            "--spec-tokens": spec_tokens, "--law": law, "--base": base, "--kept-back": kept_back, "--method": method,
            "--accuracy": accuracy, "--lora-rank": lora_rank,
        }  # fmt: skip
        return allocate_many(
            domains, limits, others, general_law, case=case, next_runs=next_runs, robust=robust, allow_extrapolation=allow_extrapolation, out=out,
            picture=picture, as_json=as_json,
        )  # fmt: skip
    laws = _laws(law, method, bool(base), out, case)
    request = Request(unique_spec=_distinct_text(spec_tokens, laws.fitted), training_flops=within, **limits)
    keeping = general_law_file(general_law, laws.path, request.limited)
    apart(out, keeping)
    further = budget_of_runs(next_runs, [laws.fitted], as_json)
    apart(out, accuracy)
    replaceable(out, *ANSWERS)
    laws = replace(laws, general_path=keeping, general=FittedLaw.load(keeping) if keeping else None)
    if base:
        found = _answer_bases(
            laws, request, base, method, lora_rank, kept_back, out=out, robust=robust, allow_extrapolation=allow_extrapolation
        )  # fmt: skip
    elif method is not None or kept_back or lora_rank is not None:
        raise InputError("--method, --lora-rank and --kept-back need a --base", remedy="add --base, or leave them out")
    else:
        found = _answer_plan(laws, request, robust=robust, allow_extrapolation=allow_extrapolation)
    replaced = out.exists()
    answer = _write(found, laws, out, accuracy, chance)
    tell(out, replaced, answer.warnings, found.show, answer, as_json)
    if further is not None:
        design_for(out, further)
    elif not as_json and found.wants_runs(answer):
        say(f"the runs that would say most about this decision: plan sweep design --flops BUDGET --decision {shlex.quote(str(out))}")
    if picture is not None:
        _draw(picture, answer, laws, robust, bool(base))
        say(f"written: {picture}")


@dataclass(frozen=True)
class _Laws:
    """The laws that an answer is made with."""

    path: Path
    """File of the law of the specialist loss."""
    fitted: FittedLaw
    by_method: Mapping[Path, FittedLaw]
    """Laws of other methods beside it, by file; read for --base only."""
    general_path: Path | None = None
    general: FittedLaw | None = None
    """Law of the general loss, where that is limited."""


@dataclass(frozen=True)
class _Found:
    """An answer, and what is done with answers of its kind."""

    answer: Any
    plan: Plan
    """The recommended one."""
    show: Callable[[Any], None]
    """Prints the answer as tables."""
    wants_runs: Callable[[Any], bool]
    """Tells whether further runs are proposed for it."""


def _laws(law: Path | None, method: str | None, bases: bool, out: Path, case: Path | None) -> _Laws:
    """Read the law that the options mean and, for bases, those of other methods beside it; none may be the file to be written."""
    from planner.cli.paths import apart, law_file
    from planner.fit.fitted import FittedLaw

    found = law_file(law, method)
    apart(out, found, case)
    fitted, by_method = FittedLaw.load(found), dict[Path, FittedLaw]()
    if bases:
        from planner.cli.bases import law_by_method, laws_beside

        found, fitted, by_method = law_by_method(found, fitted, laws_beside(found, fitted), law, method)
        apart(out, found, *by_method)
    return _Laws(found, fitted, by_method)


def _distinct_text(spec_tokens: str | None, law: FittedLaw) -> float:
    """Return the distinct specialist tokens; 1 where the law has no specialist stage.

    Raises:
        InputError: the law needs them and they are not given.
    """
    if spec_tokens is None:
        if law.one_corpus:
            raise InputError("the law is of runs on one corpus, so its distinct tokens are needed", remedy="give them as --spec-tokens")
        if law.members[0].law.stages == 2:
            raise InputError("the amount of specialist text is not given", remedy="give --spec-tokens for one domain, or --domains for many")
        return 1.0
    return parse_count(spec_tokens)


def _answer_bases(
    laws: _Laws, request: Request, texts: list[str], method: str | None, lora_rank: int | None, kept_back: str | None, *, out: Path, robust: bool,
    allow_extrapolation: bool,
) -> _Found:  # fmt: skip
    """Choose among the checkpoints of --base."""
    from planner.allocate.bases import allocate_bases
    from planner.cli.base_tables import show_bases, wants_runs_of_bases
    from planner.cli.bases import bases_of, method_of, shares_of

    bases = bases_of(texts, out)
    answer = allocate_bases(
        laws.fitted, request, bases, method_of(laws.fitted, method, lora_rank), general=laws.general, kept_back=shares_of(kept_back),
        others=tuple(laws.by_method.values()), robust=robust, allow_extrapolation=allow_extrapolation,
    )  # fmt: skip
    return _Found(answer, answer.choices[0].plan, show_bases, wants_runs_of_bases)


def _answer_plan(laws: _Laws, request: Request, *, robust: bool, allow_extrapolation: bool) -> _Found:
    """Recommend a model trained from scratch."""
    from planner.allocate.allocate import allocate as recommend

    answer = recommend(laws.fitted, request, general=laws.general, robust=robust, allow_extrapolation=allow_extrapolation)
    return _Found(answer, answer.plan, show, wants_runs)


def _write(found: _Found, laws: _Laws, out: Path, accuracy: Path | None, chance: str | None) -> Any:
    """Add the accuracy, where a table of models is given, write the answer with the hashes of its inputs, and return it as written."""
    from planner.artifacts import sha256_file

    answer = replace(found.answer, source=beside(found.answer.source, laws.path, out, laws.general_path))
    inputs = {"law": sha256_file(laws.path)}
    if laws.general_path is not None:
        inputs["general_law"] = sha256_file(laws.general_path)
    inputs |= {f"law_{other.source.get('method', 'full')}": sha256_file(path) for path, other in laws.by_method.items()}
    if accuracy is not None:
        body, more = accuracy_of(found.plan, accuracy, chance)
        answer, inputs["accuracy"] = replace(answer, accuracy=body, warnings=(*answer.warnings, *more)), sha256_file(accuracy)
    answer.save(out, inputs)
    return answer


def _draw(picture: Path, answer: Any, laws: _Laws, robust: bool, bases: bool) -> None:
    """Draw an answer: for bases the losses before and after; for one model the loss by split, or by size under a single-stage law."""
    from planner.report.style import save

    if bases:
        from planner.report.bases import bases as draw_bases

        save(picture, lambda axes: draw_bases(axes, answer), panels=2, width=5.6, height=max(4.2, 0.6 * len(answer.choices)))
    elif laws.fitted.members[0].law.stages == 1:
        from planner.allocate.isoflop import iso_flop
        from planner.allocate.problem import Problem
        from planner.allocate.request import Request
        from planner.report.plans import size_curve

        curve = iso_flop(Problem.of(laws.fitted, Request.from_mapping(answer.request), laws.general, robust=robust))
        save(picture, lambda axes: size_curve(axes[0], answer, curve))
    else:
        from planner.report.plans import split_curve

        save(picture, lambda axes: split_curve(axes[0], answer))
