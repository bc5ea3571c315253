"""Jobs as one client sees them: those of another's API key do not exist."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from deployments.clients import Client
from deployments.latency import LatencySummary, Snapshot
from pipeline.errors import JobNotFound
from pipeline.jobs.api_keys import ApiKey
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView

if TYPE_CHECKING:
    from deployments.services import Jobs

MOST_REMEMBERED = 10_000


def require_owner(key_id: str | None, client: Client) -> None:
    """Returns if a job of ``key_id`` is this client's. Raises ``JobNotFound``, as for a job that never was.

    A job made without a key belongs to whoever knows its id.
    """
    if key_id is not None and key_id != client.key_id:
        raise JobNotFound("Job not found")


class Owners:
    """Whose the jobs are that were asked for lately: that never changes, so nobody need be asked twice."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._key_ids: OrderedDict[str, str | None] = OrderedDict()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._key_ids

    def __getitem__(self, job_id: str) -> str | None:
        return self._key_ids[job_id]

    def keep(self, record: JobRecord) -> None:
        """Remembers whose this job is."""
        self._key_ids[record.job_id] = record.key_id
        if len(self._key_ids) > self._most:
            self._key_ids.popitem(last=False)


class OwnedJobs:
    """JobManager for one client: ``Jobs``, of which every method that names a job asks first whose it is.

    Args:
        jobs: JobManager.
        client: Who asks.
        owners: What is known already.
    """

    def __init__(self, jobs: Jobs, client: Client, owners: Owners) -> None:
        self._jobs = jobs
        self._client = client
        self._owners = owners

    async def reserve(
        self, job_id: str, *, client: str, size: int, key: IdempotencyKey | None = None, key_id: str | None = None
    ) -> JobRecord:
        own = self._client.key_id
        record = await self._jobs.reserve(job_id, client=client, size=size, key=key, key_id=own)
        return self._seen(record)

    async def create(self, job_id: str, *, width: int, height: int, size: int) -> JobRecord:
        return await self._jobs.create(job_id, width=width, height=height, size=size)  # its reservation was ours

    async def discard(self, job_id: str) -> None:
        await self._jobs.discard(job_id)

    async def get(self, job_id: str, *, wait_s: float = 0) -> JobView:
        if wait_s:
            await self._require(job_id)
        view = await self._jobs.get(job_id, wait_s=wait_s)
        self._seen(view.record)
        return view

    async def segment(
        self,
        job_id: str,
        objects: tuple[JobObject, ...],
        *,
        callback_url: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> JobRecord:
        await self._require(job_id)
        return await self._jobs.segment(job_id, objects, callback_url=callback_url, key=key)

    async def cancel(self, job_id: str) -> JobRecord:
        await self._require(job_id)
        return await self._jobs.cancel(job_id)

    async def events(self, job_id: str, *, after: int, wait_s: float) -> list[JobEvent]:
        await self._require(job_id)
        return await self._jobs.events(job_id, after=after, wait_s=wait_s)

    async def file(self, job_id: str, name: str) -> str:
        await self._require(job_id)
        return await self._jobs.file(job_id, name)

    async def delete(self, job_id: str) -> None:
        await self._require(job_id)
        await self._jobs.delete(job_id)

    async def find_key(self, fingerprint: str) -> ApiKey | None:
        return await self._jobs.find_key(fingerprint)

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        return await self._jobs.report_latency(replica, snapshot)

    async def ready(self) -> bool:
        return await self._jobs.ready()

    async def _require(self, job_id: str) -> None:
        if job_id in self._owners:
            require_owner(self._owners[job_id], self._client)
        else:
            self._seen((await self._jobs.get(job_id)).record)

    def _seen(self, record: JobRecord) -> JobRecord:
        self._owners.keep(record)
        require_owner(record.key_id, self._client)
        return record
