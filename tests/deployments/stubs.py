"""What stands behind the pipeline's protocols in the tests of the routes: small, predictable, and told when to wait."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from deployments.ingress import create_app
from deployments.job_scheduler import JobScheduler
from deployments.latency import LatencyBoard, LatencySummary, Snapshot
from deployments.model_status import ModelStatus
from deployments.services import Services
from pipeline.config import Settings
from pipeline.jobs.artifacts import LocalArtifacts
from pipeline.jobs.store import JobObject, JobRecord, JobStore
from pipeline.protocols import Inpainter, Matting, Segmenter
from pipeline.types import EmbeddingRef, EngineInfo, Image, Mask, MaskCandidates, MattingResult, Prompt

PATIENCE_S = 20.0
"""Longest wait for an event that must come; a test that fails does so after it, none sleeps it away."""

FILL = (10, 200, 30)
MATTING_SIZE_HW = (48, 64)


def photo(height: int = 90, width: int = 120) -> Image:
    """A lopsided photo without two equal rows or columns."""
    y, x = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(7).integers(0, 40, (height, width))
    return np.stack([(x * 2 + noise) % 256, (y * 2 + noise) % 256, 255 - (x + y + noise) % 256], -1).astype(np.uint8)


def encode(pixels: NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    """The file Pillow makes of ``pixels``; not our own writer, so that tests see what other programs send."""
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    """The pixels Pillow finds in a file, in its own mode."""
    with PillowImage.open(io.BytesIO(data)) as image:
        return np.array(image)


class EllipseMatting:
    """Finds an ellipse in the middle, with an edge some pixels soft."""

    def __init__(self, *, degraded_reason: str | None = None, tensorrt: bool = False) -> None:
        self._info = EngineInfo("stub-matting", "cpu", MATTING_SIZE_HW, tensorrt, degraded_reason)
        self.seen: list[tuple[int, ...]] = []

    async def info(self) -> EngineInfo:
        return self._info

    async def alpha(self, image: Image) -> MattingResult:
        self.seen.append(image.shape)
        height, width = image.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        distance = np.hypot((x - width / 2) / (width / 3), (y - height / 2) / (height / 3))
        alpha = (np.clip((1.15 - distance) / 0.3, 0, 1) * 255).astype(np.uint8)
        alpha.flags.writeable = False  # as arrays from a handle are
        return MattingResult(alpha, self._info.model_version, 0.001, self._info.tensorrt)


class HeldMatting(EllipseMatting):
    """Answers only when ``release`` is set; ``entered`` tells that a request is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def alpha(self, image: Image) -> MattingResult:
        self.entered.set()
        await self.release.wait()
        return await super().alpha(image)


class FailingMatting(EllipseMatting):
    """Raises ``error`` for every image."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def alpha(self, image: Image) -> MattingResult:
        raise self._error


class DiscSegmenter:
    """Finds a disc around the first positive point of each prompt; nothing for the prompts in ``blind_for``."""

    def __init__(self, *, radius_px: int = 9, blind_for: Sequence[int] = (), largest_px: int = 1024) -> None:
        self.radius_px = radius_px
        self.blind_for = set(blind_for)
        self.prompts: list[list[Prompt]] = []
        self.embedded: list[tuple[int, ...]] = []
        self._largest_px = largest_px

    async def info(self) -> EngineInfo:
        return EngineInfo("stub-segmenter", "cpu", (self._largest_px, self._largest_px))

    async def embed(self, image: Image) -> EmbeddingRef:
        self.embedded.append(image.shape)
        return image.shape[:2]

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        assert isinstance(embedding, tuple)
        self.prompts.append(list(prompts))
        y, x = np.mgrid[0 : embedding[0], 0 : embedding[1]]
        found = []
        for index, prompt in enumerate(prompts):
            px, py = prompt.points[int(np.argmax(prompt.labels == 1))]
            radius = -1 if index in self.blind_for else self.radius_px
            disc = (np.hypot(x - px, y - py) <= radius).astype(np.uint8) * 255
            disc.flags.writeable = False
            found.append(MaskCandidates(disc[None], np.ones(1, np.float32)))
        return found


class HeldSegmenter(DiscSegmenter):
    """Finds masks only when ``release`` is set; counts how many jobs are inside at once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.inside = 0
        self.most_inside = 0

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.entered.set()
        try:
            await self.release.wait()
            return await super().masks(embedding, prompts, candidates=candidates)
        finally:
            self.inside -= 1


class FailingSegmenter(DiscSegmenter):
    """Raises ``error`` for every image."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        raise self._error


class ColourInpainter:
    """Fills the whole window with one colour, outside the mask too: what is kept there, the caller must keep."""

    def __init__(self, *, largest_px: int = 1024) -> None:
        self.windows: list[tuple[int, ...]] = []
        self._largest_px = largest_px

    async def info(self) -> EngineInfo:
        return EngineInfo("stub-inpainter", "cpu", (self._largest_px, self._largest_px))

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        assert image.shape[:2] == mask.shape
        assert mask.any()
        self.windows.append(image.shape)
        filled = np.full_like(image, FILL)
        filled.flags.writeable = False
        return filled


class WatchedStore(JobStore):
    """A store that remembers every record it wrote, and tells when a job has ended."""

    history: list[JobRecord]

    def __init__(self, url: str, **options: Any) -> None:
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
