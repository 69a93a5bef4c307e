"""`plan laws` and `plan fit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.console import bar, give, say, table
from planner.errors import InputError, StateError
from planner.units import format_count

if TYPE_CHECKING:
    from planner.fit.fitted import FittedLaw

LAWS_HELP = "List the laws that can be fitted: formula, parameters, source, when to use.\n\nExample: plan laws"
FIT_HELP = (
    "Fit a law to a runs table, with intervals; write law.json and figures.\n\n"
    "Example: plan fit sweeps/\n\n"
    "Example: plan fit my_runs.csv --map params_non_embedding=N --map tokens_pt=D --map loss_spec=loss"
)


def laws(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """List the laws."""
    from planner.laws import LAWS

    if as_json:
        give([{"name": law.name, "formula": law.formula, "source": law.source, "use": law.use, "stages": law.stages,
               "parameters": [{"name": item.name, "unit": item.unit, "low": item.low, "high": item.high} for item in law.parameters]}
              for law in LAWS.values()])  # fmt: skip
        return
    from rich.console import Console

    console = Console(highlight=False)
    for law in LAWS.values():
        console.print(f"[bold]{law.name}[/bold]  ({law.stages} stage{'s' if law.stages > 1 else ''}, {len(law.parameters)} parameters)")
        units = ", ".join(f"{item.name} [{item.unit}]" for item in law.parameters)
        for what, text in (("L =", law.formula), ("parameters:", units), ("source:", law.source), ("use:", law.use)):
            console.print(f"    {what} {text}", markup=False)


def fit(
    path: Annotated[Path, typer.Argument(help="A sweep's folder, the folder sweeps/, or a table of runs (CSV, JSON Lines, parquet).")],
    law: Annotated[str, typer.Option(help="A law by name (plan laws), or auto: the best by held-out error.")] = "auto",
    mapping: Annotated[list[str] | None, typer.Option("--map", help="OURS=THEIRS: which column of the table is which; repeatable.")] = None,
    params_kind: Annotated[str, typer.Option(help="What N is: non_embedding, total, or auto: what forecasts best, or both.")] = "auto",
    keep: Annotated[list[str] | None, typer.Option(help="A flag whose rows are fitted all the same, such as short_stage; repeatable.")] = None,
    resamples: Annotated[int, typer.Option(min=20, max=100000, help="Resamples by trunk.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of starts and resamples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write the law; law.json beside the table by default.")] = None,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Whether to draw figures.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Fit a law."""
    from planner.artifacts import sha256_file
    from planner.cli.paths import runs_file
    from planner.fit.data import PARAMS_KINDS, fit_data
    from planner.fit.fit import fit as fit_law
    from planner.runs import read_runs

    if params_kind not in (*PARAMS_KINDS, "auto"):
        raise InputError(f"--params-kind {params_kind!r} is not known", remedy=f"choose one of {', '.join(PARAMS_KINDS)}, auto")
    runs = runs_file(path)
    target = out or runs.with_name("law.json")
    frame = read_runs(runs, _mapping(mapping or []))
    data = fit_data(frame, keep=tuple(keep or ()))
    kinds = tuple(data.params_by) if params_kind == "auto" else (params_kind,)
    if not set(kinds) <= set(data.params_by):
        raise InputError(f"the column {PARAMS_KINDS[params_kind]} is missing or has gaps", remedy="fill it, or choose the other --params-kind")
    source = {**_source(runs, frame, target), "runs": runs.name, "flagged": _flag_counts(frame), "kept_flags": keep or []}
    with bar("fit", 1.0) as shown:

        def tell(what: str, share: float) -> None:
            shown.update(share, what)

        fitted = fit_law(data, law, params_kinds=kinds, resamples=resamples, seed=seed, source=source, progress=tell)
    fitted.save(target, {"runs": sha256_file(runs)})
    drawn = _draw(fitted, data, target.parent / "figures") if figures else []
    if as_json:
        from planner.artifacts import read_json

        give(read_json(target))
    else:
        show(fitted)
    for item in [target, *drawn]:
        say(f"written: {item}")


