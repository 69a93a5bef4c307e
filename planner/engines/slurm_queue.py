"""States of jobs from `squeue`: without accounting, submitit's `sacct` returns nothing, and a job that died would be waited for for ever."""

from __future__ import annotations

import subprocess
import time
import warnings
from collections.abc import Mapping

from submitit.slurm.slurm import SlurmInfoWatcher

from planner.errors import PlannerWarning

COMMAND = ("squeue", "--me", "--noheader", "--states=all", "--format=%i|%T")
"""All jobs of the user in one query, also those that ended minutes ago, with their last state."""
FORGOTTEN = "GONE"
"""State of a job that squeue no longer names: it ended a while ago."""
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT", FORGOTTEN,
}  # fmt: skip


class QueueWatcher(SlurmInfoWatcher):
    """Replaces submitit's own watcher."""

    def __init__(self, delay_s: float) -> None:
        super().__init__(delay_s=delay_s)  # type: ignore[arg-type]
        self._silent = False

    def update(self) -> None:
        """Query all jobs that have not ended; if Slurm does not answer, states stay as they were."""
        waiting = self._registered - self._finished
        if not waiting:
            return
        done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
        self._last_status_check = time.time()
        if done.returncode and not self._silent:
            warnings.warn(f"squeue does not answer and will be asked again: {done.stderr.strip()}", PlannerWarning, stacklevel=2)
        self._silent = bool(done.returncode)
        if not done.returncode:
            self._note(dict(line.split("|", 1) for line in done.stdout.splitlines() if "|" in line), waiting)

    def _note(self, states: Mapping[str, str], waiting: set[str]) -> None:
        for number in waiting:
            state = states.get(number, FORGOTTEN).strip()
            self._info_dict[number] = {"State": state}
            if state in ENDED:
                self._finished.add(number)

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Tell whether a job has ended."""
        return self.get_state(job_id, mode=mode) in ENDED
