"""A run as a batch script for Slurm, in which nothing that a user or a configuration wrote reaches the shell unquoted."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from planner.artifacts import write_text
from planner.errors import InputError, MissingDependencyError, StateError
from planner.sbatch import check_options, read_options
from planner.train.full.plan import FAILURE_FILE, HALTED, LATEST, STATES_FOLDER, STOPPED, Settings

FILE, CHAIN = "run.sbatch", "submit.sh"
OURS = ("array", "nodes", "ntasks-per-node", "ntasks", "job-name", "requeue", "no-requeue", "signal", "dependency", "chdir", "wrap")
GPU_CPUS = 8
"""Default cores of a rank with a GPU: it lays out batches, launches kernels and writes states in the background."""
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu")
WARNED = 300
"""Seconds before the time limit at which Slurm asks the ranks to save and stop."""


def options_of(pairs: Iterable[str]) -> dict[str, str]:
    """Read options of sbatch; cpus-per-gpu becomes cpus-per-task, since a rank has one GPU and sbatch takes only one of the two.

    Raises:
        InputError: see `read_options`; or both names are given.
    """
    found = read_options(pairs, OURS)
    cores = found.pop("cpus-per-gpu", None)
    if cores is not None and "cpus-per-task" in found:
        raise InputError(f"--slurm-option cpus-per-gpu={cores} is given beside cpus-per-task={found['cpus-per-task']}", remedy="leave one of them out")
    return found if cores is None else {**found, "cpus-per-task": cores}


def gpu_cores(options: Mapping[str, str]) -> int:
    """Return the cores of a rank with a GPU: those of sbatch's option cpus-per-task, or `GPU_CPUS`."""
    told = options.get("cpus-per-task", "")
    return int(told) if told.isdecimal() and int(told) else GPU_CPUS


@dataclass(frozen=True)
class Job:
    """A job for Slurm."""

    folder: Path
    """Launch folder, on a file system that all nodes see."""
    python: str
    """Interpreter on the nodes."""
    ranks: int
    ranks_per_node: int
    settings: Settings
    options: Mapping[str, str] = field(default_factory=dict)
    """Further options of sbatch, such as partition, account and time."""
    name: str | None = None
    """Name of the job, of which Slurm runs one at a time; the launch folder's by default."""

    def __post_init__(self) -> None:
        if self.ranks % self.ranks_per_node:
            raise InputError(
                f"{self.ranks} ranks do not fill nodes of {self.ranks_per_node} each", remedy="give --ranks a multiple of --ranks-per-node"
            )
        check_options(self.options, OURS)


