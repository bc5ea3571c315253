"""The JobManager deployment: one replica that owns every job, and the board of latencies."""

from __future__ import annotations

from ray import serve

from deployments.handles import Handle, RemoteInpainter, RemoteSegmenter
from deployments.job_scheduler import JobScheduler
from deployments.latency import LatencyBoard, LatencySummary, Snapshot
from pipeline.config import Settings
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.store import JobObject, JobRecord, JobStore


@serve.deployment(
    max_ongoing_requests=500, health_check_period_s=10, graceful_shutdown_timeout_s=30, max_surge_percent=0
)
class JobManager:
    """Admits jobs, works on them with the models' help, and answers for them. What it promises is on disk."""

    async def __init__(self, mobile_sam: Handle, lama: Handle) -> None:  # type: ignore[misc]
        # Asynchronous because the scheduler's tasks belong to the loop that Serve runs this replica on.
        settings = Settings()
        self._latency = LatencyBoard()
        self._scheduler = JobScheduler(
            JobStore.in_folder(settings.work_dir, ttl_s=settings.job_ttl_hours * 3600),
            LocalArtifacts(settings.work_dir),
            segmenter=RemoteSegmenter(mobile_sam),
            inpainter=RemoteInpainter(lama),
        )
        await self._scheduler.start()

    async def create(self, job_id: str, width: int, height: int) -> JobRecord:
        return await self._scheduler.create(job_id, width=width, height=height)

    async def get(self, job_id: str) -> JobRecord:
        return await self._scheduler.get(job_id)

    async def segment(self, job_id: str, objects: tuple[JobObject, ...]) -> JobRecord:
        return await self._scheduler.segment(job_id, objects)

    async def require_file(self, job_id: str, name: str) -> None:
        await self._scheduler.require_file(job_id, name)

    async def delete(self, job_id: str) -> None:
        await self._scheduler.delete(job_id)

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        """Keeps what an ingress replica saw; the summary over all replicas."""
        return self._latency.report(replica, snapshot)

    async def ready(self) -> bool:
        return True
