"""A service without Ray: the application over stub models, with its real scheduler, database and files."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from deployments.ingress import create_app
from deployments.job_scheduler import JobScheduler
from deployments.latency import LatencyBoard, LatencySummary, Snapshot
from deployments.model_status import ModelStatus
from deployments.services import Services
from pipeline.config import Settings
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.store import JobObject, JobRecord, JobStore
from pipeline.protocols import Inpainter, Matting, Segmenter
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, EllipseMatting, decode, encode, photo


class WatchedStore(JobStore):
    """A store that remembers every record it wrote, and tells when a job has ended."""

    history: list[JobRecord]

    def __init__(self, url: str | sa.URL, **options: Any) -> None:
        super().__init__(url, **options)
        self.history = []
        self._loop = asyncio.get_running_loop()
        self._ends: dict[str, asyncio.Event] = {}

    async def ended(self, job_id: str) -> JobRecord:
        """The record of the job once it is ``ready`` or in ``error``."""
        await asyncio.wait_for(self._ends.setdefault(job_id, asyncio.Event()).wait(), PATIENCE_S)
        return [record for record in self.history if record.job_id == job_id][-1]

    def start(self, job_id: str, objects: tuple[JobObject, ...], *, keep_files: tuple[str, ...]) -> JobRecord:
        record = super().start(job_id, objects, keep_files=keep_files)
        self._loop.call_soon_threadsafe(self._ends.setdefault(job_id, asyncio.Event()).clear)
        return self._keep(record)

    def advance(
        self, job_id: str, *, stage: str | None = None, progress: int, add_file: str | None = None
    ) -> JobRecord:
        return self._keep(super().advance(job_id, stage=stage, progress=progress, add_file=add_file))

    def finish(self, job_id: str, *, error: str | None = None) -> JobRecord:
        record = self._keep(super().finish(job_id, error=error))
        self._loop.call_soon_threadsafe(self._ends.setdefault(job_id, asyncio.Event()).set)
        return record

    def _keep(self, record: JobRecord) -> JobRecord:
        self.history.append(record)
        return record


class LocalJobs:
    """The scheduler of this process as the routes see JobManager."""

    def __init__(self, scheduler: JobScheduler) -> None:
        self._scheduler = scheduler
        self._board = LatencyBoard()

    async def create(self, job_id: str, *, width: int, height: int) -> JobRecord:
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
        return self._board.report(replica, snapshot)

    async def ready(self) -> bool:
        return True


@dataclass
class World:
    """One service without Ray, and the inside of it."""

    settings: Settings
    services: Services
    store: WatchedStore
    artifacts: LocalArtifacts
    scheduler: JobScheduler
    client: httpx.AsyncClient

    async def upload(self, pixels: NDArray[np.uint8] | None = None) -> str:
        """The id of a new job."""
        files = {"file": ("photo.png", encode(photo() if pixels is None else pixels), "image/png")}
        answer = await self.client.post("/upload", files=files)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    async def segment(self, job_id: str, *points: Any) -> JobRecord:
        """The job's record after work on ``points`` has ended."""
        answer = await self.client.post("/segment", json={"job_id": job_id, "coordinates_list": points})
        assert answer.status_code == 200, answer.text
        return await self.store.ended(job_id)

    async def download(self, job_id: str, name: str) -> NDArray[np.uint8]:
        """The pixels of one of the job's files."""
        answer = await self.client.get(f"/download/{job_id}/{name}")
        assert answer.status_code == 200, answer.text
        return decode(answer.content)


@contextlib.asynccontextmanager
async def open_world(
    folder: Path,
    *,
    matting: Matting | None = None,
    segmenter: Segmenter | None = None,
    inpainter: Inpainter | None = None,
    model_status: Mapping[str, ModelStatus | None] | None = None,
    **settings: Any,
) -> AsyncIterator[World]:
    """The whole application over stubs, with its real scheduler, database and files in ``folder``."""
    matting, segmenter, inpainter = (
        matting or EllipseMatting(),
        segmenter or DiscSegmenter(),
        inpainter or ColourInpainter(),
    )
    known = Settings(_env_file=None, **{"work_dir": folder, **settings})
    store = WatchedStore.in_folder(folder, ttl_s=known.job_ttl_hours * 3600)
    assert isinstance(store, WatchedStore)
    artifacts = LocalArtifacts(folder)
    scheduler = JobScheduler(store, artifacts, segmenter=segmenter, inpainter=inpainter)
    models = {"BiRefNet": matting, "MobileSAM": segmenter, "LaMa": inpainter}
    told = {name: ModelStatus(await model.info()) for name, model in models.items()} | dict(model_status or {})

    async def ask_models() -> Mapping[str, ModelStatus | None]:
        return told

    services = Services(known, matting, LocalJobs(scheduler), artifacts, ask_models)
    app = create_app(services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    await scheduler.start()
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://clearcut") as client,
        ):
            yield World(known, services, store, artifacts, scheduler, client)
    finally:
        await scheduler.stop()
