"""Time of the commands that people wait for, from process start to exit: wall and CPU seconds in fresh processes, median of several.

The recorded law is used if this version can read it; otherwise the recorded runs are first refitted into a temporary folder. Nothing in the repository
is written to. As in an installation, Python modules are already compiled: a run that is not counted compiles them into the temporary folder.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, Report

RUN = [sys.executable, "-c", "from planner.cli.main import main; main()"]


def main() -> None:
    """Run and print."""
    report = Report(__file__, __doc__)
    medicine = str(ROOT / "sweeps" / "medicine")
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(PYTHONPYCACHEPREFIX=f"{folder}/compiled", PYTHONDONTWRITEBYTECODE="")
        law = Path(medicine) / "law.json"
        allocate = ["allocate", "--flops", "2e13", "--spec-tokens", "200k", "--out", f"{folder}/allocation.json", "--law"]
        if _run([*allocate, str(law)])[2]:
            report.say("the recorded law.json is of another version; fitted again for this")
            law = Path(folder) / "law.json"
            _must(["fit", medicine, "--bootstrap", "400", "--no-figures", "--out", str(law)])
        computing = ROOT / "sweeps" / "computing"
        limit = ["--general-law", f"{computing}/replay/law_general.json", "--max-general-rise", "10%"]
        domains = ["--domains", str(ROOT / "sweeps" / "three" / "domains.toml")]
        several = 2 if report.quick else 5
        fit = ["--law", "auto", "--bootstrap", "1000", "--out", f"{folder}/law2.json"]
        commands = [
            ("python -c pass", None, several),
            ("plan --help", ["--help"], several),
            ("plan laws", ["laws"], several),
            ("plan allocate --flops 2e13 --spec-tokens 200k", [*allocate, str(law)], several),
            ("the same under --max-general-rise 10%, with replay", [*allocate, f"{computing}/law.json", *limit], several),
            ("plan allocate --domains sweeps/three/domains.toml", ["allocate", "--flops", "2e13", *domains, "--out", f"{folder}/domains.json"], several),
        ]
        for name in ("medicine", "nature", "computing"):
            commands.append((f"plan fit sweeps/{name} --law auto --bootstrap 1000", ["fit", str(ROOT / "sweeps" / name), *fit], 1 if report.quick else 3))
        shutil.copytree(ROOT / "sweeps", Path(folder) / "sweeps")  # fitting a folder of sweeps writes each law beside its runs
        commands.append(("plan fit sweeps/ --law auto --bootstrap 1000", ["fit", f"{folder}/sweeps", *fit[:-2]], 1 if report.quick else 3))
        rows = []
        for name, arguments, times in commands:
            found = [_run(arguments) for _ in range(times + 1)][1:]
            failed = next((text for _, _, text in found if text), "")
            wall, busy = (float(np.median([item[at] for item in found])) for at in (0, 1))
            rows.append([name, f"{wall:.2f}", f"{min(item[0] for item in found):.2f}", f"{busy:.2f}", times, failed])
    report.table("Seconds", ["command", "wall, median", "wall, least", "CPU, median", "times", "failed"], rows)
    report.say(f"load of the machine while measuring: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    report.end()


def _run(arguments: list[str] | None) -> tuple[float, float, str]:
    """Run a command in a fresh process; return wall and CPU seconds, and the last line of its messages if it failed."""
    command = [sys.executable, "-c", "pass"] if arguments is None else [*RUN, *arguments]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, used, (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def _must(arguments: list[str]) -> None:
    if message := _run(arguments)[2]:
        print(message, file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
