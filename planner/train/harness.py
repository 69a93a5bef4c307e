"""Run tasks of lm-evaluation-harness on a checkpoint through its Python interface: its own tasks by name, or task files, which need no network.

A task file is read here as plain YAML and passed on as data. The harness loads unknown metrics as code, passes options on to libraries that load more
code, and renders templates without a sandbox. So only keys, metrics, options and templates known to be data are accepted, and templates are rendered in
Jinja's sandbox.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from planner.errors import InputError, MissingDependencyError
from planner.train.matmul import placed
from planner.train.start import open_checkpoint

_KEYS = frozenset(
    (
        "task task_alias tag dataset_path dataset_name dataset_kwargs training_split validation_split test_split fewshot_split output_type description "
        "doc_to_text doc_to_choice doc_to_target target_delimiter fewshot_delimiter fewshot_config num_fewshot gen_prefix metric_list generation_kwargs "
        "repeats filter_list should_decontaminate doc_to_decontamination_query metadata"
    ).split()
)
"""Keys of a task file; not process_docs, process_results, class, include, custom_dataset, unsafe_code and use_prompt: they bring code or other files."""
_READERS = ("json", "csv", "parquet", "text")
"""Readers of a task's data; any other name is a dataset of the hub, or a script."""
_METRICS = frozenset(
    "acc acc_norm acc_mutual_info acc_all exact_match f1 mcc brier_score bleu chrf ter perplexity word_perplexity byte_perplexity bits_per_byte".split()
)
"""The harness's own metrics; it loads any other name as code."""
_NESTED = {
    "dataset_kwargs": frozenset(("data_files",)),
    "metric_list": frozenset("metric aggregation higher_is_better ignore_case ignore_punctuation ignore_numbers regexes_to_ignore".split()),
    "generation_kwargs": frozenset("until do_sample temperature top_p top_k num_beams max_gen_toks max_new_tokens".split()),
    "fewshot_config": frozenset(("sampler", "samples")),
}
"""Options accepted inside a key; others could load code, such as some of transformers' generate()."""
_FILTERS = frozenset("join trim lower upper replace capitalize string int length".split())
"""Filters that a template may use."""
_METHODS = frozenset("strip lstrip rstrip lower upper capitalize split index startswith endswith".split())
"""String and list methods that a template may call, as the harness's own tasks do; not format, which can read attributes."""

BATCH = 16
"""Questions per forward pass."""


def read_task(path: Path) -> dict[str, Any]:
    """Read a task file; its data files are looked for beside it.

    Raises:
        InputError: no such file, no YAML, anything that could bring code, or data outside the file's folder.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tags = [token.value for token in yaml.scan(text) if isinstance(token, yaml.TagToken)]
        body = yaml.safe_load(text) if not tags else None
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"task file {path} cannot be read: {str(error).splitlines()[0]}", remedy="give a YAML file of lm-evaluation-harness") from error
    if tags:
        raise InputError(f"task file {path} has the tag !{tags[0][1]}, which would run code", remedy="write the task with templates only")
    if not isinstance(body, dict) or not isinstance(body.get("task"), str):
        raise InputError(f"task file {path} names no task", remedy="state task: NAME, as in lm-evaluation-harness")
    _data_only(body, path)
    options = body.get("dataset_kwargs") or {}
    if "data_files" not in options:
        raise InputError(f"task file {path} names no data", remedy="state dataset_kwargs: {data_files: {test: FILE}}, with the file beside the task file")
    body["dataset_kwargs"] = {"data_files": _inside(options["data_files"], path)}
    return body


def task_files(folder: Path) -> dict[str, Path]:
    """Map the tasks of a folder's files to the files.

    Raises:
        InputError: no such folder, no task in it, or one twice.
    """
    found: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder.is_dir() else []:
        name = read_task(path)["task"]
        if name in found:
            raise InputError(f"task {name} is defined in both {found[name].name} and {path.name} of {folder}", remedy="keep one")
        found[name] = path
    if not found:
        raise InputError(f"{folder} holds no task file", remedy="give a folder with .yaml files of lm-evaluation-harness")
    return found


def run_tasks(
    checkpoint: Path, tasks: Sequence[str | dict[str, Any]], *, few_shot: int | None = None, limit: int | None = None, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint on tasks.

    Args:
        checkpoint: a folder that `AutoModelForCausalLM` loads, with its tokenizer.
        tasks: names that the harness knows, or tasks as `read_task` returns them.
        few_shot: examples before each question; the task's own number by default.
        limit: questions per task, at most.
        device: "cpu" or "cuda".

    Returns:
        Metrics by task, such as {"acc": 0.5, "acc_stderr": 0.02}.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
        InputError: a task that the harness does not know or cannot run, or a checkpoint without its tokenizer.
    """
    try:
        import lm_eval
        import lm_eval.utils
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        what = f"tasks need the package {error.name}, which is not installed"
        raise MissingDependencyError(what, remedy="pip install 'compute-allocation-planner[eval]'") from error

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm_eval.utils.env = _sandboxed(lm_eval.utils.env)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside libraries
        model = HFLM(pretrained=placed(open_checkpoint(checkpoint), device), tokenizer=_tokenizer(checkpoint), batch_size=BATCH, device=device)
        try:
            # Reading the harness's thousands of tasks takes a minute, and is needed only to look up names.
            manager = TaskManager(include_defaults=any(isinstance(task, str) for task in tasks))
            with _quiet():
                answer = lm_eval.simple_evaluate(
                    model, tasks=list(tasks), num_fewshot=few_shot, limit=limit, log_samples=False, bootstrap_iters=100, task_manager=manager
                )
        except Exception as error:  # the harness raises many kinds
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"lm-evaluation-harness cannot run the tasks: {first}", remedy="check the names and the task files") from error
    return {str(name): _metrics(values) for name, values in (answer or {}).get("results", {}).items()}


