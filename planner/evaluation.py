"""Evaluate a checkpoint beside its base, by held-out perplexity, bits per byte and tasks; write a file, the launched run's record and a table.

The table has one row per model and task, with the columns that `plan allocate --accuracy` reads.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.allocate.accuracy import TEXT
from planner.artifacts import read_json, whole, write_artifact, write_text
from planner.corpus import Corpus
from planner.errors import InputError, PlannerWarning
from planner.pretrained import Pretrained
from planner.runs import RECORD_VERSION, read_run
from planner.train.full.plan import FILE as LAID_DOWN
from planner.train.full.plan import FullRun
from planner.train.job import record_path

KIND = "evaluation"
VERSION = 1
SEQ_LEN = 1024
"""Default window of held-out text, if the checkpoint's context is as long [tokens]."""
EVAL_TOKENS = 65536
"""Default limit on held-out tokens per domain."""
ACCURACIES = ("acc_norm", "acc", "exact_match")
"""Metrics that count as accuracy; a task's is the first of these that it has."""
TABLE = ("model", "task", "metric", "loss", "accuracy")
FINGERPRINT = "fingerprint"
"""Column with the checkpoint's fingerprint. Tables of earlier versions, or made by hand, lack it and the column of the text (`TEXT`)."""


@dataclass(frozen=True)
class Evaluated:
    """One checkpoint."""

    folder: Path
    losses: dict[str, float]
    """loss, perplexity and bpb, each with _spec and _general; empty without a corpus."""
    tasks: dict[str, dict[str, float]]
    """Metrics by task."""
    seq_len: int | None = None
    """Window of the losses [tokens]."""
    eval_tokens: int | None = None
    """Limit on held-out tokens per domain."""
    fingerprint: str = ""
    """Fingerprint of the checkpoint, if it was measured on a corpus."""
    text: str = ""
    """Name of that held-out text: see `text_of`."""

    @property
    def accuracies(self) -> dict[str, tuple[str, float]]:
        """Map each task to its accuracy metric and the value; with several answer filters ("exact_match,strict-match"), the first one's."""
        found = {}
        for task, values in self.tasks.items():
            metric = next((key for name in ACCURACIES for key in values if key.partition(",")[0] == name), None)
            if metric is not None:
                found[task] = metric, values[metric]
        return found


def error_of(metric: str) -> str:
    """Return the harness's key for the standard error of a metric."""
    name, comma, which = metric.partition(",")
    return f"{name}_stderr{comma}{which}"


def checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint in a folder: the folder itself, or the checkpoint of a launch.

    Raises:
        InputError: neither.
    """
    for place in (folder, folder / "checkpoint"):
        if (place / "config.json").is_file():
            return place
    raise InputError(f"{folder} holds no checkpoint", remedy="name a folder with config.json and safetensors, or that of a finished plan launch")


def name_of(folder: Path) -> str:
    """Return a checkpoint's name in a table: its folder's, or the parent's (such as a launch's) if the folder is just called checkpoint."""
    place = folder.resolve()
    return place.parent.name if place.name == "checkpoint" else place.name


def text_of(corpus: Corpus, domain: str | None) -> str:
    """Name a held-out text as in the table: corpus fingerprint/domain.

    Raises:
        InputError: no such domain, or several and none chosen.
    """
    return f"{corpus.fingerprint}/{corpus.specialist(domain)}"


def windows(checkpoint: Path, base: Path | None, seq_len: int | None = None, max_tokens: int | None = None) -> tuple[int, int]:
    """Choose the windows of held-out text for both a checkpoint and its base; losses on different windows are not comparable.

    Args:
        checkpoint: its folder; the record of a launch or of a sweep's endpoint says what its loss was measured on.
        base: folder of the checkpoint to compare with, if any.
        seq_len: requested window, if any [tokens].
        max_tokens: requested limit on held-out tokens per domain, if any.

    Returns:
        Window and limit on held-out tokens; unless requested, the window fits the context of both.

    Raises:
        InputError: a checkpoint that cannot be used, or a damaged record.
    """
    recorded = _recorded(checkpoint)
    contexts = [Pretrained.open(folder).context for folder in (checkpoint, base) if folder is not None]
    return seq_len or min(recorded[0] or SEQ_LEN, *contexts), max_tokens or recorded[1] or EVAL_TOKENS


def record_of(checkpoint: Path) -> Path | None:
    """Return the record of the run that wrote a checkpoint: a launch, one run of a launch of several domains, or a sweep's endpoint.

    Raises:
        InputError: a launch.json that names no run.
    """
    place = checkpoint.resolve()
    path = None
    if place.name == "checkpoint" and (launch := place.parent / "launch.json").is_file():
        with whole(launch):
            path = record_path(place.parent, read_json(launch)["run_id"])
    elif place.name == "checkpoint" and len(records := list((place.parent / "records").glob("*.json"))) == 1:
        path = records[0]  # a domain's run inside the launch of several
    elif place.parent.name == "checkpoints":
        path = record_path(place.parents[1], place.name)
    return path if path is not None and path.is_file() else None


def domain_of(checkpoint: Path, corpus: Corpus) -> str | None:
    """Return the specialist domain of a launched run, if the corpus has it.

    Raises:
        InputError: a damaged file of the launch.
    """
    folder = checkpoint.resolve().parent
    if record_of(checkpoint) is None or not (folder / LAID_DOWN).is_file():
        return None
    domain = FullRun.load(folder).last.domain
    return domain if domain in corpus.domains else None


def _recorded(checkpoint: Path) -> tuple[int | None, int | None]:
    """Return window and limit on held-out tokens from the record of the run that wrote a checkpoint, if there is one."""
    path, source = record_of(checkpoint), {}
    if path is None:
        return None, None
    plan = checkpoint.resolve().parent / "allocation.json"
    if plan.is_file():
        with whole(plan):
            source = dict(read_json(plan).get("source") or {})
    record = read_run(path)
    with whole(path):
        tokens = record.get("eval_tokens") or source.get("eval_tokens")  # records of earlier versions do not say
        return int(record["recipe"]["seq_len"]), None if tokens is None else int(tokens)


def evaluate(
    checkpoint: Path, corpus: Corpus | None, domain: str | None, tasks: Sequence[str | dict[str, Any]], *, seq_len: int | None = None,
    max_tokens: int = EVAL_TOKENS, few_shot: int | None = None, limit: int | None = None, device: str = "cpu",
) -> Evaluated:  # fmt: skip
    """Evaluate one checkpoint.

    Args:
        checkpoint: its folder.
        corpus: for the held-out text, built with the checkpoint's tokenizer; None for tasks alone.
        domain: specialist domain.
        tasks: see `harness.run_tasks`.
        seq_len: window [tokens].
        max_tokens: limit on held-out tokens per domain.
        few_shot: see `harness.run_tasks`.
        limit: see `harness.run_tasks`.
        device: "cpu" or "cuda".

    Raises:
        InputError: a checkpoint or a device that cannot be used, or a corpus of another tokenizer or without held-out losses.
    """
    from planner.train.gpus import check_device
    from planner.train.harness import run_tasks

    check_device(device)
    losses: dict[str, float] = {}
    about: dict[str, Any] = {}
    if corpus is not None:
        from planner.train.perplexity import heldout_losses

        opened = Pretrained.open(checkpoint)
        window = seq_len or min(SEQ_LEN, opened.context)
        opened.check_corpus(corpus.tokenizer_path, corpus.vocab_size, window)
        special = corpus.specialist(domain)
        corpus.check_heldout([corpus.general, special], window)
        found = heldout_losses(checkpoint, corpus, special, window, max_tokens=max_tokens, device=device)
        about = {"seq_len": window, "eval_tokens": max_tokens, "fingerprint": opened.fingerprint, "text": text_of(corpus, special)}
        losses = {f"perplexity_{key.removeprefix('loss_')}": math.exp(value) for key, value in found.items() if key.startswith("loss_")} | found
    results: dict[str, dict[str, float]] = {}
    if tasks:
        results = run_tasks(checkpoint, tasks, few_shot=few_shot, limit=limit, device=device)
    return Evaluated(checkpoint, losses, results, **about)


def against(mine: Evaluated, base: Evaluated) -> dict[str, float]:
    """Return the change from a base: in per cent for perplexity and bits per byte, as a difference for tasks' metrics."""
    change = {
        f"{key}_percent": 100 * (value / base.losses[key] - 1)
        for key, value in mine.losses.items()
        if key.split("_")[0] in ("perplexity", "bpb") and key in base.losses
    }
    for task, (metric, value) in mine.accuracies.items():
        if metric in base.tasks.get(task, {}):
            change[f"{task}_{metric}"] = value - base.tasks[task][metric]
    return change


