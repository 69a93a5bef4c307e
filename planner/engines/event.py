"""What engines report, and what all of them agree on."""

from __future__ import annotations

from dataclasses import dataclass

from planner.train.job import Job, Result

MAX_DEATHS = 3
"""Deaths of its worker, node or batch job after which a segment counts as failed."""


def on_this_machine(engine: str, address: str | None) -> bool:
    """Tell whether an engine, "local", "ray" or "slurm", runs its work here; Ray does if no cluster's address is given."""
    return engine == "local" or (engine == "ray" and address is None)


@dataclass(frozen=True)
class Event:
    """Something an engine reports."""

    kind: str
    """"started", "steps", "finished", "failed" or "worker_died"."""
    job: Job
    """The job it is about."""
    steps: int = 0
    """Steps done, for "steps"."""
    result: Result | None = None
    """For "finished"."""
    message: str = ""
    """For "failed" and "worker_died"."""


class Deaths:
    """Counts the infrastructure faults that each segment has seen in this run."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def another(self, job: Job, what: str, cause: str) -> Event:
        """Count one and return what follows: the segment is tried again ("worker_died"), or given up ("failed").

        Args:
            job: the job that was lost.
            what: what died, such as "worker".
            cause: what is known of why.
        """
        name = job.segment.segment_id
        count = self._counts[name] = self._counts.get(name, 0) + 1
        because = f" ({cause})" if cause else ""
        if count >= MAX_DEATHS:
            return Event("failed", job, message=f"its {what} died {MAX_DEATHS} times{because}")
        return Event("worker_died", job, message=f"its {what} died{because}; the segment is trained again")