def _sandboxed(plain: Any) -> Any:
    """Return a sandboxed copy of a Jinja environment, where no template reaches private attributes, for example through a field that holds their name."""
    from jinja2.sandbox import SandboxedEnvironment

    safe = SandboxedEnvironment(loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline)
    safe.filters.update(plain.filters)
    return safe


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness's progress bars and bootstrap messages, and the git commands it runs: stdout is for the answer, which may be JSON."""
    streams = {1: sys.stdout, 2: sys.stderr}
    for stream in streams.values():
        stream.flush()
    kept = {number: os.dup(number) for number in streams}
    try:
        with open(os.devnull, "wb") as nothing:
            for number in streams:
                os.dup2(nothing.fileno(), number)
        yield
    finally:
        for number, stream in streams.items():
            stream.flush()
            os.dup2(kept[number], number)
            os.close(kept[number])


def _tokenizer(checkpoint: Path) -> Any:
    """Open a checkpoint's tokenizer; without its files transformers would make an empty one, with which scores mean nothing.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not (checkpoint / "tokenizer.json").is_file():
        raise InputError(f"checkpoint {checkpoint} has no tokenizer.json", remedy="copy its tokenizer's files beside the weights")
    try:
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the library raises many kinds
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"the tokenizer of checkpoint {checkpoint} cannot be read: {first}", remedy="copy its files again") from error


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the numbers; the harness writes "acc,none" for the accuracy under no filter."""
    found = {}
    for key, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            found[key.removesuffix(",none")] = float(value)
    return found


def _inside(files: Any, path: Path) -> Any:
    """Resolve names of data files against the folder of a task file.

    Raises:
        InputError: one lies outside, or does not exist.
    """
    if isinstance(files, Mapping):
        return {key: _inside(value, path) for key, value in files.items()}
    if isinstance(files, list):
        return [_inside(value, path) for value in files]
    if not isinstance(files, str) or "::" in files:  # fsspec reads :: as a file inside another, located anywhere
        raise InputError(f"task file {path}: data file {files!r} is not a file name", remedy="put it beside the task file and name it")
    folder = path.parent.resolve()
    place = (folder / files).resolve()
    if not place.is_relative_to(folder) or not place.is_file():
        what = "lies outside its folder" if not place.is_relative_to(folder) else "does not exist"
        raise InputError(f"task file {path}: data file {files!r} {what}", remedy="put it beside the task file")
    return str(place)


