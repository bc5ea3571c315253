"""The life of jobs: admission, fair turns, recovery after a restart, and every kind of end. It knows no Ray."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from deployments.job_lease import RENEW_EVERY_S, TTL_S, LeaseKeeper
from deployments.job_outbox import JobOutbox
from deployments.job_prompts import MAX_OBJECTS, check_objects
from deployments.job_queue import FairQueue, RunTimes, Waiting
from deployments.job_sweep import JobSweep
from deployments.job_threads import JobThreads
from deployments.job_watch import JobWatch
from deployments.job_work import INTERRUPTED, MAX_ATTEMPTS, MAX_DEATHS, QUARANTINED, RETRY_DELAYS_S, JobWork
from pipeline.config import Settings
from pipeline.errors import ClearcutError, FileNotFound, JobNotFound, JobNotReady, LeaseLost, StorageError
from pipeline.jobs.artifacts import ArtifactStore, stored_name
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView
from pipeline.jobs.store import JobStore
from pipeline.operations.extract_and_remove import ORIGINAL, artifact_names
from pipeline.protocols import Inpainter, Segmenter

P = ParamSpec("P")
T = TypeVar("T")

GIB = 1024**3

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class JobLimits:
    """How much there may be of what.

    Attributes:
        max_running: Jobs worked on at once; the models batch what these ask.
        max_waiting: Jobs accepted and not finished; more are refused.
        max_bytes: What the files of all jobs may take together; None is no limit.
        min_free_bytes: Room that an upload must leave on the disk.
        max_waiters: Callers that may wait for a change at once; further ones are answered at once.
    """

    max_running: int = 4
    max_waiting: int = 1000
    max_bytes: int | None = None
    min_free_bytes: int = 0
    max_waiters: int = 400

    @classmethod
    def of(cls, settings: Settings) -> JobLimits:
        """The limits this machine is configured for."""
        return cls(
            max_running=settings.max_running_jobs,
            max_waiting=settings.max_waiting_jobs,
            max_bytes=int(settings.work_dir_max_gb * GIB) or None,
            min_free_bytes=int(settings.work_dir_min_free_gb * GIB),
        )


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
        sweep_every_s: float = 60,
        retry_delays_s: Sequence[float] = RETRY_DELAYS_S,
        lease_ttl_s: float = TTL_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._limits = limits or JobLimits()
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
        self._queue = FairQueue()
        self._times = RunTimes()
        self._running: dict[str, tuple[Waiting, asyncio.Task[JobRecord | None]]] = {}
        self._changes: set[asyncio.Task[Any]] = set()  # of which each comes to its end
        self._beside: set[asyncio.Task[Any]] = set()  # what runs on until the scheduler stops
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._stopped = False

    # Life of the scheduler.

    async def start(self) -> None:
        """Takes the lease, waiting for it if need be, and takes up the work an earlier process left."""
        await self._lease.take()
        for record in await self.threads.insist(self._store.unfinished, "The start"):
            await self._take_up(record)
        self.run_beside(self._sweep.run(self._lease.lose))
        self._dispatch()

    def run_beside(self, work: Coroutine[object, object, None]) -> None:
        """Runs ``work`` until the scheduler stops or has lost its lease."""
        _keep(asyncio.create_task(work), self._beside)

    async def stop(self) -> None:
        """Stops working and gives the lease back; unfinished jobs are taken up at the next start."""
        self._stop_work()
        running = [task for _, task in self._running.values()]
        await asyncio.gather(*running, *self._beside, *self._changes, return_exceptions=True)
        await self._lease.release()
        await self.threads.close()
        self._store.close()

    def _stop_work(self) -> None:
        self._stopped = True
        for task in (*self._beside, *(task for _, task in self._running.values())):
            task.cancel()

    def check(self) -> None:
        """Raises ``LeaseLost`` once another owner has the jobs: this scheduler is of no more use."""
        self._lease.check()

    # Uploads.

    async def reserve(self, job_id: str, *, client: str, size: int, key: IdempotencyKey | None = None) -> JobRecord:
        """A job whose upload of ``size`` bytes may now be written; or the job this key made before.

        Raises:
            KeyReused: The key came with another request.
            StorageFull: There is no room for the upload.
        """
        await self.threads.files(self._artifacts.check_room, size, self._limits.min_free_bytes)
        max_bytes = self._limits.max_bytes
        return await self._write(self._store.reserve, job_id, client=client, size=size, key=key, max_bytes=max_bytes)

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
            try:
                await self.threads.database(self._store.get, job_id)
            except JobNotFound:  # still reserved; a job that became visible belongs to somebody
                try:
                    await self._write(self._store.delete, job_id)
                except JobNotFound:
                    return
                await self._bury(job_id)

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
        position = self._queue.position(job_id)
        if position is None:
            return JobView(record)
        return JobView(record, position, self._times.wait_s(position, self._limits.max_running))

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
                self._enqueue(record)
                _keep(asyncio.create_task(self._delete_files_of_run(before)), self._changes)
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
            self.outbox.on_new()
            await self._end_work(job_id)
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
            await self._end_work(job_id)
            await self._bury(job_id)

    # Turns.

    async def _take_up(self, record: JobRecord) -> None:
        """Queues a job that an earlier process left, or ends it if that was tried often enough."""
        job_id, run = record.job_id, record.run
        if record.deaths >= MAX_DEATHS:
            return await self._work.end(job_id, run, QUARANTINED)
        if record.attempts >= MAX_ATTEMPTS:
            return await self._work.end(job_id, run, INTERRUPTED)
        if record.stage != "queued":
            record = await self._work.record(job_id, lambda: self._store.requeue(job_id, run))
        logger.info("Job %s is taken up again (%d attempts so far).", job_id, record.attempts)
        self._queue.add(_waiting(record))

    def _enqueue(self, record: JobRecord, *, first: bool = False) -> None:
        if not self._stopped:
            self._queue.add(_waiting(record), first=first)
            self._dispatch()

    def _dispatch(self) -> None:
        """Begins as many of the waiting jobs as there is room for."""
        while not self._stopped and (waiting := self._queue.next()) is not None and self._has_room_for(waiting):
            self._queue.take()
            task = asyncio.create_task(self._work.run(waiting.job_id, waiting.run), name=f"job {waiting.job_id}")
            self._running[waiting.job_id] = waiting, task
            begun = asyncio.get_running_loop().time()
            task.add_done_callback(partial(self._ended, waiting, begun))

    def _has_room_for(self, waiting: Waiting) -> bool:
        if waiting.alone or any(other.alone for other, _ in self._running.values()):
            return not self._running
        return len(self._running) < self._limits.max_running

    def _ended(self, waiting: Waiting, begun: float, task: asyncio.Task[JobRecord | None]) -> None:
        del self._running[waiting.job_id]
        if not task.cancelled():
            failure = task.exception()
            if isinstance(failure, LeaseLost):
                logger.info("Job %s is left to the next owner of the jobs.", waiting.job_id)
            elif failure is not None:
                logger.error("Job %s is left for the next start.", waiting.job_id, exc_info=failure)
            elif (again := task.result()) is not None:
                self._enqueue(again, first=True)
            else:
                self._times.add(asyncio.get_running_loop().time() - begun)
        self._dispatch()

    async def _end_work(self, job_id: str) -> None:
        """Takes a job that was canceled or deleted out of the queue; returns when nothing works on it any more."""
        self._watch.changed(job_id)
        self._queue.remove(job_id)
        if job_id in self._running:
            _, task = self._running[job_id]
            task.cancel()
            await asyncio.wait([task])
        self._dispatch()

    # Below: how it is done.

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

    async def _delete_files_of_run(self, record: JobRecord) -> None:
        """Deletes what a run made or was about to make; what cannot be deleted now goes with the job."""
        if record.run == 0:
            return
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


def _waiting(record: JobRecord) -> Waiting:
    return Waiting(record.job_id, record.client, record.run, alone=record.deaths > 0)
