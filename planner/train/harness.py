"""Tasks of lm-evaluation-harness on a checkpoint, through its Python interface: its own by name, and task files without a network.

A task file is read here, as plain YAML, and handed over as data: tags that would run code, other files and paths outside its folder are refused.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.errors import InputError, MissingDependencyError
from planner.train.start import open_checkpoint

_CODE = ("class", "include", "custom_dataset", "unsafe_code")
"""Keys of a task that bring code or other files."""


def read_task(path: Path) -> dict[str, Any]:
    """Read a task file; its data files are looked for beside it.

    Raises:
        InputError: no such file, no YAML, a tag or a key that would bring code, or data outside the file's folder.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tags = [token.value for token in yaml.scan(text) if isinstance(token, yaml.TagToken)]
        body = yaml.safe_load(text) if not tags else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"task file {path} cannot be read: {str(error).splitlines()[0]}", remedy="give a YAML file of lm-evaluation-harness") from error
    if tags:
        raise InputError(f"task file {path} has the tag !{tags[0][1]}, which would run code", remedy="write the task with templates only")
    if not isinstance(body, dict) or not isinstance(body.get("task"), str):
        raise InputError(f"task file {path} names no task", remedy="state task: NAME, as in lm-evaluation-harness")
    for key in _CODE:
        if key in body:
            raise InputError(f"task file {path} states {key}, which brings in more than the file", remedy="write the task with templates only")
    options = body.get("dataset_kwargs") or {}
    if "data_files" in options:
        body["dataset_kwargs"] = {**options, "data_files": _inside(options["data_files"], path)}
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
            raise InputError(f"task {name} stands in {found[name].name} and in {path.name} of {folder}", remedy="keep one")
        found[name] = path
    if not found:
        raise InputError(f"{folder} holds no task file", remedy="give a folder with .yaml files of lm-evaluation-harness")
    return found


def run_tasks(
    checkpoint: Path, tasks: Sequence[str | dict[str, Any]], *, few_shot: int | None = None, limit: int | None = None, device: str = "cpu", batch: int = 16
) -> dict[str, dict[str, float]]:
    """Evaluate a checkpoint on tasks.

    Args:
        checkpoint: a folder that `AutoModelForCausalLM` loads, with its tokenizer.
        tasks: names that the harness knows, or tasks as `read_task` returns them.
        few_shot: examples before each question; the task's own number by default.
        limit: questions of each task, at most.
        device: "cpu" or "cuda".
        batch: questions a forward pass.

    Returns:
        Metrics by task, such as {"acc": 0.5, "acc_stderr": 0.02}.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
        InputError: a task that it does not know or cannot run.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        what = f"{error.name} is not installed, which tasks need"
        raise MissingDependencyError(what, remedy="pip install 'compute-allocation-planner[eval]'") from error
    from transformers import AutoTokenizer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' own deprecations
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)
        model = HFLM(pretrained=open_checkpoint(checkpoint).to(device), tokenizer=tokenizer, batch_size=batch, device=device)
        try:
            # Reading the harness's thousands of own tasks takes a minute, and only names are looked up in them.
            manager = TaskManager(include_defaults=any(isinstance(task, str) for task in tasks))
            answer = lm_eval.simple_evaluate(
                model, tasks=list(tasks), num_fewshot=few_shot, limit=limit, log_samples=False, bootstrap_iters=100, task_manager=manager
            )
        except Exception as error:  # the harness raises many kinds
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"lm-evaluation-harness cannot run the tasks: {first}", remedy="check the names and the task files") from error
    return {str(name): _metrics(values) for name, values in (answer or {}).get("results", {}).items()}


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
    folder = path.parent.resolve()
    place = (folder / str(files)).resolve()
    if not place.is_relative_to(folder) or not place.is_file():
        what = "lies outside its folder" if not place.is_relative_to(folder) else "does not exist"
        raise InputError(f"task file {path}: data file {files!r} {what}", remedy="put it beside the task file")
    return str(place)
