"""`plan allocate`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.allocation_tables import show, wants_runs
from planner.cli.answers import ANSWERS, accuracy_of, beside, budget_of_runs, design_for, general_law_file, tell
from planner.cli.case import take_case
from planner.cli.console import say
from planner.cli.sizes import read_sizes
from planner.errors import InputError
from planner.units import parse_count, parse_flops, parse_share

if TYPE_CHECKING:
    from planner.allocate.budget import Budget
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
    "domains.toml: for each domain a table [[domain]] with name, law (relative to the file; one law = at the top stands for all), unique_tokens = 200k, "
    "and where wanted weight (1 by default, of its loss in the mean that is minimised), max_loss (nats/token that it must reach), general_law (of the "
    "general loss, where a limit is put on it), and accuracy (a CSV of your models: loss on this text, accuracy on its task) with chance (of "
    "guessing in it)."
)


def allocate(
    spec_tokens: Annotated[
        str | None, typer.Option(help="Distinct specialist tokens that you have, such as 5e9 or 5B; or give --domains. A law of one stage needs none.")
    ] = None,
    flops: Annotated[str | None, typer.Option(help='Budget: 1e22, beside which --gpu with --mfu tells GPU-hours, or "3 GPU-days" with them.')] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="Budget in GPU-hours, with --gpu and --mfu, or --gpu-flops.")] = None,
    gpu_days: Annotated[float | None, typer.Option(help="The same in GPU-days.")] = None,
    usd: Annotated[float | None, typer.Option(help="Budget in dollars, with --usd-per-gpu-hour.")] = None,
    usd_per_gpu_hour: Annotated[float | None, typer.Option(help="Price of one GPU for an hour, which the plan's cost is told by too.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs there are, with --hours; how many share a model's memory, and the work.")] = None,
    hours: Annotated[float | None, typer.Option(help="Longest time that the run may take on --gpus; it limits training, and no inference.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Kind of GPU, such as A100 or H100.")] = None,
    mfu: Annotated[str | None, typer.Option(help="Share of its peak that your training reaches, such as 0.4 or 40%.")] = None,
    gpu_flops: Annotated[str | None, typer.Option(help="Instead of --gpu and --mfu: FLOPs one GPU really does in a second.")] = None,
    law: Annotated[Path | None, typer.Option(help="law.json or its folder; by default the one here, or the only one under sweeps/.")] = None,
    general_tokens: Annotated[str | None, typer.Option(help="Distinct general tokens that you have; as many as needed by default.")] = None,
    params: Annotated[str | None, typer.Option(help="Fix the size [non-embedding parameters] 7B, choose among 1B,3B,8B, or in a range 1B..8B.")] = None,
    max_epochs: Annotated[float | None, typer.Option(help="Most passes over the specialist text; the most that the runs cover by default.")] = None,
    inference_tokens: Annotated[
        str, typer.Option(help="Tokens the model, each --base, or all --domains together will read and write for life, paid from the budget too.")
    ] = "0",
    max_general_loss: Annotated[float | None, typer.Option(help="Most general loss after specialising [nats/token], by --general-law.")] = None,
    max_general_rise: Annotated[str | None, typer.Option(help="Most rise of the general loss by specialising, such as 3%, by --general-law.")] = None,
    general_law: Annotated[
        Path | None, typer.Option(help="Law of the general loss, from plan fit --target general; law_general.json beside the law by default.")
    ] = None,
    base: Annotated[
        list[str] | None, typer.Option(help="A checkpoint to specialise, name=A,tokens=2T,params=7B (or config=FOLDER), context=4096; repeatable.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="How a --base is specialised: full, lora or qlora; as the runs of the law by default.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapters of lora and qlora; as the runs of the law had it, else 16.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Memory of one GPU [GB]; what does not fit --gpus of them is left out.")] = None,
    kept_back: Annotated[
        str | None, typer.Option(help="Shares of the budget, such as 0.1,0.3, kept back for a later stage of a --base: what each costs.")
    ] = None,
    accuracy: Annotated[
        Path | None, typer.Option(help="Forecast accuracy by a CSV table of models: loss on the same text, accuracy; of many domains, see above.")
    ] = None,
    chance: Annotated[str | None, typer.Option(help="Accuracy of guessing in that table, such as 0.25; fitted by default.")] = None,
    robust: Annotated[
        bool, typer.Option("--robust/--best-guess", help="Least expected regret over the resamples, or what the fitted parameters alone prefer.")
    ] = True,
    tolerance: Annotated[
        str | None, typer.Option(help="Share of the best loss within which plans count as equally good; 0.5% by default.")
    ] = None,
    allow_extrapolation: Annotated[bool, typer.Option(help="Answer even where the plan lies far beyond the runs.")] = False,
    next_runs: Annotated[
        str | None, typer.Option(help="FLOPs for further runs: which of them would say most about this decision; takes some seconds more.")
    ] = None,
    case: Annotated[
        Path | None, typer.Option(help="Take the options from a file, such as examples/llamat.toml.", is_eager=True, callback=take_case)
    ] = None,
    domains: Annotated[Path | None, typer.Option(help="A file of 2 to 1000 specialist domains, instead of --spec-tokens; see above.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write the recommendation.")] = Path("allocation.json"),
    figure: Annotated[bool, typer.Option("--figure/--no-figure", help="Whether to draw the answer beside it; takes longer than the answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Recommend a split."""
    from dataclasses import replace

    from planner.allocate.budget import Budget
    from planner.allocate.request import TOLERANCE, Request
    from planner.artifacts import sha256_file
    from planner.cli.paths import apart, law_file, replaceable
    from planner.fit.fitted import FittedLaw

    if chance is not None and accuracy is None:
        raise InputError("--chance says nothing without --accuracy", remedy="add --accuracy with a table of models, or leave it away")
    fixed, between, among = read_sizes(params)
    speed = _throughput(gpu, mfu, gpu_flops)
    # Without --hours, --gpus says how many share a model's memory, and the work; a price without --usd says what the plan costs.
    shared = gpus if hours is not None or (gpu_memory is None and not base and speed is None) else None
    price = usd_per_gpu_hour if usd is not None or speed is None else None
    served = parse_count(inference_tokens)
    budget, within = _flops(flops, Budget(gpu_hours, gpu_days, usd, price, shared, hours), speed, served > 0)
    if domains is not None and within is not None:
        if served:
            raise InputError("--hours beside --inference-tokens is of one model, and --domains has several", remedy="leave one of the three away")
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
    found = law_file(law, method)
    apart(out, found, case)
    fitted, by_method = FittedLaw.load(found), dict[Path, FittedLaw]()
    if base:
        from planner.cli.bases import law_by_method, laws_beside

        found, fitted, by_method = law_by_method(found, fitted, laws_beside(found, fitted), law, method)
        apart(out, found, *by_method)
    if spec_tokens is None:
        if fitted.one_corpus:
            raise InputError("the runs of the law are on one corpus", remedy="give --spec-tokens: the distinct tokens that the corpus has")
        if fitted.members[0].law.stages == 2:
            raise InputError("there is no specialist text", remedy="give --spec-tokens for one domain, or --domains for many")
        spec_tokens = "1"  # a law of one stage knows none, whatever there is
    request = Request(unique_spec=parse_count(spec_tokens), training_flops=within, **limits)
    keeping = general_law_file(general_law, found, request.limited)
    apart(out, keeping)
    further = budget_of_runs(next_runs, [fitted], as_json)
    apart(out, accuracy)
    replaceable(out, *ANSWERS)
    of_general = FittedLaw.load(keeping) if keeping else None
    answer: Any
    shown: Callable[[Any], None]
    more_inputs: dict[str, str] = {}
    if base:
        from planner.allocate.bases import allocate_bases
        from planner.cli.base_tables import show_bases, wants_runs_of_bases
        from planner.cli.bases import bases_of, method_of, shares_of

        bases = bases_of(base, out)
        answer = allocate_bases(
            fitted, request, bases, method_of(fitted, method, lora_rank), general=of_general, kept_back=shares_of(kept_back),
            others=tuple(by_method.values()), robust=robust, allow_extrapolation=allow_extrapolation,
        )  # fmt: skip
        plan, shown = answer.choices[0].plan, show_bases
        more_inputs = {f"law_{other.source.get('method', 'full')}": sha256_file(path) for path, other in by_method.items()}
    elif method is not None or kept_back or lora_rank is not None:
        raise InputError("--method, --lora-rank and --kept-back are of a --base", remedy="add --base, or leave them away")
    else:
        from planner.allocate.allocate import allocate as recommend

        answer = recommend(fitted, request, general=of_general, robust=robust, allow_extrapolation=allow_extrapolation)
        plan, shown = answer.plan, show
    answer = replace(answer, source=beside(answer.source, found, out, keeping))
    inputs = {"law": sha256_file(found), **({"general_law": sha256_file(keeping)} if keeping else {}), **more_inputs}
    if accuracy is not None:
        body, more = accuracy_of(plan, accuracy, chance)
        answer, inputs["accuracy"] = replace(answer, accuracy=body, warnings=(*answer.warnings, *more)), sha256_file(accuracy)
    replaced = out.exists()
    answer.save(out, inputs)
    tell(out, replaced, answer.warnings, shown, answer, as_json)
    if further is not None:
        design_for(out, further)
    elif not as_json and (wants_runs_of_bases(answer) if base else wants_runs(answer)):
        say(f"the runs that would say most about this decision: plan sweep design --flops BUDGET --decision {shlex.quote(str(out))}")
    if picture is not None:
        _draw(picture, answer, fitted, of_general, robust, bool(base))
        say(f"written: {picture}")