def _data_only(body: Mapping[str, Any], path: Path) -> None:
    """Refuse a task that could bring code.

    Raises:
        InputError: a key, a reader, an option, a metric or a template that is not known to be data.
    """
    for key in body:
        if key not in _KEYS:
            raise InputError(f"task file {path} states {key}, which is not known to be data only", remedy=f"use only {', '.join(sorted(_KEYS))}")
    if body.get("dataset_path") not in _READERS:
        what = f"task file {path} has dataset_path = {body.get('dataset_path')!r}"
        raise InputError(what, remedy=f"give one of {', '.join(_READERS)}, with data_files beside the task file")
    for key, known in _NESTED.items():
        stated = body.get(key)
        if stated is None:
            continue
        if key == "metric_list" and not isinstance(stated, list):
            raise InputError(f"task file {path} has {key} = {stated!r}, which is not a list", remedy="write - metric: acc")
        for entry in stated if key == "metric_list" else [stated]:
            if not isinstance(entry, Mapping):
                raise InputError(f"task file {path} has {key} = {stated!r}, which is not a mapping", remedy=f"give only {', '.join(sorted(known))}")
            for name in entry:
                if name not in known:
                    raise InputError(f"task file {path} states {name} in {key}, which is not allowed", remedy=f"give only {', '.join(sorted(known))}")
    for entry in body.get("metric_list") or []:
        if not isinstance(entry.get("metric"), str) or entry["metric"] not in _METRICS:
            raise InputError(f"task file {path} has metric = {entry.get('metric')!r}", remedy=f"give one of {', '.join(sorted(_METRICS))}")
    choices = body.get("doc_to_choice")
    if not isinstance(choices, str) and (raw := next((text for text in _texts(choices) if "{{" in text or "{%" in text), None)) is not None:
        what = f"task file {path} has {raw!r} in a list of doc_to_choice, but the harness does not render items of a list"
        raise InputError(what, remedy='write the list as one template, such as "{{[a, b]}}"')
    for text in _texts(body):
        _plain_template(text, path)


def _texts(value: Any) -> Iterator[str]:
    """Yield every string inside a value; any of them might be rendered."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _plain_template(text: str, path: Path) -> None:
    """Refuse a template that does more than show fields, so that rendering it runs no code.

    Raises:
        InputError: it is malformed, or `_forbidden` finds something in it.
    """
    from jinja2 import Environment, TemplateError, nodes

    try:
        waiting: list[nodes.Node] = [Environment().parse(text)]  # which runs nothing
        while waiting:
            node = waiting.pop()
            if (what := _forbidden(node)) is not None:
                raise InputError(
                    f"task file {path} has the template {text!r} with {what}, which is not allowed: the harness renders templates without a sandbox",
                    remedy=f"use only fields, their items, the filters {', '.join(sorted(_FILTERS))} and the methods {', '.join(sorted(_METHODS))}, "
                    "and prepare the rest in the data",
                )
            waiting += node.iter_child_nodes()
    except (TemplateError, RecursionError) as error:
        raise InputError(f"task file {path} has the malformed template {text!r}: {error}", remedy="correct it; it must be Jinja") from error


def _forbidden(node: Any) -> str | None:
    """Name what a node of a template does beyond showing fields; None if nothing.

    Allowed are fields and their items, some filters, and calls of string and list methods; not private attributes, nor Jinja's own names.
    """
    from jinja2 import nodes
    from jinja2.defaults import DEFAULT_NAMESPACE

    plain = (
        nodes.Template, nodes.Output, nodes.TemplateData, nodes.Const, nodes.List, nodes.Tuple, nodes.Slice, nodes.If, nodes.CondExpr, nodes.Compare,
        nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub,
    )  # fmt: skip
    if isinstance(node, nodes.Name):
        own = node.name in (*DEFAULT_NAMESPACE, "self") or node.name.startswith("_") or node.ctx != "load"
        return node.name if own else None
    if isinstance(node, nodes.Getattr):
        return node.attr if node.attr.startswith("_") else None
    if isinstance(node, nodes.Getitem):  # Jinja looks for an attribute where there is no such item
        if not isinstance(node.arg, (nodes.Const, nodes.Name, nodes.Neg, nodes.Slice)):
            return "a computed index"
        return str(node.arg.value) if isinstance(node.arg, nodes.Const) and str(node.arg.value).startswith("_") else None
    if isinstance(node, nodes.Filter):
        attribute = node.name == "join" and len(node.args) > 1
        return f"the filter {node.name}" if node.name not in _FILTERS or _has_options(node) or attribute else None
    if isinstance(node, nodes.Call):
        method = isinstance(node.node, nodes.Getattr) and node.node.attr in _METHODS
        return None if method and not _has_options(node) else "call"
    if isinstance(node, nodes.Test):
        return None if node.name in ("defined", "none") else f"the test {node.name}"
    if isinstance(node, nodes.Neg):
        return None if isinstance(node.node, nodes.Const) else "a computed number"
    return None if isinstance(node, plain) else type(node).__name__.lower()


def _has_options(node: Any) -> bool:
    """Tell whether a filter or a call of a template has named or unpacked arguments."""
    return bool(node.kwargs or node.dyn_args or node.dyn_kwargs)
