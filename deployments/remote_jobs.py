"""JobManager behind the ``Jobs`` protocol: when its replica is killed in mid-call, callers see seconds, not errors."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from ray.exceptions import ActorDiedError, ActorUnavailableError

from deployments.handles import Handle, call
from deployments.latency import LatencySummary, Snapshot
from pipeline.errors import JobFinished, JobNotFound, LeaseLost, Overloaded, ReplicaDied
from pipeline.jobs.api_keys import ApiKey
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView

CALL_TIMEOUT_S = 30.0
"""Longest wait for an answer, the start of a new replica included."""

RESTART_S = 20.0
"""How long a call whose replica went away is sent again: a new one needs about five seconds."""

WAIT_SLICE_S = 10.0
"""Longest wait within one call. A replica that shuts down lets its calls come to their end, and this is the longest."""

_PAUSE_S = 0.3

logger = logging.getLogger("ray.serve")


class RemoteJobs:
    """The JobManager deployment behind the ``Jobs`` protocol.

    Every call may be sent again after a replica's death, when nobody knows what became of the first: what starts
    something carries a key, and where the first call's success looks like an error to the second, that is told apart.
    """

    def __init__(self, handle: Handle, *, restart_s: float = RESTART_S) -> None:
        self._handle = handle
        self._restart_s = restart_s

    async def reserve(
        self, job_id: str, *, client: str, size: int, key: IdempotencyKey | None = None, key_id: str | None = None
    ) -> JobRecord:
        answer = await self._call("reserve", job_id, client, size, key or _own_key(), key_id)
        return cast(JobRecord, answer)

    async def create(self, job_id: str, *, width: int, height: int, size: int) -> JobRecord:
        return cast(JobRecord, await self._call("create", job_id, width, height, size))

    async def discard(self, job_id: str) -> None:
        await self._call("discard", job_id)

    async def get(self, job_id: str, *, wait_s: float = 0) -> JobView:
        deadline = time.monotonic() + wait_s
        while True:
            slice_s = _slice(deadline)
            view = cast(JobView, await self._call("get", job_id, slice_s, wait_s=slice_s))
            if view.record.state != "processing" or time.monotonic() >= deadline:
                return view

    async def segment(
        self,
        job_id: str,
        objects: tuple[JobObject, ...],
        *,
        callback_url: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> JobRecord:
        return cast(JobRecord, await self._call("segment", job_id, objects, callback_url, key or _own_key()))

    async def cancel(self, job_id: str) -> JobRecord:
        call = _Repeatable(self, "cancel", job_id)
        try:
            return cast(JobRecord, await call.answer())
        except JobFinished:
            if call.repeated:
                record = (await self.get(job_id)).record
                if record.state == "canceled":  # by the first of the two
                    return record
            raise

    async def events(self, job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
        deadline = time.monotonic() + wait_s
        while True:
            slice_s = _slice(deadline)
            events = cast("list[JobEvent]", await self._call("events", job_id, after, slice_s, wait_s=slice_s))
            if events or time.monotonic() >= deadline:
                return events

    async def file(self, job_id: str, name: str) -> str:
        return cast(str, await self._call("file", job_id, name))

    async def delete(self, job_id: str) -> None:
        call = _Repeatable(self, "delete", job_id)
        try:
            await call.answer()
        except JobNotFound:
            if not call.repeated:
                raise

    async def find_key(self, fingerprint: str) -> ApiKey | None:
        return cast("ApiKey | None", await self._call("find_key", fingerprint))

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        return cast(LatencySummary, await self._call("report_latency", replica, snapshot))

    async def ready(self) -> bool:
        return cast(bool, await self._call("ready"))

    async def _call(self, method: str, *arguments: object, wait_s: float = 0) -> object:
        return await _Repeatable(self, method, *arguments, wait_s=wait_s).answer()


class _Repeatable:
    """One question to JobManager, asked again while replicas come and go.

    Attributes:
        repeated: Whether it was asked more than once, so that the answer may be to the second time.
    """

    def __init__(self, jobs: RemoteJobs, method: str, *arguments: object, wait_s: float = 0) -> None:
        self._send: Callable[[], Any] = partial(jobs._handle.options(method_name=method).remote, *arguments)
        self._method = method
        self._restart_s = jobs._restart_s
        self._timeout_s = CALL_TIMEOUT_S + wait_s
        self.repeated = False

    async def answer(self) -> object:
        """The answer. Raises what the replica raised, or ``Overloaded`` if none came up in time."""
        deadline = time.monotonic() + self._restart_s
        while True:
            try:
                return await call(self._send, timeout_s=self._timeout_s, retry=False)
            except Overloaded as error:
                if not _is_gone(error) or time.monotonic() >= deadline:
                    raise
                logger.warning("JobManager went away during %s; asking its next replica.", self._method)
            self.repeated = True
            await asyncio.sleep(_PAUSE_S)


def _is_gone(error: Overloaded) -> bool:
    """Whether the replica that was asked will not answer again, so that the next one should be asked."""
    return isinstance(error, LeaseLost | ReplicaDied | ActorDiedError | ActorUnavailableError) or isinstance(
        error.__cause__, ActorDiedError | ActorUnavailableError
    )


def _own_key() -> IdempotencyKey:
    """A key for a request that came without: it makes the second sending of one and the same request harmless."""
    name = secrets.token_hex(16)
    return IdempotencyKey("once", name, name)


def _slice(deadline: float) -> float:
    return max(0.0, min(deadline - time.monotonic(), WAIT_SLICE_S))
