"""What happens to a job, as it happens: followed through restarts of JobManager, until the job has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from deployments.services import Jobs
from pipeline.errors import ClearcutError, JobNotFound
from pipeline.jobs.records import JobEvent, JobRecord

ENDED = frozenset({"ready", "error", "canceled"})

WAIT_S = 20.0
"""One question to JobManager; a longer one would only hold its calls for longer."""

SHORTEST_ROUND_S = 1.0

OUTAGE_S = 60.0
"""How long JobManager may be away under a stream; after that the client has to come back."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


async def follow(jobs: Jobs, record: JobRecord, *, after: int) -> AsyncIterator[JobEvent]:
    """The events of a job with a higher number than ``after``, until the job has ended.

    Args:
        jobs: Who owns the jobs.
        record: The job as it is now.
        after: Number of the last event that is known; with 0 the story begins with the present run.

    Raises:
        JobNotFound: The job was deleted.
        ClearcutError, TimeoutError: JobManager was away for too long.
    """
    ended = record.state in ENDED
    clock = asyncio.get_running_loop().time
    while True:
        wait_s = 0 if ended else WAIT_S
        asked_at = clock()
        events = await _patiently(lambda: jobs.events(record.job_id, after=after, wait_s=wait_s))  # noqa: B023
        from_run = record.run if after == 0 else 0
        for event in events:
            after = event.number
            if event.record.run >= from_run:
                yield event
        if events:
            ended = False
            if events[-1].kind == "end":
                return
        elif ended:
            return
        else:
            # It may have ended since: then its last events are there to be read before we go.
            ended = (await _patiently(lambda: jobs.get(record.job_id))).record.state in ENDED
            await asyncio.sleep(asked_at + SHORTEST_ROUND_S - clock())  # JobManager may be too busy to let us wait


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, asked for again while JobManager restarts."""
    clock = asyncio.get_running_loop().time
    give_up_at, pause_s = clock() + OUTAGE_S, FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except JobNotFound:
            raise
        except (ClearcutError, TimeoutError) as error:
            if clock() + pause_s > give_up_at:
                raise
            logger.info("An event stream waits for JobManager (%s).", error)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
