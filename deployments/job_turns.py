"""Who works when: begins waiting jobs as soon as there is room, and ends work that is not wanted any more."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from deployments.job_queue import FairQueue, RunTimes, Waiting
from deployments.job_work import JobWork
from pipeline.errors import LeaseLost
from pipeline.jobs.records import JobRecord, JobView

logger = logging.getLogger("ray.serve")


class JobTurns:
    """The jobs that wait, and the tasks of those that run.

    Args:
        work: What is done with a job whose turn it is.
        max_running: Jobs worked on at once.
    """

    def __init__(self, work: JobWork, *, max_running: int) -> None:
        self._work = work
        self._max_running = max_running
        self._queue = FairQueue()
        self._times = RunTimes()
        self._running: dict[str, tuple[Waiting, asyncio.Task[JobRecord | None]]] = {}
        self._stopped = False

    def add(self, record: JobRecord, *, first: bool = False) -> None:
        """Lets the job's run wait for its turn; ``first`` as in ``FairQueue.add``."""
        if not self._stopped:
            self._queue.add(Waiting(record.job_id, record.client, record.run, alone=record.deaths > 0), first=first)
            self._begin_next()

    def view(self, record: JobRecord) -> JobView:
        """The job, with its place and its wait if it waits."""
        position = self._queue.position(record.job_id)
        if position is None:
            return JobView(record)
        return JobView(record, position, self._times.wait_s(position, self._max_running))

    async def end(self, job_id: str) -> None:
        """Takes a job out; returns when nothing works on it any more."""
        self._queue.remove(job_id)
        if job_id in self._running:
            _, task = self._running[job_id]
            task.cancel()
            await asyncio.wait([task])
        self._begin_next()

    def stop(self) -> None:
        """Stops all work, and begins no other."""
        self._stopped = True
        for _, task in self._running.values():
            task.cancel()

    async def wait_stopped(self) -> None:
        """Returns when all work has ended."""
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)

    def _begin_next(self) -> None:
        while not self._stopped and (waiting := self._queue.next()) is not None and self._has_room_for(waiting):
            self._queue.take()
            task = asyncio.create_task(self._work.run(waiting.job_id, waiting.run), name=f"job {waiting.job_id}")
            self._running[waiting.job_id] = waiting, task
            task.add_done_callback(partial(self._ended, waiting, asyncio.get_running_loop().time()))

    def _has_room_for(self, waiting: Waiting) -> bool:
        if waiting.alone or any(other.alone for other, _ in self._running.values()):
            return not self._running
        return len(self._running) < self._max_running

    def _ended(self, waiting: Waiting, begun: float, task: asyncio.Task[JobRecord | None]) -> None:
        del self._running[waiting.job_id]
        if not task.cancelled():
            failure = task.exception()
            if isinstance(failure, LeaseLost):
                logger.info("Job %s is left to the next owner of the jobs.", waiting.job_id)
            elif failure is not None:
                logger.error("Job %s is left for the next start.", waiting.job_id, exc_info=failure)
            elif (again := task.result()) is not None:
                self.add(again, first=True)
            else:
                self._times.add(asyncio.get_running_loop().time() - begun)
        self._begin_next()