def _draw(picture: Path, answer: Any, law: FittedLaw, general: FittedLaw | None, robust: bool, bases: bool) -> None:
    """Draw an answer: of bases before and after; of one model the loss by split, or by size under a law that knows no split."""
    from planner.report.style import save

    if bases:
        from planner.report.bases import bases as draw_bases

        save(picture, lambda axes: draw_bases(axes, answer), panels=2, width=5.6, height=max(4.2, 0.6 * len(answer.choices)))
    elif law.members[0].law.stages == 1:
        from planner.allocate.isoflop import iso_flop
        from planner.allocate.problem import Problem
        from planner.allocate.request import Request
        from planner.report.plans import size_curve

        curve = iso_flop(Problem.of(law, Request.from_mapping(answer.request), general, robust=robust))
        save(picture, lambda axes: size_curve(axes[0], answer, curve))
    else:
        from planner.report.plans import split_curve

        save(picture, lambda axes: split_curve(axes[0], answer))


def _throughput(gpu: str | None, mfu: str | None, stated: str | None) -> float | None:
    """Return what one GPU really does [FLOP/s]; None where nothing is said of it."""
    from planner.allocate.budget import gpu_flops

    if stated is not None:
        if gpu is not None or mfu is not None:
            raise InputError("--gpu-flops says what --gpu and --mfu say", remedy="give one or the other")
        if (rate := parse_count(stated)) <= 0:
            raise InputError(f"--gpu-flops {stated} is not a positive number", remedy="give what one GPU really does, such as 4e14")
        return rate
    if gpu is None and mfu is None:
        return None
    if gpu is None or mfu is None:
        missing = "--mfu" if gpu is not None else "--gpu"
        raise InputError(f"{missing} is missing: what a GPU really does is its peak times the share that training reaches", remedy=f"add {missing}")
    return gpu_flops(gpu, parse_share(mfu))


