"""Start the ranks of a prepared run: one process, torchrun, or Ray. For Slurm see `planner.launch.slurm`."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from planner.engines.event import on_this_machine
from planner.engines.ray import connected, sigterm_interrupts
from planner.errors import InputError, MissingDependencyError, PlannerWarning, StateError, without_secret
from planner.lock import this_process
from planner.train.full.plan import FAILURE_FILE, RUNNER, STOP_FILE, Settings

HOME = Path(__file__).resolve().parents[2]
"""Where Python finds this package."""
LOG = "log.txt"
PROGRESS = re.compile(r"\d\d:\d\d:\d\d step \d+: |wandb: ")
"""Beginning of log lines on progress, or from wandb: a killed rank's log may end with them, but they do not say why it ended."""
POLL = 0.3
"""Seconds between two looks at the ranks."""
OTHERS = re.compile(r"(RANK|WORLD_SIZE|LOCAL_RANK|TORCHELASTIC_\w*|PET_\w*)\Z")
"""Variables that give a process its rank, or set torchrun's options. Any that are set already belong to another run (a cluster's operator may set them in
every container of a job) and are removed: a single rank would wait for others for an hour."""
FAILURES = 3
"""Times that Ray starts the ranks again after losing one; they go on from the latest state."""


def command(folder: Path, ranks: int) -> list[str]:
    """Return the command that starts the ranks on this machine."""
    module = ["-m", "planner.train.full", os.path.join(os.curdir, folder)]  # so that a name that begins with a dash is no option
    if ranks == 1:
        return [sys.executable, *module]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *module]


