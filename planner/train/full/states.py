"""States of a run on many ranks: saved in the background, read by any number of ranks.

torch's distributed checkpoint writes one safetensors file per rank (`HuggingFaceStorageWriter`), whose header says where each piece belongs. Its own
format keeps that in a pickle, which reading would execute; no pickle is written or opened here. A state is written to a folder ending in .part and
renamed when all ranks have written; `latest.json` then points to it, and the oldest are deleted. Between the running ranks torch does exchange pickled
plans, in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from planner.artifacts import read_json, room, whole, write_text
from planner.errors import InputError, PlannerError, StateError
from planner.train.checkpoint import MOMENTS
from planner.train.full.mesh import Ranks
from planner.train.full.plan import LATEST, STATES_FOLDER, latest_step, state_folder

LOOP = "loop.json"
BETWEEN = "between"
"""Key in loop.json: whether the state was saved by the clock, between the regular ones; states of earlier versions lack it."""
FILES = "files"
"""Key in loop.json: name and size [bytes] of every file of the state; states of earlier versions lack it."""


class States:
    """The saved states of one run."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int, forks: Collection[int] = ()) -> None:
        """Open a run's states, and delete partial ones of a killed run.

        Args:
            folder: the launch folder; states lie in `states` below it.
            ranks: all ranks of the run.
            keep: how many are kept.
            forks: steps whose states are kept in addition.

        Raises:
            StateError: no state is left of the step named as the latest, or of an earlier one.
        """
        self._folder, self._ranks, self._keep, self._forks = folder / STATES_FOLDER, ranks, keep, forks
        self._saving: tuple[Future[Any], int] | None = None
        if ranks.first:
            self._folder.mkdir(parents=True, exist_ok=True)
            for part in self._folder.glob("*.part"):
                shutil.rmtree(part, ignore_errors=True)
            if (self._folder / LATEST).exists():
                latest = self._latest()
                if latest > 0 and not self.steps():  # the first one is there before the file: states were deleted, and the run would start over unasked
                    what = f"{self._folder / LATEST} names step {latest}, but no complete state of that step or an earlier one lies beside it"
                    raise StateError(what, remedy=f"write the step of a complete state there, or delete {self._folder} to train the run again")
                self._delete_after(latest)  # left by an interrupted rollback; once the latest step passes them they would count again

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], loop: Mapping[str, Any], *, wait: bool = False, between: bool = False) -> None:
        """Save a state while training goes on; what is saved is copied first.

        Args:
            step: steps of the run done.
            tensors: by name, sharded over the ranks.
            loop: the loop's own numbers.
            wait: return only when it is on disk.
            between: whether it is an extra state, of which only the latest is kept, so that rollbacks reach as far back as without it.

        Raises:
            StateError: this state, or the one before, could not be written.
        """
        self.finish()
        part = self._path(step).with_suffix(".part")
        if self._ranks.first:
            part.mkdir(parents=True, exist_ok=True)
        self._ranks.told(None)  # every rank writes below it, so it must be there for all of them
        writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
        alone = self._ranks.mesh is None
        self._loop = {**loop, BETWEEN: between}
        # Copies the tensors before it returns, and then writes in a thread.
        future: Any = dcp.async_save(dict(tensors), storage_writer=writer, process_group=self._ranks.cpu_group, no_dist=alone)
        self._saving = (future, step)
        if wait:
            self.finish()

    def poll(self) -> None:
        """Make the state that is being saved the latest one, if it is on disk by now."""
        if self._saving is not None and self._saving[0].done():
            self.finish()

    def finish(self) -> None:
        """Wait for the state that is being saved.

        Raises:
            StateError: it could not be written.
            RuntimeError: another rank was lost meanwhile.
        """
        if self._saving is None:
            return
        (future, step), self._saving = self._saving, None
        try:
            future.result()  # on the first rank this means that all ranks have written
        except (Exception, CheckpointException) as error:
            if _of_ranks(error, self._ranks):
                raise
            said = f"state {self._path(step)} cannot be written: {_last_line(error)}"
            raise StateError(said, remedy=f"{room(error, 'make room on the disk')}; the same command continues") from error
        if self._ranks.first:
            path = self._path(step)
            part = path.with_suffix(".part")
            write_text(part / LOOP, json.dumps({**self._loop, FILES: _sizes(part)}) + "\n")
            shutil.rmtree(path, ignore_errors=True)
            os.replace(part, path)
            write_text(self._folder / LATEST, json.dumps({"step": step}) + "\n")
            between = {each: self._is_between(each) for each in self.steps()}
            usual = [each for each, is_between in between.items() if not is_between]
            for old in {*between} - {*usual[-self._keep :], step, *self._forks}:
                shutil.rmtree(self._path(old), ignore_errors=True)

    def steps(self) -> list[int]:
        """List the steps of the complete states on disk, the latest last."""
        newest = self._latest()
        return sorted(step for step, path in self._folders() if step <= newest and (path / LOOP).is_file())

    def drop_after(self, step: int) -> None:
        """Delete the states after the one that the run is rolled back to."""
        self.finish()
        if self._ranks.first:
            write_text(self._folder / LATEST, json.dumps({"step": step}) + "\n")
            self._delete_after(step)

    def load(self, step: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Read a state into tensors that any number of ranks share; return the loop's own numbers.

        Raises:
            StateError: see `read_state`.
        """
        return read_state(self._path(step), self._ranks, tensors)

    def _is_between(self, step: int) -> bool:
        """Tell whether a state was saved by the clock. A torn one counts as regular: it is deleted in its turn, and stops no run that does not read it."""
        try:
            return bool(read_json(self._path(step) / LOOP).get(BETWEEN))
        except InputError:
            return False

    def _latest(self) -> int:
        return latest_step(self._folder.parent)

    def _folders(self) -> list[tuple[int, Path]]:
        """List the folders of states that are not being written, with their steps."""
        found = ((path.name.removeprefix("step-"), path) for path in self._folder.glob("step-*"))
        return [(int(step), path) for step, path in found if step.isdecimal()]

    def _delete_after(self, step: int) -> None:
        for other, path in self._folders():
            if other > step:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return state_folder(self._folder.parent, step)


def read_state(path: Path, ranks: Ranks, tensors: Mapping[str, torch.Tensor], *, remedy: str | None = None) -> dict[str, Any]:
    """Read a state's folder into tensors that any number of ranks share; return the loop's own numbers.

    Args:
        path: the folder.
        ranks: all ranks of the run.
        tensors: by name, sharded over the ranks.
        remedy: of the error if it cannot be read; by default to go on from the state before.

    Raises:
        StateError: it is torn, lacks a file, or is of another shape.
        RuntimeError: another rank was lost meanwhile.
    """
    try:
        reader = _Reader(path, ranks, tensors)
        dcp.load(dict(tensors), storage_reader=reader, process_group=ranks.cpu_group, no_dist=ranks.mesh is None)
        loop = read_json(path / LOOP)
        with whole(path / LOOP):
            smooth, best = (None if loop[key] is None else float(loop[key]) for key in ("smooth", "best"))
            return {"step": int(loop["step"]), "seconds": float(loop["seconds"]), "smooth": smooth, "best": best}
    except StateError:
        raise
    except (Exception, CheckpointException) as error:
        if _of_ranks(error, ranks):
            raise
        remedy = remedy or f"delete {path}; the same command continues from the state before"
        raise StateError(f"state {path} cannot be read: {_last_line(error)}", remedy=remedy) from error


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of each of a state's files [bytes]."""
    return {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}


def _of_ranks(error: BaseException, ranks: Ranks) -> bool:
    """Tell whether communication between ranks broke off, as when one is lost; torch wraps a rank's own error in its own kind of exception."""
    return ranks.mesh is not None and isinstance(error, RuntimeError)


def _last_line(error: BaseException) -> str:
    """Return an error's message without torch's traceback or another remedy around it; torch's own kind of exception is not an Exception."""
    said = error.message if isinstance(error, PlannerError) else str(error)
    return (said.strip().splitlines() or [type(error).__name__])[-1].strip()


class _Reader(HuggingFaceStorageReader):
    """Reads the headers once, on the first rank: each of W ranks would otherwise open all W files. Refuses links, and files that are no part of a state.

    torch accepts a tensor with missing pieces and leaves the rest of it as it was, so pieces are counted here.
    """

    def __init__(self, folder: Path, ranks: Ranks, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(str(folder))
        if folder.is_symlink():
            raise StateError(f"{folder} is a link, and no state is read from elsewhere", remedy="delete it")
        for item in folder.iterdir():
            if item.is_symlink() or not (item.name == LOOP or item.suffix == ".safetensors"):
                raise StateError(f"{item} is not part of a state", remedy="delete it")
        found, wrong = ranks.told(self._look(folder, tensors) if ranks.first else None)
        if wrong is not None:
            raise ValueError(wrong)
        self._found = found

    def read_metadata(self) -> Any:
        """Return where each piece of each tensor lies."""
        return self._found

    def _look(self, folder: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, str | None]:
        """Read the headers; return them and the error, if any, which the other ranks need too."""
        try:
            held = _sizes(folder)
            listed = read_json(folder / LOOP).get(FILES, held)
            for name in sorted({*listed, *held}):
                if listed.get(name) != held.get(name):
                    return None, f"{name} holds {held[name]} bytes, not {listed.get(name, 'any')}" if name in held else f"{name} is missing"
            found = super().read_metadata()
        except Exception as error:
            return None, _last_line(error)
        for name, tensor in tensors.items():
            pieces = found.state_dict_metadata.get(name)
            values = sum(piece.sizes.numel() for piece in pieces.chunks) if pieces is not None else 0
            if values < tensor.numel():
                return None, f"{values} of the {tensor.numel()} values of {name} are there"
        return found, None


def start_moments(optimiser: torch.optim.Optimizer, step: int = 0) -> None:
    """Create AdamW's moments at once, zero as at its first step, so that a state can be read into them."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            state = optimiser.state[parameter]
            if "exp_avg" not in state:
                state.update({key: torch.zeros_like(parameter) for key in MOMENTS})
            state["step"] = torch.tensor(float(step), device=parameter.device)
