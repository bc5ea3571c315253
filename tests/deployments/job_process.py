"""One life of JobManager on a folder, without Ray: the real scheduler, database and files over stub models."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from deployments.job_limits import JobLimits
from deployments.job_scheduler import JobScheduler
from pipeline.jobs.artifacts import ArtifactStore, LocalArtifacts, stored_name
from pipeline.jobs.records import JobObject, JobRecord
from pipeline.protocols import Inpainter, Segmenter
from tests.deployments.world import RETRY_DELAYS_S, WatchedStore
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, encode, photo

ONE = (JobObject(((60.0, 45.0),), (1,)),)
TWO = (*ONE, JobObject(((20.0, 30.0),), (1,)))
LEASE_S = 5.0


class Clock:
    """The store's time, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Process:
    """One life of JobManager."""

    def __init__(self, scheduler: JobScheduler, store: WatchedStore, artifacts: ArtifactStore) -> None:
        self.scheduler = scheduler
        self.store = store
        self.artifacts = artifacts

    async def add(self, job_id: str, *, client: str = "somebody", upload: bool = True) -> None:
        """A job with its upload, as the ingress makes it."""
        data = encode(photo())
        await self.scheduler.reserve(job_id, client=client, size=len(data))
        if upload:
            self.artifacts.write(job_id, "original.png", data)
        await self.scheduler.create(job_id, width=120, height=90, size=len(data))

    async def begin(
        self, job_id: str, objects: tuple[JobObject, ...] = ONE, *, client: str = "somebody", **options: Any
    ) -> None:
        """A new job, queued."""
        await self.add(job_id, client=client)
        await self.scheduler.segment(job_id, objects, **options)

    async def record(self, job_id: str) -> JobRecord:
        """The job as its owner sees it."""
        return (await self.scheduler.get(job_id)).record

    def files(self, record: JobRecord) -> dict[str, bytes]:
        """Every file the job lists, read from where it lies."""
        return {name: self.artifacts.read(record.job_id, stored_name(record.run, name)) for name in record.files}


@contextlib.asynccontextmanager
async def run(
    folder: Path,
    *,
    segmenter: Segmenter | None = None,
    inpainter: Inpainter | None = None,
    artifacts: ArtifactStore | None = None,
    now: Callable[[], float] | None = None,
    store: WatchedStore | None = None,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Process]:
    """A JobManager that has the lease of ``folder``; leaving the block stops it in good order."""
    store = store or open_store(folder, now=now)
    artifacts = artifacts or LocalArtifacts(folder)
    scheduler = JobScheduler(
        store,
        artifacts,
        segmenter=segmenter or DiscSegmenter(),
        inpainter=inpainter or ColourInpainter(),
        limits=JobLimits(**(limits or {})),
        **{"retry_delays_s": RETRY_DELAYS_S, "lease_ttl_s": LEASE_S, "old_files_s": 0, **options},
    )
    await asyncio.wait_for(scheduler.start(), PATIENCE_S)
    try:
        yield Process(scheduler, store, artifacts)
    finally:
        await scheduler.stop()


def open_store(folder: Path, *, now: Callable[[], float] | None = None) -> WatchedStore:
    """The database of ``folder``."""
    folder.mkdir(exist_ok=True)
    clock = {} if now is None else {"now": now}
    return WatchedStore(f"sqlite:///{folder / 'jobs.db'}", ttl_s=3600, **clock)