def _flops(flops: str | None, budget: Budget, throughput: float | None, serves: bool) -> tuple[float, float | None]:
    """Return the budget [FLOPs] from whichever ways it is given, the least of them, and beside it what training may take in the time there is.

    Which of several limits binds is said. Time alone is a budget too, but not where inference is paid: that is after the run.
    """
    hours = budget.hours_of_gpu()
    if hours and throughput is None:
        least = min(hours.values())
        raise InputError(f"{least:,.4g} GPU-hours are no FLOPs yet", remedy="add --gpu with --mfu, such as --gpu H100 --mfu 0.4, or --gpu-flops")
    limits = {name: value * 3600 * (throughput or math.nan) for name, value in hours.items()}
    if flops is not None:
        limits["--flops"] = parse_flops(flops, flops_per_gpu_second=throughput, timed=True)
    if not limits:
        raise InputError("no budget is given", remedy="give --flops, --gpu-hours, --gpu-days, --usd with --usd-per-gpu-hour, or --gpus with --hours")
    within = limits.pop("--hours", None) if serves else limits.get("--hours")
    if not limits:
        what = "--hours limits the run, and --inference-tokens are paid after it from a budget"
        raise InputError(what, remedy="give that too: --flops, --gpu-hours or --usd with --usd-per-gpu-hour")
    binding = min(limits, key=lambda name: limits[name])
    if serves and within is not None and within < limits[binding]:
        say(f"--hours leaves training {within:.3g} FLOPs, whatever the budget")
    if len(limits) > 1:
        others = ", ".join(f"{name} would allow {value:.3g}" for name, value in limits.items() if name != binding)
        say(f"{binding} binds{' the budget' * (binding != '--hours')}: {limits[binding]:.3g} FLOPs; {others}")
    return min((value for name, value in limits.items() if name != "--hours"), default=limits[binding]), within
