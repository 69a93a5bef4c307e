"""`plan evaluate`: a checkpoint beside its base, by perplexity and by tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.console import give, say
from planner.cli.tables import table
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.evaluation import Evaluated

HELP = (
    "Evaluate a checkpoint, and its base beside it: perplexity on held-out text, and tasks of lm-evaluation-harness.\n\n"
    "Example: plan evaluate launches/first --corpus mine/corpus --base path/to/base\n\n"
    "Example: plan evaluate path/to/checkpoint --corpus mine/corpus --tasks-folder mine/tasks --tasks diseases,sciq --table accuracy.csv"
)


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint in safetensors, or of a launched run.")],
    corpus: Annotated[Path | None, typer.Option(help="Corpus with the held-out text, built with the checkpoint's tokenizer.")] = None,
    domain: Annotated[str | None, typer.Option(help="Specialist domain, if the corpus has several; by default a launched run's own.")] = None,
    base: Annotated[Path | None, typer.Option(help="Checkpoint to compare with, of the same tokenizer.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Names of tasks, or task files in YAML, separated by commas; by default all of --tasks-folder.")
    ] = None,
    tasks_folder: Annotated[Path | None, typer.Option(help="Folder with task files and their data; needs no network.")] = None,
    few_shot: Annotated[int | None, typer.Option(min=0, help="Examples before each question; the task's own number by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most questions per task.")] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=8, help="Window of held-out text [tokens]; by default the run's, or 1024; at most what both models allow.")
    ] = None,
    eval_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most held-out tokens per domain; by default those of the run's record, or 65536.")
    ] = None,
    to_table: Annotated[Path | None, typer.Option("--table", help="CSV of loss and accuracy to add the models to, for plan allocate --accuracy.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; by default evaluation.json in the checkpoint's folder.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Evaluate a checkpoint."""
    from planner.artifacts import read_json
    from planner.cli.needs import require_torch
    from planner.cli.paths import replaceable
    from planner.corpus import Corpus
    from planner.evaluation import KIND, add_to_table, check_table, checkpoint_in, domain_of, name_of, record_of, save, text_of, windows
    from planner.evaluation import evaluate as measure

    require_torch()
    from planner.train.gpus import check_device

    if to_table is not None and (corpus is None or (tasks is None and tasks_folder is None)):
        lacks = "held-out loss" if corpus is None else "accuracy"
        raise InputError(f"--table {to_table} needs loss and accuracy, and no {lacks} would be measured", remedy="give --corpus and --tasks")
    place = out or checkpoint / "evaluation.json"
    replaceable(place, KIND)
    check_device(device)
    wanted = _tasks(tasks, tasks_folder)
    found, before = checkpoint_in(checkpoint), checkpoint_in(base) if base is not None else None
    if corpus is None and not wanted:
        raise InputError("there is nothing to evaluate on", remedy="give --corpus, --tasks or both")
    text = Corpus.open(corpus) if corpus is not None else None
    options: dict[str, Any] = {"few_shot": few_shot, "limit": limit, "device": device}
    if text is not None:
        domain = domain or domain_of(found, text)
        if to_table is not None:
            check_table(to_table, text_of(text, domain))
        options["seq_len"], options["max_tokens"] = windows(found, before, seq_len, eval_tokens)
    mine = measure(found, text, domain, wanted, **options)
    other = measure(before, text, domain, wanted, **options) if before is not None else None
    save(place, mine, other, text, record_of(found))
    if as_json:
        give(read_json(place))
    else:
        show(mine, other)
    say(f"written: {place}")
    if to_table is not None:
        rows = 0
        for one in (mine, other):
            rows = rows if one is None else add_to_table(to_table, {name_of(one.folder): one})
        say(f"written: {to_table}, {rows} rows")


def show(mine: Evaluated, base: Evaluated | None) -> None:
    """Print a checkpoint beside its base."""
    from planner.evaluation import error_of

    rows = []
    for key in sorted(mine.losses, key=lambda name: (name.endswith("general"), name.split("_")[0] != "perplexity", name)):
        what, _, which = key.partition("_")
        unit = {"loss": "nats/token", "bpb": "bits/byte", "perplexity": "perplexity"}[what]
        old = base.losses[key] if base else None
        change = "" if old is None else f"{100 * (mine.losses[key] / old - 1):+.1f} %"
        rows.append([f"{'specialist' if which == 'spec' else 'general'} {unit}", "" if old is None else f"{old:.4g}", f"{mine.losses[key]:.4g}", change])
    for task, values in mine.tasks.items():
        for metric, value in values.items():
            if "_stderr" in metric or metric == "sample_len":
                continue
            before, error = base.tasks.get(task, {}).get(metric) if base else None, values.get(error_of(metric))
            shown = _number(value) + (f" ± {_number(error)}" if error else "")
            change = "" if before is None else ("+" if value > before else "") + _number(value - before)
            rows.append([f"{task} ({metric})", "" if before is None else _number(before), shown, change])
    where = "" if mine.seq_len is None else f", windows of {mine.seq_len} tokens"
    columns = ["", "base", "checkpoint", "change"]
    if base is None:  # then there is nothing to compare with
        columns, rows = columns[::2], [row[::2] for row in rows]
    table(f"Checkpoint {mine.folder}{where}", columns, rows)


def _number(value: float) -> str:
    """Write a measure of a task: shares to a thousandth, perplexities to four digits."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def _tasks(names: str | None, folder: Path | None) -> list[str | dict[str, Any]]:
    if names is None and folder is None:
        return []
    from planner.train.harness import read_task, task_files

    files = task_files(folder) if folder is not None else {}
    found: list[str | dict[str, Any]] = []
    for name in map(str.strip, names.split(",")) if names else files:
        path = files.get(name) or (Path(name) if name.endswith((".yaml", ".yml")) else None)
        found.append(name if path is None else read_task(path))
    return found
