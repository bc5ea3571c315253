"""The work on one run of a job: from its first step, or from where an earlier attempt left off, to its recorded end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from deployments.job_lease import LeaseKeeper
from deployments.job_outbox import JobOutbox
from deployments.job_prompts import to_prompt
from deployments.job_threads import JobThreads
from deployments.job_watch import JobWatch
from pipeline import codecs
from pipeline.codecs import OWN_FILES
from pipeline.errors import (
    ClearcutError,
    EmbeddingLost,
    JobNotFound,
    LeaseLost,
    Overloaded,
    ReplicaDied,
    StorageError,
    StorageUnavailable,
)
from pipeline.jobs.artifacts import ArtifactStore, stored_name
from pipeline.jobs.records import JobRecord
from pipeline.jobs.store import JobStore
from pipeline.operations.extract_and_remove import ORIGINAL, Finished, extract_and_remove
from pipeline.protocols import Inpainter, Segmenter
from pipeline.types import MaskQuality

MAX_ATTEMPTS = 3
MAX_DEATHS = 2

INTERRUPTED = "Work on this job was interrupted three times, so it is not tried again."
QUARANTINED = "A model failed twice on this photo, so it is not tried again."
FAILED = "Processing failed. Try again, or try with another photo."
TOO_LATE = "A model did not answer in time. Try again later."

RETRY_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pauses before work that met a passing obstacle goes on; after the last of them the obstacle is the job's error."""

logger = logging.getLogger("ray.serve")


class JobWork:
    """Does jobs' work. Every step is recorded before the next one begins.

    Args:
        store: Where jobs are recorded.
        artifacts: Where their files are.
        threads: Where what blocks runs.
        lease: Whose loss stops all work.
        watch: Who is told of every change.
        outbox: Who is told of every end.
        segmenter: Finds objects.
        inpainter: Fills holes.
        retry_delays_s: See ``RETRY_DELAYS_S``.
    """

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        threads: JobThreads,
        lease: LeaseKeeper,
        watch: JobWatch,
        outbox: JobOutbox,
        *,
        segmenter: Segmenter,
        inpainter: Inpainter,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._threads = threads
        self._lease = lease
        self._watch = watch
        self._outbox = outbox
        self._segmenter = segmenter
        self._inpainter = inpainter
        self._retry_delays_s = tuple(retry_delays_s)

    async def run(self, job_id: str, run: int) -> JobRecord | None:
        """Works until the run's end is recorded; or returns the job if a model died under it and it is queued again.

        Raises:
            LeaseLost: The job belongs to another JobManager now.
        """
        try:
            try:
                error = await self._attempt(job_id, run)
            except ReplicaDied:
                died = partial(self._store.requeue, job_id, run, died=True)
                record = await self.record(job_id, died, patience=(StorageError,))
                logger.warning("A model died under job %s (%d of %d times).", job_id, record.deaths, MAX_DEATHS)
                if record.deaths < MAX_DEATHS:
                    return record
                error = QUARANTINED
            await self.end(job_id, run, error)
        except JobNotFound:
            logger.info("Job %s was taken back while it was worked on.", job_id)
        return None

    async def end(self, job_id: str, run: int, error: str | None) -> None:
        """Records the end of a run, however long that takes.

        Raises:
            JobNotFound: The run has ended already, or the job is gone.
            LeaseLost: The job belongs to another JobManager now.
        """
        logger.info("Job %s ends: %s", job_id, error or "ready.")
        await self.record(job_id, lambda: self._store.finish(job_id, run, error=error), patience=(Exception,))
        self._outbox.on_new()

    async def record(
        self,
        job_id: str,
        change: Callable[[], JobRecord],
        patience: tuple[type[Exception], ...] = (StorageUnavailable,),
    ) -> JobRecord:
        """The job after a change of it in the store; see ``JobThreads.insist``."""
        try:
            record = await self._threads.insist(change, f"Job {job_id}", patience)
        except LeaseLost:
            self._lease.lose()
            raise
        self._watch.changed(job_id)
        return record

    async def _attempt(self, job_id: str, run: int) -> str | None:
        """Works until all is done (None), or until an error (its text for the job's owner)."""
        try:
            record = await self.record(job_id, lambda: self._store.begin(job_id, run))
        except StorageError as failure:
            return failure.detail
        logger.info("Job %s begins (run %d, attempt %d).", job_id, run, record.attempts)
        for delay_s in (*self._retry_delays_s, None):
            try:
                await self._go_through_steps(record)
                return None
            except (JobNotFound, LeaseLost, ReplicaDied):
                raise
            except (EmbeddingLost, Overloaded, StorageUnavailable, TimeoutError) as failure:
                if delay_s is None:
                    logger.warning("Job %s gives up.", job_id, exc_info=failure)
                    return _text(failure)
                logger.warning("Job %s pauses: %r", job_id, failure)
                await asyncio.sleep(delay_s)
                record = await self._threads.insist(partial(self._store.get, job_id), f"Job {job_id}")
            except ClearcutError as failure:
                logger.warning("Job %s fails: %s", job_id, failure)
                return failure.detail
            except Exception:
                logger.exception("Job %s fails.", job_id)
                return FAILED
        raise AssertionError("unreachable")

    async def _go_through_steps(self, record: JobRecord) -> None:
        async def read(name: str) -> bytes:
            return await self._threads.files(self._artifacts.read, record.job_id, stored_name(record.run, name))

        report = _StoredReport(self, record)
        await report.stage("loading", 1)
        data = await read(ORIGINAL)
        photo = await self._threads.pool(lambda: codecs.decode_image(data, OWN_FILES))
        await extract_and_remove(
            photo.pixels,
            [to_prompt(item) for item in record.objects],
            segmenter=self._segmenter,
            inpainter=self._inpainter,
            report=report,
            run_in_pool=self._threads.pool,
            icc_profile=photo.icc_profile,
            finished=Finished(frozenset(record.files), record.qualities, read),
        )


class _StoredReport:
    """Writes a run's progress and results down, in this order: the file, then the record that lists it."""

    def __init__(self, work: JobWork, record: JobRecord) -> None:
        self._work = work
        self._job_id = record.job_id
        self._run = record.run

    async def stage(self, name: str, progress: int) -> None:
        await self._advance(stage=name, progress=progress)

    async def found(self, qualities: Sequence[MaskQuality]) -> None:
        change = partial(self._work._store.found, self._job_id, self._run, tuple(qualities))
        await self._work.record(self._job_id, change)

    async def artifact(self, name: str, data: bytes, progress: int) -> None:
        work = self._work
        await work._lease.sure()
        await work._threads.files(work._artifacts.write, self._job_id, stored_name(self._run, name), data)
        await self._advance(progress=progress, add_file=name, size=len(data))

    async def _advance(self, **change: Any) -> None:
        await self._work.record(self._job_id, partial(self._work._store.advance, self._job_id, self._run, **change))


def _text(failure: Exception) -> str:
    if isinstance(failure, EmbeddingLost) or not isinstance(failure, ClearcutError):
        return TOO_LATE if isinstance(failure, TimeoutError) else FAILED
    return failure.detail