def run_local(folder: Path, ranks: int, settings: Settings, *, tick: Callable[[], None]) -> None:
    """Run the ranks on this machine until they end; on Ctrl-C or SIGTERM let them save a state first.

    Args:
        folder: launch folder.
        ranks: processes.
        settings: for the threads.
        tick: called at every look.

    Raises:
        KeyboardInterrupt: it was asked to stop, and has stopped.
        StateError: a rank failed, or ranks of another start train there.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if not OTHERS.match(key)},
        "OMP_NUM_THREADS": str(settings.threads), "TOKENIZERS_PARALLELISM": "false", RUNNER: json.dumps(this_process()),
    }  # fmt: skip
    if HOME != Path.cwd():  # python -m looks in the working directory first, which the command itself did not: a random.py there would be run
        environment["PYTHONSAFEPATH"] = "1"  # from Python 3.11 on
    stop, asked, logged = folder / STOP_FILE, 0, _logged(folder)
    with (folder / LOG).open("ab") as log, sigterm_interrupts():
        process = subprocess.Popen(command(folder, ranks), stdout=log, stderr=log, env=environment, start_new_session=True)
        while process.poll() is None:
            try:
                time.sleep(POLL)
                tick()
            except KeyboardInterrupt:
                asked += 1
                if asked > 1:  # whoever asks twice does not want to wait
                    os.killpg(process.pid, signal.SIGKILL)
                stop.touch()
    tick()
    stop.unlink(missing_ok=True)
    if asked:
        raise KeyboardInterrupt
    if process.returncode:
        raise failure(folder, f"the ranks ended with exit code {process.returncode}", logged)


def run_ray(folder: Path, ranks: int, settings: Settings, *, address: str | None, tick: Callable[[], None]) -> None:
    """Run the ranks on Ray; the launch folder must be on a file system that all nodes see.

    Args:
        folder: launch folder.
        ranks: processes.
        settings: for the device and the threads.
        address: of a cluster; None to start Ray on this machine, on loopback only.
        tick: called at every look.

    Raises:
        MissingDependencyError: Ray is not installed.
        KeyboardInterrupt: it was asked to stop, and has stopped.
        InputError: this machine lacks what the ranks need.
        PlannerError: a rank failed more than `FAILURES` times.
    """
    with sigterm_interrupts(), connected(address) as ray, sigterm_interrupts():  # see RayEngine.run
        try:
            from ray.train import FailureConfig, RunConfig, ScalingConfig
            from ray.train.torch import TorchConfig, TorchTrainer
        except ImportError as error:
            remedy = "pip install 'compute-allocation-planner[train,ray]'"
            raise MissingDependencyError(f"Ray cannot train here: {error}", remedy=remedy) from error
        cuda = settings.device == "cuda"
        resources = {"CPU": float(1 if cuda else settings.threads), **({"GPU": 1.0} if cuda else {})}
        _check_resources(ray.cluster_resources(), ranks, resources, address)
        trainer = TorchTrainer(
            _ray_rank,
            train_loop_config={"folder": str(folder), "start": f"ray, run {secrets.token_hex(4)}"},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if cuda else "gloo"),
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=cuda, resources_per_worker=resources),
            run_config=RunConfig(name="ray", storage_path=str(folder.resolve()), failure_config=FailureConfig(max_failures=FAILURES)),
        )
        logged = _logged(folder)
        asked, failed = _fit(trainer, folder, tick)
    if asked:
        raise KeyboardInterrupt
    if failed is not None:
        raise failure(folder, f"Ray gave up: {str(failed).strip().splitlines()[-1]}", logged) from failed


def _check_resources(have: Mapping[str, float], ranks: int, each: Mapping[str, float], address: str | None) -> None:
    """Refuse ranks that do not fit this machine, and warn of them on a cluster, which may grow: Ray starts none before there is room for all.

    Args:
        have: what Ray has in all.
        ranks: processes.
        each: what one of them takes.
        address: of a cluster; None for this machine.

    Raises:
        InputError: they do not fit on this machine.
    """
    for name, amount in each.items():
        if ranks * amount > have.get(name, 0.0):
            what = f"{ranks} ranks take {ranks * amount:g} {name}s, but Ray has {have.get(name, 0.0):g}"
            if address is None:
                raise InputError(f"{what} on this machine", remedy="give fewer --ranks or --threads, or the --address of a cluster")
            waits = f"{what} at {without_secret(address)}: nothing is trained until more nodes join"
            warnings.warn(f"{waits}; Ctrl-C twice ends the wait", PlannerWarning, stacklevel=3)


def _fit(trainer: Any, folder: Path, tick: Callable[[], None]) -> tuple[bool, Exception | None]:
    """Let Ray train in a thread, so that Ctrl-C asks the ranks to stop instead of raising inside Ray; return whether it was pressed, and any error.

    A second Ctrl-C does not wait for them; they end with the connection.
    """
    ended, errors, asked = threading.Event(), [], False

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # Ray has its own kinds; the ranks' own error is in the failure file
            errors.append(error)
        finally:
            ended.set()

    with sigterm_interrupts():
        threading.Thread(target=fit, daemon=True).start()
        while not ended.is_set():
            try:
                ended.wait(POLL)
                tick()
            except KeyboardInterrupt:
                if asked:
                    break
                asked = True
                (folder / STOP_FILE).touch()
    (folder / STOP_FILE).unlink(missing_ok=True)
    return asked, errors[0] if errors else None


def _ray_rank(config: dict[str, Any]) -> None:
    from planner.train.full.main import Stopper, run_rank

    folder = Path(config["folder"])
    run_rank(folder, Stopper(folder / STOP_FILE), start=config["start"])


def _logged(folder: Path) -> int:
    """Return the length of the log so far [bytes], which earlier starts wrote."""
    path = folder / LOG
    return path.stat().st_size if path.exists() else 0


def failure(folder: Path, otherwise: str, logged: int = 0) -> StateError:
    """Return the error that a rank left in the failure file, else one from the end of its log, without the first `logged` bytes."""
    path = folder / FAILURE_FILE
    if path.exists():
        message, _, remedy = path.read_text(encoding="utf-8").strip().partition("\n")
        return StateError(message, remedy=remedy)
    written = (folder / LOG).read_bytes()[logged:].decode(errors="replace").strip().splitlines() if (folder / LOG).exists() else []
    lines = [line for line in written if not PROGRESS.match(line)]
    last = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "").strip()
    said = f"{otherwise}: {last}" if last else otherwise  # a rank that was killed says nothing
    return StateError(said, remedy=f"see {folder / LOG}; the same command continues from the latest state")


def check_ranks(ranks: int, device: str, engine: str, cores: int, *, threads: int = 1, address: str | None = None) -> None:
    """Refuse more ranks on this machine than it has cores.

    Args:
        ranks: processes.
        device: "cpu" or "cuda".
        engine: "local", "slurm" or "ray".
        cores: of this machine.
        threads: cores that Ray sets aside for each.
        address: of a cluster of Ray, which is not this machine.

    Raises:
        InputError: it has fewer.
    """
    if not on_this_machine(engine, address) or device != "cpu":
        return
    if ranks > cores:
        raise InputError(f"{ranks} ranks on a CPU with {cores} cores would wait for each other", remedy=f"give --ranks {cores} or less")
    if engine == "ray" and ranks * threads > cores:
        remedy = f"give --threads {cores // ranks} or fewer ranks"
        raise InputError(f"{ranks} ranks of {threads} threads each are more than the {cores} cores that Ray has to give", remedy=remedy)
