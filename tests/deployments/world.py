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
from fastapi import FastAPI
from numpy.typing import NDArray

from deployments.ingress import create_app
from deployments.job_limits import JobLimits
from deployments.job_scheduler import JobScheduler
from deployments.key_ring import KeyRing
from deployments.latency import LatencyBoard, LatencySummary, Snapshot
from deployments.limits.visits import Limits
from deployments.model_status import ModelStatus
from deployments.services import Services
from pipeline.config import Settings
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.records import JobRecord
from pipeline.jobs.store import JobStore
from pipeline.protocols import Inpainter, Matting, Segmenter
from tests.stub_models import PATIENCE_S, ColourInpainter, DiscSegmenter, EllipseMatting, decode, encode, photo

RETRY_DELAYS_S = (0.0, 0.0, 0.0)
"""Pauses of jobs that met a passing obstacle, short for tests."""


class WatchedStore(JobStore):
    """A store that remembers every record that work on a job wrote, and tells when a job has ended."""

    history: list[JobRecord]

    def __init__(self, url: str | sa.URL, **options: Any) -> None:
        super().__init__(url, **options)
        self.history = []
        self._loop = asyncio.get_running_loop()
        self._ends: dict[str, asyncio.Event] = {}

    async def ended(self, job_id: str) -> JobRecord:
        """The record of the job once it is ``ready``, in ``error`` or ``canceled``."""
        await asyncio.wait_for(self._ends.setdefault(job_id, asyncio.Event()).wait(), PATIENCE_S)
        return [record for record in self.history if record.job_id == job_id][-1]

    def start(self, job_id: str, *args: Any, **kwargs: Any) -> tuple[JobRecord, bool]:
        record, started = super().start(job_id, *args, **kwargs)
        if started:
            self._loop.call_soon_threadsafe(self._ends.setdefault(job_id, asyncio.Event()).clear)
            self.history.append(record)
        return record, started

    def begin(self, *args: Any) -> JobRecord:
        return self._keep(super().begin(*args))

    def requeue(self, *args: Any, **kwargs: Any) -> JobRecord:
        return self._keep(super().requeue(*args, **kwargs))

    def advance(self, *args: Any, **kwargs: Any) -> JobRecord:
        return self._keep(super().advance(*args, **kwargs))

    def found(self, *args: Any) -> JobRecord:
        return self._keep(super().found(*args))

    def finish(self, *args: Any, **kwargs: Any) -> JobRecord:
        return self._keep(super().finish(*args, **kwargs), ended=True)

    def cancel(self, *args: Any, **kwargs: Any) -> JobRecord:
        return self._keep(super().cancel(*args, **kwargs), ended=True)

    def _keep(self, record: JobRecord, *, ended: bool = False) -> JobRecord:
        self.history.append(record)
        if ended:
            self._loop.call_soon_threadsafe(self._ends.setdefault(record.job_id, asyncio.Event()).set)
        return record


class LocalJobs:
    """The scheduler of this process as the routes see JobManager."""

    def __init__(self, scheduler: JobScheduler, keys: KeyRing) -> None:
        self._scheduler = scheduler
        self._board = LatencyBoard()
        self.reserve = scheduler.reserve
        self.create = scheduler.create
        self.discard = scheduler.discard
        self.get = scheduler.get
        self.segment = scheduler.segment
        self.cancel = scheduler.cancel
        self.events = scheduler.events
        self.file = scheduler.file
        self.delete = scheduler.delete
        self.find_key = keys.find

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        return self._board.report(replica, snapshot)

    async def ready(self) -> bool:
        self._scheduler.check()
        return True


@dataclass
class World:
    """One service without Ray, and the inside of it."""

    folder: Path
    settings: Settings
    services: Services
    store: WatchedStore
    artifacts: LocalArtifacts
    scheduler: JobScheduler
    app: FastAPI
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
    own = {"work_dir": str(folder), "work_dir_min_free_gb": 0, "rate_limit_per_minute": 0}
    known = Settings(_env_file=None, **{**own, **settings})
    store = WatchedStore.in_folder(folder, ttl_s=known.job_ttl_hours * 3600)
    assert isinstance(store, WatchedStore)
    artifacts = LocalArtifacts(folder)
    scheduler = JobScheduler(
        store,
        artifacts,
        segmenter=segmenter,
        inpainter=inpainter,
        limits=JobLimits.of(known),
        retry_delays_s=RETRY_DELAYS_S,
    )
    models = {"BiRefNet": matting, "MobileSAM": segmenter, "LaMa": inpainter}
    told = {name: ModelStatus(await model.info()) for name, model in models.items()} | dict(model_status or {})

    async def ask_models() -> Mapping[str, ModelStatus | None]:
        return told

    keys = KeyRing.of(known)
    limits = Limits(per_minute=known.rate_limit_per_minute)
    services = Services(known, matting, LocalJobs(scheduler, keys), artifacts, ask_models, limits=limits)
    app = create_app(services)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    await scheduler.start()
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://clearcut") as client,
        ):
            yield World(folder, known, services, store, artifacts, scheduler, app, client)
    finally:
        await scheduler.stop()
        await keys.stop()
