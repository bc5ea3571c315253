"""What the routes work with. In production it holds handles; in tests, whatever fits the protocols."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from deployments.clients import client_of
from deployments.latency import LatencySummary, LatencyWindow, Snapshot
from deployments.limits.visits import Limits
from deployments.model_status import ModelStatus
from deployments.owned_jobs import OwnedJobs, Owners
from deployments.seats import Seats
from pipeline.config import Settings
from pipeline.jobs.api_keys import ApiKey
from pipeline.jobs.artifacts import ArtifactStore
from pipeline.jobs.records import IdempotencyKey, JobEvent, JobObject, JobRecord, JobView
from pipeline.protocols import Matting

MAX_STREAMS = 60
MAX_LONG_POLLS = 60
"""Of the 200 requests that one ingress replica takes at once (``deployments/ingress.py``)."""


class Jobs(Protocol):
    """JobManager, as the routes see it. The methods answer and raise what ``JobScheduler``'s do."""

    async def reserve(
        self, job_id: str, *, client: str, size: int, key: IdempotencyKey | None = None, key_id: str | None = None
    ) -> JobRecord: ...

    async def create(self, job_id: str, *, width: int, height: int, size: int) -> JobRecord: ...

    async def discard(self, job_id: str) -> None: ...

    async def get(self, job_id: str, *, wait_s: float = 0) -> JobView: ...

    async def segment(
        self,
        job_id: str,
        objects: tuple[JobObject, ...],
        *,
        callback_url: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> JobRecord: ...

    async def cancel(self, job_id: str) -> JobRecord: ...

    async def events(self, job_id: str, *, after: int, wait_s: float) -> list[JobEvent]: ...

    async def file(self, job_id: str, name: str) -> str: ...

    async def delete(self, job_id: str) -> None: ...

    async def find_key(self, fingerprint: str) -> ApiKey | None: ...

    async def report_latency(self, replica: str, snapshot: Snapshot) -> LatencySummary: ...

    async def ready(self) -> bool: ...


@dataclass
class Services:
    """Everything one ingress replica has.

    Attributes:
        settings: Limits and folders.
        matting: The matting model.
        jobs: Who owns the jobs.
        artifacts: Where uploads go and downloads come from.
        model_status: Each model's state by deployment name; None for one that does not answer in time.
        latency: What this replica saw in the last hour.
        replica: This replica's name on the latency board.
        streams: Room for event streams, each of which holds a request open.
        long_polls: Likewise for requests that wait for a job.
        limits: How much work a client may ask for.
        owners: Whose jobs are, as far as it was asked.
    """

    settings: Settings
    matting: Matting
    jobs: Jobs
    artifacts: ArtifactStore
    model_status: Callable[[], Awaitable[Mapping[str, ModelStatus | None]]]
    latency: LatencyWindow = field(default_factory=LatencyWindow)
    replica: str = field(default_factory=lambda: uuid.uuid4().hex)
    streams: Seats = field(default_factory=lambda: Seats(MAX_STREAMS, "event streams"))
    long_polls: Seats = field(default_factory=lambda: Seats(MAX_LONG_POLLS, "waiting requests"))
    limits: Limits = field(default_factory=Limits)
    owners: Owners = field(default_factory=Owners)


def _services_of(request: Request) -> Services:
    """The services for whoever asks: every route sees the jobs of its client only."""
    services = cast(Services, request.app.state.services)
    return replace(services, jobs=OwnedJobs(services.jobs, client_of(request), services.owners))


ServicesDep = Annotated[Services, Depends(_services_of)]
