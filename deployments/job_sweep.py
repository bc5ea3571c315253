"""Clearing away: jobs whose time is over, files of deleted jobs, and folders that no job knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deployments.job_threads import JobThreads
from pipeline.errors import JobNotFound, LeaseLost
from pipeline.jobs.artifacts import ArtifactStore
from pipeline.jobs.store import JobStore

ORPHAN_AFTER_S = 3600.0
ORPHANS_EVERY_S = 900.0

logger = logging.getLogger("ray.serve")


class JobSweep:
    """Deletes what no job owns any more.

    Args:
        every_s: Pause between two rounds.
        orphan_after_s: How long a folder must have been without a job before it is deleted: an upload that is being
            written may be recorded a little later.
    """

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        threads: JobThreads,
        *,
        every_s: float = 60.0,
        orphans_every_s: float = ORPHANS_EVERY_S,
        orphan_after_s: float = ORPHAN_AFTER_S,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._threads = threads
        self._every_s = every_s
        self._orphans_every_s = orphans_every_s
        self._orphan_after_s = orphan_after_s
        self._orphans: dict[str, float] = {}  # job id: when it was first seen

    async def run(self, on_lease_lost: Callable[[], None]) -> None:
        """Sweeps until it is cancelled, or until the jobs belong to another JobManager."""
        clock = asyncio.get_running_loop().time
        orphans_at = clock()
        while True:
            try:
                for job_id in await self._threads.database(self._store.forget_expired):
                    logger.info("Job %s has expired.", job_id)
                for job_id in await self._threads.database(self._store.doomed):
                    await self.bury(job_id)
                if clock() >= orphans_at:
                    orphans_at = clock() + self._orphans_every_s
                    await self._delete_orphans(clock())
            except LeaseLost:
                return on_lease_lost()
            except Exception:
                logger.exception("Looking for expired jobs failed.")
            await asyncio.sleep(self._every_s)

    async def bury(self, job_id: str) -> None:
        """Deletes the files of a job that was deleted."""
        await self._threads.files(self._artifacts.delete_job, job_id)
        await self._threads.database(self._store.buried, job_id)

    async def _delete_orphans(self, now: float) -> None:
        await self._threads.files(self._artifacts.sweep, self._orphan_after_s)
        found = await self._threads.files(lambda: list(self._artifacts.job_ids()))
        orphans = [job_id for job_id in found if not await self._threads.database(self._exists, job_id)]
        self._orphans = {job_id: self._orphans.get(job_id, now) for job_id in orphans}
        for job_id, since in self._orphans.items():
            if now - since >= self._orphan_after_s:
                logger.info("The files of %s belong to no job and are deleted.", job_id)
                await self._threads.files(self._artifacts.delete_job, job_id)

    def _exists(self, job_id: str) -> bool:
        try:
            self._store.get(job_id)
        except JobNotFound:
            return False
        return True