def render(job: Job) -> str:
    """Return the text of the file."""
    cuda = job.settings.device == "cuda"
    directives = {
        "job-name": re.sub(r"[^A-Za-z0-9_.-]", "-", job.name or job.folder.name) or "launch",
        "nodes": str(job.ranks // job.ranks_per_node),
        "ntasks-per-node": str(job.ranks_per_node),
        "cpus-per-task": str(job.settings.threads),
        **({"gpus-per-node": str(job.ranks_per_node)} if cuda else {}),
        # All of a node's, as the job has its GPUs: a site's default per core would not hold a model initialised on the host.
        **({"mem": "0"} if cuda and not any(full.startswith(key) for key in job.options for full in _MEMORY) else {}),
        "signal": f"USR1@{WARNED}",
        "dependency": "singleton",
        "open-mode": "append",
        **job.options,
    }
    cpus = shlex.quote(directives["cpus-per-task"])  # since Slurm 22.05 srun does not inherit it from the job
    lines = [
        "#!/bin/bash",
        "# Written by plan launch. Submit it from the launch folder: sbatch " + FILE,
        *(f"#SBATCH --{key}={value}" for key, value in directives.items()),
        "#SBATCH --requeue",
        "",
        "set -euo pipefail",
        "# One task per rank. They connect through the first node; what to train is in the launch folder.",
        'HOSTS="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"',  # no head: of many nodes scontrol would write into a closed pipe, and fail
        "MASTER_ADDR=\"${HOSTS%%$'\\n'*}\"",
        "MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        "export MASTER_ADDR MASTER_PORT",
        f"export OMP_NUM_THREADS={job.settings.threads} TOKENIZERS_PARALLELISM=false",
        f"FAILURE={shlex.quote(str(job.folder / FAILURE_FILE))}",
        f"latest() {{ cat {shlex.quote(str(job.folder / STATES_FOLDER / LATEST))} 2>/dev/null || true; }}",
        "",
        'rm -f "$FAILURE"',  # of an earlier start
        'BEFORE="$(latest)"',
        "code=0",
        f"srun --kill-on-bad-exit=1 --cpus-per-task={cpus} {shlex.join([job.python, '-m', 'planner.train.full', str(job.folder), '--slurm'])} || code=$?",
        f"# {WARNED} seconds before the time limit the ranks save a state and end with {STOPPED}: the job is requeued and resumes from it.",
        "# So too if a rank or its node was lost and a state was saved since the start; an error that a rank reported would only occur again.",
        f"# {HALTED} is of a trunk ended by its stop file: jobs that wait for it must not begin.",
        f'if [ "$code" -eq {STOPPED} ] || {{ [ "$code" -ne 0 ] && [ "$code" -ne {HALTED} ] && '
        '[ ! -e "$FAILURE" ] && [ "$(latest)" != "$BEFORE" ]; }; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
        "",
    ]
    return "\n".join(lines)


def write(job: Job) -> Path:
    """Write the file into the launch folder."""
    path = job.folder / FILE
    write_text(path, render(job))
    return path


def submit(path: Path) -> str:
    """Submit a file; return sbatch's answer, the job's number.

    Raises:
        MissingDependencyError: there is no sbatch here.
        StateError: Slurm refused it.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable", path.name], cwd=path.parent, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingDependencyError("there is no sbatch on this machine", remedy=f"submit {path} where there is one, with sbatch {path.name}") from error
    if done.returncode:
        raise StateError(f"Slurm refused {path}: {done.stderr.strip()}", remedy="correct it with --slurm-option, or edit the file")
    return done.stdout.strip()


def write_chain(folder: Path, first: Path | None, others: Sequence[Path]) -> Path:
    """Write a script that submits several jobs, where the others wait for the first one to succeed.

    Args:
        folder: where the file goes.
        first: file of the first job; None where the others need not wait.
        others: files of the others.
    """
    after = [] if first is None else ["--kill-on-invalid-dep=yes", '--dependency="singleton,afterok:$FIRST"']
    lines = ["#!/bin/bash", f"# Written by plan launch: submits the jobs of this launch. Run it with: bash {CHAIN}", "set -euo pipefail", ""]
    if first is not None:
        lines += [
            "# The trunk of the others. They wait for it to succeed, and are removed from the queue if it does not.",
            f"FIRST=\"$(cd {shlex.quote(str(first.parent))} && sbatch --parsable {first.name})\"",
            'FIRST="${FIRST%%;*}"',  # with several clusters sbatch appends the cluster's name
            f"printf '%s %s\\n' {shlex.quote(first.parent.name)} \"$FIRST\"",
        ]
    for path in others:
        hand_in = " ".join(["sbatch --parsable", *after, path.name])
        lines.append(f"JOB=\"$(cd {shlex.quote(str(path.parent))} && {hand_in})\" && printf '%s %s\\n' {shlex.quote(path.parent.name)} \"$JOB\"")
    path = folder / CHAIN
    write_text(path, "\n".join(lines) + "\n")
    return path


def submit_chain(path: Path) -> list[str]:
    """Run the file of `write_chain`; return each job's folder and number.

    Raises:
        MissingDependencyError: there is no sbatch here.
        StateError: Slurm refused one; those before it are in the queue.
    """
    if shutil.which("sbatch") is None:
        raise MissingDependencyError("there is no sbatch on this machine", remedy=f"submit the jobs where there is one, with bash {path}")
    done = subprocess.run(["bash", path.name], cwd=path.parent, capture_output=True, text=True, check=False)
    handed = done.stdout.split("\n")[:-1]
    if done.returncode:
        what = f"Slurm refused a job of {path} after {len(handed)}: {done.stderr.strip()}"
        raise StateError(what, remedy="correct it with --slurm-option, or edit the file; scancel those already in the queue")
    return handed
