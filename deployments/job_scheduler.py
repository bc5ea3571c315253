"""The life of jobs: admission, work in turn, recovery after a restart, expiry. It knows no Ray."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from pipeline import codecs
from pipeline.codecs import OWN_FILES
from pipeline.errors import (
    ClearcutError,
    FileNotFound,
    InvalidPoint,
    JobNotFound,
    JobNotReady,
    TooManyObjects,
    TooManyPoints,
)
from pipeline.jobs.artifacts import ArtifactStore
from pipeline.jobs.store import JobObject, JobRecord, JobStore
from pipeline.operations.extract_and_remove import ORIGINAL, artifact_names, extract_and_remove
from pipeline.protocols import Inpainter, Segmenter
from pipeline.types import MaskQuality, Prompt

MAX_OBJECTS = 16
MAX_POINTS = 32

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class JobScheduler:
    """Owns the jobs of one store.

    The event loop stays free: the database has a thread of its own, encoding a small pool.

    Args:
        store: Where jobs are recorded.
        artifacts: Where their files are.
        segmenter: Finds objects.
        inpainter: Fills holes.
        max_running: Jobs worked on at once; more wait in the order of their coming. The models batch what these ask.
    """

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        *,
        segmenter: Segmenter,
        inpainter: Inpainter,
        max_running: int = 4,
        sweep_every_s: float = 60,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._segmenter = segmenter
        self._inpainter = inpainter
        self._turns = asyncio.Semaphore(max_running)
        self._sweep_every_s = sweep_every_s
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="encoding")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up the work an earlier process left, and begins to look for expired jobs."""
        for record in await self._db(self._store.unfinished):
            logger.info("Job %s is taken up again.", record.job_id)
            self._launch(record)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Stops working; unfinished jobs are taken up at the next start."""
        tasks = [*self._running.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._database.shutdown()
        self._pool.shutdown()
        self._store.close()

    async def create(self, job_id: str, *, width: int, height: int) -> JobRecord:
        """A new job whose ``original.png`` is stored already."""
        create = functools.partial(self._store.create, job_id, width=width, height=height, files=(ORIGINAL,))
        return await self._db(create)

    async def get(self, job_id: str) -> JobRecord:
        """The job. Raises ``JobNotFound``."""
        return await self._db(self._store.get, job_id)

    async def segment(self, job_id: str, objects: tuple[JobObject, ...]) -> JobRecord:
        """The job queued for its objects.

        Raises:
            JobNotFound: It is unknown.
            JobBusy: It is being worked on.
            InvalidPoint, TooManyObjects, TooManyPoints: The objects break a limit.
        """
        record = await self._db(self._store.get, job_id)
        check_objects(objects, width=record.width, height=record.height)
        record = await self._db(functools.partial(self._store.start, job_id, objects, keep_files=(ORIGINAL,)))
        self._launch(record)
        return record

    async def require_file(self, job_id: str, name: str) -> None:
        """Returns if the job lists ``name``.

        Raises:
            JobNotFound: The job is unknown.
            JobNotReady: The file is still to come.
            FileNotFound: The job never has such a file.
        """
        record = await self._db(self._store.get, job_id)
        if name in record.files:
            return
        if record.state == "uploaded" and name in artifact_names(MAX_OBJECTS):
            raise JobNotReady("This job has not been segmented yet. Send its points to /segment first.")
        if record.state == "processing" and name in artifact_names(len(record.objects)):
            raise JobNotReady("This file is not ready yet. It can be fetched as soon as the status lists it.")
        raise FileNotFound("File not found", filename=name[:128])

    async def delete(self, job_id: str) -> None:
        """Ends the job's work and removes all it has. Raises ``JobNotFound``."""
        await self._db(self._store.delete, job_id)
        task = self._running.pop(job_id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(self._artifacts.delete_job, job_id)

    def _launch(self, record: JobRecord) -> None:
        task = asyncio.create_task(self._work(record), name=f"job {record.job_id}")
        self._running[record.job_id] = task
        task.add_done_callback(lambda done: self._forget(record.job_id, done))

    def _forget(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._running.get(job_id) is task:
            del self._running[job_id]

    async def _work(self, record: JobRecord) -> None:
        job_id = record.job_id
        try:
            async with self._turns:
                await self._process(record)
            error: str | None = None
        except ClearcutError as failure:
            error = failure.detail
        except Exception:
            logger.exception("Job %s failed.", job_id)
            error = "Processing failed. Try again, or try with another photo."
        try:
            await self._db(functools.partial(self._store.finish, job_id, error=error))
        except JobNotFound:
            await asyncio.to_thread(self._artifacts.delete_job, job_id)
        except Exception:
            logger.exception("The end of job %s could not be recorded; the next start takes it up again.", job_id)

    async def _process(self, record: JobRecord) -> None:
        report = _StoredReport(self, record.job_id)
        await report.stage("loading", 1)
        data = await self._in_pool(lambda: self._artifacts.read(record.job_id, ORIGINAL))
        photo = await asyncio.get_running_loop().run_in_executor(self._pool, codecs.decode_image, data, OWN_FILES)
        await extract_and_remove(
            photo.pixels,
            [to_prompt(item) for item in record.objects],
            segmenter=self._segmenter,
            inpainter=self._inpainter,
            report=report,
            run_in_pool=self._in_pool,
            icc_profile=photo.icc_profile,
        )

    async def _in_pool(self, function: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _db(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._database, function, *args)

    async def _sweep(self) -> None:
        while True:
            try:
                for job_id in await self._db(self._store.forget_expired):
                    await asyncio.to_thread(self._artifacts.delete_job, job_id)
            except Exception:
                logger.exception("Looking for expired jobs failed.")
            await asyncio.sleep(self._sweep_every_s)


class _StoredReport:
    """Writes a job's progress and results down, in this order: the file, then the record that lists it."""

    def __init__(self, scheduler: JobScheduler, job_id: str) -> None:
        self._scheduler = scheduler
        self._job_id = job_id

    async def stage(self, name: str, progress: int) -> None:
        store = self._scheduler._store
        await self._scheduler._db(functools.partial(store.advance, self._job_id, stage=name, progress=progress))

    async def found(self, qualities: Sequence[MaskQuality]) -> None:
        store = self._scheduler._store
        await self._scheduler._db(store.found, self._job_id, tuple(qualities))

    async def artifact(self, name: str, data: bytes, progress: int) -> None:
        write = asyncio.ensure_future(asyncio.to_thread(self._scheduler._artifacts.write, self._job_id, name, data))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            # Its thread cannot be stopped: whoever deletes the job has to come after it.
            await asyncio.wait([write])
            raise
        store = self._scheduler._store
        await self._scheduler._db(functools.partial(store.advance, self._job_id, progress=progress, add_file=name))


def check_objects(objects: tuple[JobObject, ...], *, width: int, height: int) -> None:
    """Raises ``PromptRejected`` unless the objects keep the limits and lie on the picture."""
    if not objects:
        raise InvalidPoint("coordinates_list needs at least one point.")
    if len(objects) > MAX_OBJECTS:
        raise TooManyObjects(f"At most {MAX_OBJECTS} objects a job.", max_objects=MAX_OBJECTS, objects=len(objects))
    for index, item in enumerate(objects):
        if len(item.points) > MAX_POINTS:
            raise TooManyPoints(f"At most {MAX_POINTS} points an object.", max_points=MAX_POINTS, object=index)
        if 1 not in item.labels:
            raise InvalidPoint(f"Object {index} needs at least one point on it (label 1).", object=index)
        for x, y in item.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InvalidPoint(
                    f"Point ({x:g}, {y:g}) of object {index} is outside the picture of {width}x{height} pixels.",
                    object=index,
                    point=[value if math.isfinite(value) else None for value in (x, y)],  # JSON knows no NaN
                    width=width,
                    height=height,
                )


def to_prompt(item: JobObject) -> Prompt:
    """The object's points as arrays."""
    return Prompt(points=np.array(item.points, np.float32), labels=np.array(item.labels, np.uint8))
