"""Slurm's commands on one machine, for tests: sbatch, srun, squeue and scancel as scripts that keep their jobs in a folder.

sbatch runs the batch script with bash in the background, as slurmd would. `doom` makes jobs end as jobs of a cluster do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def install(folder: Path) -> dict[str, str]:
    """Write the commands; return the environment in which they are found."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {name} "{folder}" "$@"\n')
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def jobs(folder: Path) -> list[int]:
    """List the numbers of all jobs ever submitted."""
    return sorted(int(path.stem) for path in (folder / "jobs").glob("*.sh"))


def doom(folder: Path, number: int, state: str) -> None:
    """End a job as a cluster may: NODE_FAIL, PREEMPTED, OUT_OF_MEMORY, or GONE, of which nothing is known any more."""
    (folder / "jobs" / f"{number}.state").write_text(state)
    _kill(folder, number)


def _kill(folder: Path, number: int) -> None:
    pid = folder / "jobs" / f"{number}.pid"
    if pid.exists():
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            return


def sbatch(folder: Path, arguments: list[str]) -> None:
    """Take a batch script."""
    number = 1
    while True:
        try:
            copy = (folder / "jobs" / f"{number}.sh").open("x")
            break
        except FileExistsError:
            number += 1
    with copy:
        copy.write(Path(arguments[-1]).read_text())
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SUBMITIT")}
    env = {**kept, "SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
    command = f'bash "{folder}/jobs/{number}.sh"; echo $? > "{folder}/jobs/{number}.code"'
    process = subprocess.Popen(["sh", "-c", command], env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (folder / "jobs" / f"{number}.pid").write_text(str(process.pid))
    print(f"Submitted batch job {number}")


def srun(folder: Path, arguments: list[str]) -> None:
    """Run a command with its streams in files."""
    while arguments[0].startswith("-"):
        flag = arguments.pop(0)
        if flag in ("--output", "--error"):
            path = arguments.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
            Path(path).parent.mkdir(exist_ok=True)  # submitit makes it once sbatch has answered, which no cluster would beat
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if flag == "--output" else 2)
    os.environ.update(SLURM_PROCID="0", SLURM_LOCALID="0")
    os.execvp(arguments[0], arguments)


def squeue(folder: Path, arguments: list[str]) -> None:
    """Tell the state of jobs."""
    for number in jobs(folder):
        said, code = folder / "jobs" / f"{number}.state", folder / "jobs" / f"{number}.code"
        if said.exists():
            state = said.read_text()
        else:
            state = "RUNNING" if not code.exists() else "COMPLETED" if code.read_text().strip() == "0" else "FAILED"
        if state != "GONE":
            print(f"{number}|{state}")


def scancel(folder: Path, arguments: list[str]) -> None:
    """Cancel a job."""
    said = folder / "jobs" / f"{arguments[0]}.state"
    if not said.exists():
        said.write_text("CANCELLED")
    _kill(folder, int(arguments[0]))


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "squeue": squeue, "scancel": scancel}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
