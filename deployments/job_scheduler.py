"""The life of jobs: admission, fair turns, recovery after a restart, and every kind of end. It knows no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

from deployments.job_lease import RENEW_EVERY_S, TTL_S, LeaseKeeper
from deployments.job_limits import JobLimits
from deployments.job_outbox import JobOutbox
from deployments.job_prompts import MAX_OBJECTS, check_objects
from deployments.job_sweep import JobSweep
from deployments.job_threads import JobThreads
from deployments.job_turns import JobTurns
from deployments.job_watch import JobWatch
from deployments.job_work import INTERRUPTED, MAX_ATTEMPTS, MAX_DEATHS, QUARANTINED, RETRY_DELAYS_S, JobWork
from pipeline.errors import ClearcutError, FileNotFound, JobNotFound, JobNotReady, LeaseLost, StorageError, StorageFull
from pipeline.jobs.artifacts import ArtifactStore, stored_name
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView
from pipeline.jobs.store import JobStore
from pipeline.operations.extract_and_remove import ORIGINAL, artifact_names
from pipeline.protocols import Inpainter, Segmenter

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class JobScheduler:
    """Owns the jobs of one store, as long as it has the store's lease.

    The event loop stays free: see ``JobThreads``. A change is on disk when its method returns; one that was begun
    comes to its end even if whoever asked for it goes away.

    Args:
        store: Where jobs are recorded.
        artifacts: Where their files are.
        segmenter: Finds objects.
        inpainter: Fills holes.
        owner: Who has the lease, for people to read.
        limits: How much there may be of what.
        old_files_s: How long the files of a run stay after the next one was asked for, for downloads under way.
        sweep_every_s, retry_delays_s, lease_ttl_s, renew_every_s: See ``JobSweep``, ``JobWork`` and ``LeaseKeeper``.
    """

    def __init__(
        self,
        store: JobStore,
        artifacts: ArtifactStore,
        *,
        segmenter: Segmenter,
        inpainter: Inpainter,
        owner: str = "JobManager",
        limits: JobLimits | None = None,
        old_files_s: float = 60,
        sweep_every_s: float = 60,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        lease_ttl_s: float = TTL_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limits = limits or JobLimits()
        self._old_files_s = old_files_s
        self.threads = JobThreads()
        self._watch = JobWatch(self._limits.max_waiters)
        self._lease = LeaseKeeper(
            store,
            self.threads,
            owner=owner,
            on_loss=self._stop_work,
            ttl_s=lease_ttl_s,
            renew_every_s=renew_every_s,
        )
        self.outbox = JobOutbox(store, self.threads)
        self._work = JobWork(
            store,
            artifacts,
            self.threads,
            self._lease,
            self._watch,
            self.outbox,
            segmenter=segmenter,
            inpainter=inpainter,
            retry_delays_s=retry_delays_s,
        )
        self._sweep = JobSweep(store, artifacts, self.threads, every_s=sweep_every_s)
        self._turns = JobTurns(self._work, max_running=self._limits.max_running)
        self._changes: set[asyncio.Task[Any]] = set()  # of which each comes to its end
        self._beside: set[asyncio.Task[Any]] = set()  # what runs on until the scheduler stops
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # Life of the scheduler.

    async def start(self) -> None:
        """Takes the lease, waiting for it if need be, and takes up the work an earlier process left."""
        await self._lease.take()
        for record in await self.threads.insist(self._store.unfinished, "The start"):
            await self._take_up(record)
        self.run_beside(self._sweep.run(self._lease.lose))

    def run_beside(self, work: Coroutine[object, object, None]) -> None:
        """Runs ``work`` until the scheduler stops or has lost its lease."""
        _keep(asyncio.create_task(work), self._beside)

    async def stop(self) -> None:
        """Stops working and gives the lease back; unfinished jobs are taken up at the next start."""
        self._stop_work()
        await self._turns.wait_stopped()
        await asyncio.gather(*self._beside, *self._changes, return_exceptions=True)
        await self._lease.release()
        await self.threads.close()
        self._store.close()

    def _stop_work(self) -> None:
        self._turns.stop()
        for task in self._beside:
            task.cancel()

    def check(self) -> None:
        """Raises ``LeaseLost`` once another owner has the jobs: this scheduler is of no more use."""
        self._lease.check()

    # Uploads.

    async def reserve(
        self, job_id: str, *, client: str, size: int, key: IdempotencyKey | None = None, key_id: str | None = None
    ) -> JobRecord:
        """A job whose upload of ``size`` bytes may now be written; or the job this key made before.

        Raises:
            KeyReused: The key came with another request.
            StorageFull: There is no room for the upload.
        """
        await self.threads.files(self._artifacts.check_room, size, self._limits.min_free_bytes)
        return await self._write(
            self._store.reserve,
            job_id,
            client=client,
            size=size,
            key=key,
            max_bytes=self._limits.max_bytes,
            key_id=key_id,
        )

    async def create(self, job_id: str, *, width: int, height: int, size: int) -> JobRecord:
        """The reserved job, now that its ``original.png`` is stored. Raises ``JobNotFound``."""
        record = await self._write(self._store.create, job_id, width=width, height=height, size=size)
        self._watch.changed(job_id)
        return record

    async def discard(self, job_id: str) -> None:
        """Gives back the reservation of an upload that failed, and deletes what there is of it."""
        await self._surely(self._discard(job_id))

    async def _discard(self, job_id: str) -> None:
        async with self._lock(job_id):
            if await self._write(self._drop_reservation, job_id):
                await self._bury(job_id)

    def _drop_reservation(self, job_id: str) -> bool:
        """Whether nobody owns the job's files now. One step on the database's thread: no ``create`` comes between."""
        try:
            self._store.get(job_id)
        except JobNotFound:  # reserved; or gone already, and then a slower upload has left a file
            with contextlib.suppress(JobNotFound):
                self._store.delete(job_id)
            return True
        return False  # it became visible: somebody has it

    # Questions.

    async def get(self, job_id: str, *, wait_s: float = 0) -> JobView:
        """The job; with ``wait_s``, as soon as it is not processing any more, or after that long.

        Raises:
            JobNotFound: It is unknown.
        """
        with self._watch.waiter(job_id, wait_s) as waiter:
            record = await self.threads.database(self._store.get, job_id)
            while record.state == "processing" and await waiter.wait():
                record = await self.threads.database(self._store.get, job_id)
        return self._turns.view(record)

    async def events(self, job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
        """What happened to the job after event ``after``; waits up to ``wait_s`` for the first of it.

        Raises:
            JobNotFound: It is unknown.
        """
        with self._watch.waiter(job_id, wait_s) as waiter:
            events = await self.threads.database(self._events_after, job_id, after)
            while not events and await waiter.wait():
                events = await self.threads.database(self._events_after, job_id, after)
        return events

    def _events_after(self, job_id: str, number: int) -> list[JobEvent]:
        self._store.get(job_id)
        return self._store.events_after(job_id, number)

    async def file(self, job_id: str, name: str) -> str:
        """Where the listed file ``name`` lies in the job's folder.

        Raises:
            JobNotFound: The job is unknown.
            JobNotReady: The file is still to come.
            FileNotFound: The job never has such a file.
        """
        record = await self.threads.database(self._store.get, job_id)
        if name in record.files:
            return stored_name(record.run, name)
        if record.state == "uploaded" and name in artifact_names(MAX_OBJECTS):
            raise JobNotReady("This job has not been segmented yet. Send its points to /segment first.")
        if record.state == "processing" and name in artifact_names(len(record.objects)):
            raise JobNotReady("This file is not ready yet. It can be fetched as soon as the status lists it.")
        raise FileNotFound("File not found", filename=name[:128])

    # Changes.

    async def segment(
        self,
        job_id: str,
        objects: tuple[JobObject, ...],
        *,
        callback_url: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> JobRecord:
        """The job queued for its objects; or as it is, if this key queued it before.

        Raises:
            JobNotFound: It is unknown.
            JobBusy: It is being worked on.
            KeyReused: The key came with another request.
            InvalidPoint, TooManyObjects, TooManyPoints: The objects break a limit.
            Overloaded: Too many jobs wait.
        """
        return await self._surely(self._segment(job_id, objects, callback_url, key))

    async def _segment(
        self, job_id: str, objects: tuple[JobObject, ...], callback_url: str | None, key: IdempotencyKey | None
    ) -> JobRecord:
        async with self._lock(job_id):
            before = await self.threads.database(self._store.get, job_id)
            check_objects(objects, width=before.width, height=before.height)
            record, started = await self._write(
                self._store.start,
                job_id,
                objects,
                keep_files=(ORIGINAL,),
                callback_url=callback_url,
                key=key,
                max_waiting=self._limits.max_waiting,
            )
            if started:
                logger.info("Job %s is queued (run %d, %d objects).", job_id, record.run, len(objects))
                self._watch.changed(job_id)
                self._turns.add(record)
                self.run_beside(self._delete_files_of_run(before, after_s=self._old_files_s))
            return record

    async def cancel(self, job_id: str) -> JobRecord:
        """The job ``canceled``: its work has ended and its results are gone.

        Raises:
            JobNotFound: It is unknown.
            JobFinished: It has ended already.
        """
        return await self._surely(self._cancel(job_id))

    async def _cancel(self, job_id: str) -> JobRecord:
        async with self._lock(job_id):
            record = await self._write(self._store.cancel, job_id, keep_files=(ORIGINAL,))
            logger.info("Job %s is canceled.", job_id)
            self._watch.changed(job_id)
            self.outbox.on_new()
            await self._turns.end(job_id)
            await self._delete_files_of_run(record)
            return record

    async def delete(self, job_id: str) -> None:
        """Ends the job's work and removes all it has. Raises ``JobNotFound``."""
        await self._surely(self._delete(job_id))

    async def _delete(self, job_id: str) -> None:
        async with self._lock(job_id):
            await self.threads.database(self._store.get, job_id)  # a reserved one is not there yet
            await self._write(self._store.delete, job_id)
            logger.info("Job %s is deleted.", job_id)
            self._watch.changed(job_id)
            await self._turns.end(job_id)
            await self._bury(job_id)

    # Below: how it is done.

    async def _take_up(self, record: JobRecord) -> None:
        """Queues a job that an earlier process left, or ends it if that was tried often enough."""
        job_id, run = record.job_id, record.run
        if record.deaths >= MAX_DEATHS or record.attempts >= MAX_ATTEMPTS:
            text = QUARANTINED if record.deaths >= MAX_DEATHS else INTERRUPTED
            return self.run_beside(self._work.end(job_id, run, text))
        if record.stage != "queued":
            with contextlib.suppress(StorageFull):  # then it says another stage while it waits
                record = await self._work.record(job_id, lambda: self._store.requeue(job_id, run))
        logger.info("Job %s is taken up again (%d attempts so far).", job_id, record.attempts)
        self._turns.add(record)

    async def _write(self, change: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self.threads.database(change, *args, **kwargs)
        except LeaseLost:
            self._lease.lose()
            raise

    async def _surely(self, change: Coroutine[object, object, T]) -> T:
        """The answer of a change, which comes to its end even if whoever asked for it goes away."""
        return await asyncio.shield(_keep(asyncio.create_task(change), self._changes))

    def _lock(self, job_id: str) -> asyncio.Lock:
        """One change of a job after the other."""
        return self._locks.setdefault(job_id, asyncio.Lock())

    async def _bury(self, job_id: str) -> None:
        try:
            await self._sweep.bury(job_id)
        except StorageError as failure:
            logger.warning("The files of job %s are deleted later: %s", job_id, failure)

    async def _delete_files_of_run(self, record: JobRecord, *, after_s: float = 0) -> None:
        """Deletes what a run made or was about to make; what cannot be deleted now goes with the job."""
        if record.run == 0:
            return
        await asyncio.sleep(after_s)
        names = set(artifact_names(len(record.objects))) - {ORIGINAL}
        try:
            for name in names:
                await self.threads.files(self._artifacts.delete, record.job_id, stored_name(record.run, name))
        except StorageError as failure:
            logger.warning("Files of job %s are deleted with it: %s", record.job_id, failure)


def _keep(task: asyncio.Task[T], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
    """The task, held among ``tasks`` until it ends: the event loop itself would let it be collected."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[Any]) -> None:
    failure = None if task.cancelled() else task.exception()
    if failure is not None and not isinstance(failure, ClearcutError):  # those are answers, for whoever asked
        logger.error("Work beside the jobs failed.", exc_info=failure)
