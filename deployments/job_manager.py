"""The JobManager deployment: one replica that owns every job, and the board of latencies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial

from ray import serve

from deployments.callbacks.rules import CallbackRules
from deployments.callbacks.sender import CallbackSender
from deployments.handles import Handle, RemoteInpainter, RemoteSegmenter
from deployments.job_limits import JobLimits
from deployments.job_scheduler import JobScheduler
from deployments.key_ring import KeyRing
from deployments.latency import LatencyBoard, LatencySummary, Snapshot
from pipeline.config import Settings
from pipeline.errors import StorageUnavailable
from pipeline.jobs.api_keys import ApiKey
from pipeline.jobs.artifacts import open_artifacts
from pipeline.jobs.location import database_url
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView
from pipeline.jobs.store import JobStore

_DATABASE_EVERY_S = 2.0

logger = logging.getLogger("ray.serve")


@serve.deployment(
    # A call per waiting client: status and event streams wait here.
    max_ongoing_requests=2000,
    max_queued_requests=1000,
    # A replica that lost its lease or died is replaced within seconds; jobs stand still until then.
    health_check_period_s=1,
    health_check_timeout_s=5,
    graceful_shutdown_timeout_s=20,
    graceful_shutdown_wait_loop_s=0.5,
    max_surge_percent=0,
)
class JobManager:
    """Admits jobs, works on them with the models' help, and answers for them. What it promises is on disk."""

    async def __init__(self, mobile_sam: Handle, lama: Handle) -> None:  # type: ignore[misc]
        # Asynchronous because the scheduler's tasks belong to the loop that Serve runs this replica on.
        settings = Settings()
        self._latency = LatencyBoard()
        self._keys = KeyRing.of(settings)
        artifacts = open_artifacts(settings.work_dir)
        await asyncio.to_thread(artifacts.check)  # a wrong WORK_DIR stops the start, with a text that says so
        scheduler = JobScheduler(
            await _open_store(settings),
            artifacts,
            segmenter=RemoteSegmenter(mobile_sam),
            inpainter=RemoteInpainter(lama),
            owner=serve.get_replica_context().replica_id.unique_id,
            limits=JobLimits.of(settings),
        )
        await scheduler.start()
        send_callbacks(scheduler, CallbackRules.of(settings))
        self._scheduler = scheduler

    def __del__(self) -> Coroutine[object, object, None] | None:
        """What Serve calls, and awaits, before it ends the replica: jobs stop, and the next replica need not wait."""
        scheduler: JobScheduler | None = self.__dict__.pop("_scheduler", None)
        return self._stop(scheduler) if scheduler else None  # Python's own call comes second, and finds nothing

    async def _stop(self, scheduler: JobScheduler) -> None:
        await asyncio.gather(scheduler.stop(), self._keys.stop())

    async def check_health(self) -> None:
        self._scheduler.check()

    async def reserve(
        self, job_id: str, client: str, size: int, key: IdempotencyKey | None, key_id: str | None
    ) -> JobRecord:
        return await self._scheduler.reserve(job_id, client=client, size=size, key=key, key_id=key_id)

    async def create(self, job_id: str, width: int, height: int, size: int) -> JobRecord:
        return await self._scheduler.create(job_id, width=width, height=height, size=size)

    async def discard(self, job_id: str) -> None:
        await self._scheduler.discard(job_id)

    async def get(self, job_id: str, wait_s: float) -> JobView:
        return await self._scheduler.get(job_id, wait_s=wait_s)

    async def segment(
        self, job_id: str, objects: tuple[JobObject, ...], callback_url: str | None, key: IdempotencyKey | None
    ) -> JobRecord:
        return await self._scheduler.segment(job_id, objects, callback_url=callback_url, key=key)

    async def cancel(self, job_id: str) -> JobRecord:
        return await self._scheduler.cancel(job_id)

    async def events(self, job_id: str, after: int, wait_s: float) -> list[JobEvent]:
        return await self._scheduler.events(job_id, after=after, wait_s=wait_s)

    async def file(self, job_id: str, name: str) -> str:
        return await self._scheduler.file(job_id, name)

    async def delete(self, job_id: str) -> None:
        await self._scheduler.delete(job_id)

    async def find_key(self, fingerprint: str) -> ApiKey | None:
        return await self._keys.find(fingerprint)

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        """Keeps what an ingress replica saw; the summary over all replicas."""
        return self._latency.report(replica, snapshot)

    async def ready(self) -> bool:
        self._scheduler.check()
        return True


def send_callbacks(scheduler: JobScheduler, rules: CallbackRules) -> None:
    """Empties the scheduler's outbox, as long as it owns the jobs."""
    sender = CallbackSender(scheduler.outbox, rules)
    scheduler.outbox.on_new = sender.wake
    scheduler.run_beside(sender.run())


async def _open_store(settings: Settings) -> JobStore:
    """The jobs' database, as soon as it answers.

    Raises:
        ValueError: Only files are in object storage: jobs need a database that outlives this machine as well.
    """
    connect = partial(JobStore, database_url(settings), ttl_s=settings.job_ttl_hours * 3600)
    while True:
        try:
            return await asyncio.to_thread(connect)
        except StorageUnavailable as error:
            logger.warning("JobManager waits for the database of jobs: %r", error)
        await asyncio.sleep(_DATABASE_EVERY_S)
