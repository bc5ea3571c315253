"""How much there may be of what."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Settings

GIB = 1024**3


@dataclass(frozen=True)
class JobLimits:
    """Bounds of one JobManager.

    Attributes:
        max_running: Jobs worked on at once; the models batch what these ask.
        max_waiting: Jobs accepted and not finished; more are refused.
        max_bytes: What the files of all jobs may take together; None is no limit.
        min_free_bytes: Room that an upload must leave on the disk.
        max_waiters: Callers that may wait for a change at once; further ones are answered at once.
    """

    max_running: int = 4
    max_waiting: int = 1000
    max_bytes: int | None = None
    min_free_bytes: int = 0
    max_waiters: int = 400

    @classmethod
    def of(cls, settings: Settings) -> JobLimits:
        """The limits this machine is configured for."""
        return cls(
            max_running=settings.max_running_jobs,
            max_waiting=settings.max_waiting_jobs,
            max_bytes=int(settings.work_dir_max_gb * GIB) or None,
            min_free_bytes=int(settings.work_dir_min_free_gb * GIB),
        )