def save(out: Path, mine: Evaluated, base: Evaluated | None, corpus: Corpus | None, record: Path | None) -> None:
    """Write evaluation.json, and the same into the record of the run that wrote the checkpoint, if there is one."""
    body: dict[str, Any] = {
        "checkpoint": mine.folder.name, "corpus": None if corpus is None else corpus.fingerprint, "seq_len": mine.seq_len,
        "eval_tokens": mine.eval_tokens, "losses": mine.losses, "tasks": mine.tasks,
        "base": None if base is None else {"name": base.folder.name, "losses": base.losses, "tasks": base.tasks},
        "change": None if base is None else against(mine, base),
    }  # fmt: skip
    write_artifact(out, KIND, VERSION, body)
    if record is not None:
        _into_record(record, body)


def _into_record(path: Path, body: Mapping[str, Any]) -> None:
    record = read_run(path)
    inputs = record.pop("inputs")
    for key in ("kind", "schema_version", "created"):
        record.pop(key)
    write_artifact(path, "run", RECORD_VERSION, {**record, "evaluation": dict(body)}, inputs)


def check_table(path: Path, text: str) -> None:
    """Refuse a table to which losses on a text cannot be added.

    Raises:
        InputError: it has other columns, or losses on another text: one curve is fitted to a whole table.
    """
    others = {row.get(TEXT) or "" for row in _read_table(path)} - {"", text} if path.is_file() else set()
    if others and text:
        what = f"{path} has losses on the held-out text {', '.join(sorted(others))}, but these are on {text} (corpus/domain)"
        raise InputError(what, remedy="name a new file with --table, or evaluate on that --corpus and --domain")


def _read_table(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if set(TABLE) - set(reader.fieldnames or ()):
                raise InputError(f"{path} does not have all of the columns {', '.join(TABLE)}", remedy="name a new file with --table")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}", remedy="name a new file with --table") from error


def add_to_table(path: Path, evaluated: Mapping[str, Evaluated]) -> int:
    """Add models to a table of loss and accuracy for `plan allocate --accuracy`; a row of the same model and task is replaced.

    If the table has another checkpoint of the same name, the new one's fingerprint is appended to its name, with a warning.

    Args:
        path: CSV file, new or with these columns.
        evaluated: by the name of the model.

    Returns:
        Rows in the table.

    Raises:
        InputError: no loss or no accuracy to write, or see `check_table`.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if path.is_file():
        rows = {(row["model"], row["task"]): row for row in _read_table(path)}
    for name, one in evaluated.items():
        if not one.losses or not one.accuracies:
            raise InputError(f"{name} has no {'held-out loss' if not one.losses else 'accuracy'} to write into {path}", remedy="give --corpus and --tasks")
        check_table(path, one.text)
        there = {row.get(FINGERPRINT) or "" for (model, _), row in rows.items() if model == name} - {""}
        if one.fingerprint and there - {one.fingerprint}:
            longer = f"{name}-{one.fingerprint[:8]}"
            what = f"{path} already has another checkpoint named {name}: {one.folder} is entered as {longer}; delete the old rows if they are out of date"
            warnings.warn(what, PlannerWarning, stacklevel=2)
            name = longer
        for task, (metric, value) in one.accuracies.items():
            row = {"model": name, "task": task, "metric": metric, "loss": one.losses["loss_spec"], "accuracy": value}
            rows[name, task] = {**row, FINGERPRINT: one.fingerprint, TEXT: one.text}
    text = io.StringIO()
    writer = csv.DictWriter(text, (*TABLE, FINGERPRINT, TEXT), lineterminator="\n", extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(path, text.getvalue())
    return len(rows)