def show(law: FittedLaw) -> None:
    """Print a fitted law as tables."""
    from planner.fit.solver import STATUS_ADVICE
    from planner.runs import FLAGS

    for member in law.members:
        rows = []
        for number, (parameter, value) in enumerate(zip(member.law.parameters, member.theta, strict=True)):
            low, high = member.interval(number)
            edge = "at its bound" if parameter.name in member.at_bound else ""
            rows.append([parameter.name, f"{value:.4g}", f"{low:.3g} to {high:.3g}", parameter.unit, edge])
        caption = (
            f"{member.law.formula}\n{member.status}: {STATUS_ADVICE[member.status]}; "
            f"{member.starts_agree} of {member.starts} starts agree; condition {member.condition:.1e}; "
            f"N: {member.params_kind} parameters, N0 = {format_count(member.reference.params)}, D0 = {format_count(member.reference.tokens)}"
        )
        with_others = f", 1 of {len(law.members)} that forecast together" if len(law.members) > 1 else ""
        table(f"Law {member.law.name}{with_others}", ["parameter", "value", "90 % interval", "unit", ""], rows, caption=caption)
    names = list(dict.fromkeys(name for score in law.scores for name in score["held"]))
    rows = [
        [("* " if score["chosen"] else "  ") + score["law"], score["params_kind"], score["parameters"], f"{score['rms_percent']:.2f}",
         *(f"{score['held'][name]:.2f}" if name in score["held"] else "" for name in names),
         f"{score['mean']:.2f}" if score["held"] else "", score["status"]]
        for score in law.scores[:12]
    ]  # fmt: skip
    caption = "mean absolute error in % of the loss where a slice is left out and forecast; * chosen" + (
        f"; {len(law.scores) - 12} worse laws not shown (law.json has them)" if len(law.scores) > 12 else ""
    )
    table("Laws by held-out error", ["law", "N", "parameters", "fit", *names, "mean", "status"], rows, caption=caption)
    if law.holdout:
        found = law.holdout
        say(
            f"largest size ({format_count(found['params'])}, {found['factor']:.2g}× the next), chosen and fitted without it: "
            f"{found['mean_absolute_percent']:.2f} % mean absolute error on {found['rows']} runs, "
            f"bias {found['bias_percent']:+.2f} %, worst {found['worst_percent']:.1f} %"
        )
    replicate = law.source.get("replicate_sd")
    say(
        f"rows {law.source['rows']}; noise of a run {100 * law.noise:.2f} %" + (f" (between seeds {100 * replicate:.2f} %)" if replicate else "")
        + f"; outside the runs the interval widens by {100 * law.drift:.2f} % for each factor of e"
    )  # fmt: skip
    for flag, count in law.source.get("flagged", {}).items():
        say(f"kept out of the fit: {count} runs flagged {flag} ({FLAGS.get(flag, 'named in the table')})")
    least, most = law.support.low, law.support.high
    axes = [f"{name} {format_count(least[name])} to {format_count(most[name])}" for name in least if most[name] and name != "flops_6nd"]
    say(f"support: {'; '.join(axes)}")


def _mapping(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not sign or not ours or not theirs:
            raise InputError(f"--map {pair!r} is not OURS=THEIRS", remedy="write for instance --map tokens_pt=D")
        if ours in found:
            raise InputError(f"--map names {ours} twice", remedy="name it once")
        found[ours] = theirs
    return found


def _source(runs: Path, frame: Any, target: Path) -> dict[str, Any]:
    """Tell where runs are from, so that the law can be allocated and launched with the sweep's own recipe."""
    if not (runs.parent / "sweep.toml").is_file() or runs.name != "runs.csv":
        return {}
    from planner.design.spec import read_sweep

    spec = read_sweep(runs.parent)
    recipes = set(frame["recipe"].dropna())
    if recipes != {spec.recipe.fingerprint}:
        raise StateError(
            f"{runs} was made with recipe {', '.join(sorted(recipes))}, and sweep.toml beside it states {spec.recipe.fingerprint}",
            remedy="restore sweep.toml's [recipe], or run the sweep again",
        )
    vocabularies = frame["vocab_size"].dropna().unique()
    return {
        "sweep": spec.name,
        "recipe": spec.recipe.to_dict(),
        "vocab_size": int(vocabularies[0]) if len(vocabularies) == 1 else None,
        "corpus": str(frame["corpus"].iloc[0]),
        "corpus_path": os.path.relpath(spec.corpus, target.resolve().parent),
        "domain": spec.domain,
        "eval_tokens": spec.eval_tokens,
    }


def _flag_counts(frame: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for flags in frame["flags"]:
        for flag in filter(None, str(flags).split(";")):
            counts[flag] = counts.get(flag, 0) + 1
    return counts


def _draw(law: FittedLaw, data: Any, folder: Path) -> list[Path]:
    from planner.report.figures import forecasts, holdout, save, size_slices, token_slices

    drawn = [folder / "law.png"]
    if data.two_stage:

        def draw(axes: Any) -> None:
            size_slices(axes[0], law, data)
            token_slices(axes[1], law, data)
            forecasts(axes[2], law, data)

        save(drawn[0], draw, panels=3, width=5.6)
    else:
        save(drawn[0], lambda axes: forecasts(axes[0], law, data))
    if law.holdout:
        drawn.append(folder / "holdout.png")
        save(drawn[1], lambda axes: holdout(axes[0], law), width=5.6, height=5.0)
    return drawn
