"""What happens to a job, as Server-Sent Events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from deployments.error_docs import refusals
from deployments.event_stream import ENDED, follow
from deployments.job_schemas import ArtifactEvent, JobStatus
from deployments.parameters import JobId
from deployments.services import ServicesDep
from pipeline.errors import ClearcutError, JobNotFound, Overloaded, StorageUnavailable
from pipeline.jobs.records import JobEvent, JobRecord

logger = logging.getLogger("ray.serve")

router = APIRouter(tags=["jobs"])

_EXAMPLE = """event: stage
data: {"job_id": "5f2b6c0e9d1a4b7c8e3f0a1b2c3d4e5f", "status": "processing", "stage": "inpainting", "progress": 40, ...}
id: 3

event: artifact
data: {..., "file": "inpainted_0.png", "url": "/download/5f2b6c0e9d1a4b7c8e3f0a1b2c3d4e5f/inpainted_0.png"}
id: 4

event: end
data: {..., "status": "ready", "progress": 100}
id: 5
"""

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events stage, artifact and end. Their data is the status document as it stood then; that of"
        " artifact has the file and its url too. A comment comes at least every 15 seconds.",
        "content": {"text/event-stream": {"example": _EXAMPLE}},
    },
    204: {"description": "The job has ended, and Last-Event-ID is its last event: do not reconnect."},
    **refusals(
        {
            JobNotFound: "Job not found",
            StorageUnavailable: "The server's storage does not answer. Try again.",
            Overloaded: "Too many event streams are open. Try again in a few seconds.",
        }
    ),
}


@dataclass(frozen=True)
class _Opened:
    """A stream that may begin."""

    record: JobRecord
    after: int


async def _open(
    job_id: JobId,
    services: ServicesDep,
    last_event_id: Annotated[
        int | None,
        Header(alias="Last-Event-ID", ge=0, lt=2**31, description="Go on after this event. EventSource sends it."),
    ] = None,
) -> AsyncIterator[_Opened]:
    # What can be refused is refused here: once the route below runs, its status is 200.
    with services.streams.seat():
        record = (await services.jobs.get(job_id)).record
        after = last_event_id or 0
        if last_event_id and record.state in ENDED and not await services.jobs.events(job_id, after=after, wait_s=0):
            raise HTTPException(204)
        yield _Opened(record, after)


@router.get(
    "/events/{job_id}",
    operation_id="job_events",
    summary="The same as Server-Sent Events: stage, artifact, end.",
    response_class=EventSourceResponse,
    responses=_RESPONSES,
)
async def events(
    request: Request, services: ServicesDep, opened: Annotated[_Opened, Depends(_open)]
) -> AsyncIterator[ServerSentEvent]:
    """Progress and files as they come, until the job has ended; a finished job's are told once more."""
    root = request.scope.get("root_path", "")
    try:
        async for event in follow(services.jobs, opened.record, after=opened.after):
            yield _told(event, root)
    except JobNotFound:
        return
    except (ClearcutError, TimeoutError) as error:
        logger.warning("An event stream of job %s ends early: %s", opened.record.job_id, error)


def _told(event: JobEvent, root: str) -> ServerSentEvent:
    record = event.record
    document: JobStatus
    if event.kind == "artifact":
        document = ArtifactEvent.of_file(record, event.name, f"{root}/download/{record.job_id}/{event.name}")
    else:
        document = JobStatus.of(record)
    return ServerSentEvent(raw_data=document.model_dump_json(exclude_none=True), event=event.kind, id=str(event.number))
