"""Jobs: tap objects of an uploaded photo, follow the work on them, end it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from deployments import strict_json
from deployments.callbacks.rules import CallbackRules
from deployments.clients import ClientDep
from deployments.error_docs import WORK_REFUSED, refusals
from deployments.idempotency import KeyHeader, segment_key
from deployments.job_links import LINKS
from deployments.job_prompts import MAX_OBJECTS, MAX_POINTS
from deployments.job_schemas import IN_QUERY, JobAccepted, JobDeleted, JobStatus, SegmentRequest
from deployments.parameters import EXAMPLE_JOB_ID, JOB_ID_PATTERN, JobId
from deployments.services import ServicesDep
from deployments.strict_json import StrictJsonRoute
from pipeline.errors import (
    CallbackRejected,
    ClearcutError,
    FileTooLarge,
    InvalidPoint,
    JobBusy,
    JobFinished,
    JobNotFound,
    KeyReused,
    Overloaded,
    StorageUnavailable,
    TooManyObjects,
    TooManyPoints,
)
from pipeline.jobs.records import JobObject

LONGEST_WAIT_S = 60

router = APIRouter(tags=["jobs"], route_class=StrictJsonRoute)

_UNKNOWN: dict[type[ClearcutError], str] = {
    JobNotFound: "Job not found",
    StorageUnavailable: "The server's storage does not answer. Try again.",
}


@router.post(
    "/segment",
    operation_id="segment",
    summary="job_id and coordinates_list: start work on the objects under the points.",
    response_model=JobAccepted,
    openapi_extra={"parameters": IN_QUERY},
    responses={
        200: {"description": "The work has begun, or waits for its turn.", "links": LINKS},
        **refusals(
            {
                **WORK_REFUSED,
                InvalidPoint: "Point (900, 10) of object 0 is outside the picture of 640x480 pixels.",
                TooManyObjects: f"At most {MAX_OBJECTS} objects a job.",
                TooManyPoints: f"At most {MAX_POINTS} points an object.",
                CallbackRejected: "callback_url names a host or port that is not allowed.",
                **_UNKNOWN,
                JobBusy: "This job is being processed. Wait until it is ready, then segment again.",
                FileTooLarge: "File size exceeds 1MB limit",
                KeyReused: "This Idempotency-Key was used for another request. Take a new key for a new request.",
                Overloaded: "Too many jobs are waiting. Try again later.",
            }
        ),
    },
)
async def segment(
    services: ServicesDep,
    client: ClientDep,
    body: SegmentRequest | None = None,
    job_id: Annotated[
        str | None,
        Query(
            description="The job; may stand in the body instead.",
            examples=[EXAMPLE_JOB_ID],
            json_schema_extra={"pattern": JOB_ID_PATTERN},
        ),
    ] = None,
    coordinates_list: Annotated[str | None, Query(include_in_schema=False)] = None,  # these two: IN_QUERY
    labels: Annotated[str | None, Query(include_in_schema=False)] = None,
    callback_url: Annotated[
        str | None, Query(description="As in the body.", json_schema_extra={"format": "uri"})
    ] = None,
    idempotency_key: KeyHeader = None,
) -> JobAccepted:
    """Starts work on the objects under the points. What the body leaves out may stand in the query.

    A job that has ended may be segmented again, from the same photo.
    """
    wanted = _merge(body, job_id, coordinates_list, labels, callback_url)
    if wanted.job_id is None:
        raise _invalid("job_id", "Field required, in the query or in the body.")
    objects = _objects(wanted)
    if wanted.callback_url is not None:
        CallbackRules.of(services.settings).check(wanted.callback_url)
    key = segment_key(idempotency_key, wanted.job_id, objects, wanted.callback_url, owner=client.key_id)
    await services.jobs.segment(wanted.job_id, objects, callback_url=wanted.callback_url, key=key)
    plural = "object" if len(objects) == 1 else "objects"
    return JobAccepted(job_id=wanted.job_id, status="processing", message=f"Segmenting {len(objects)} {plural}...")


@router.get(
    "/status/{job_id}",
    operation_id="job_status",
    summary="Progress, stage and the files that are ready; ?wait=30 waits for the job to end.",
    response_description="The job as it stands.",
    response_model=JobStatus,
    response_model_exclude_none=True,
    responses=refusals({**_UNKNOWN, Overloaded: "Too many waiting requests are open. Try again in a few seconds."}),
)
async def status(
    job_id: JobId,
    services: ServicesDep,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="Answer once the job is not processing, or after so many seconds."),
    ] = 0,
) -> JobStatus:
    """How far the job is, and what can be downloaded."""
    if not wait:
        return JobStatus.of_view(await services.jobs.get(job_id))
    with services.long_polls.seat():
        return JobStatus.of_view(await services.jobs.get(job_id, wait_s=wait))


@router.post(
    "/cancel/{job_id}",
    operation_id="cancel",
    summary="End the work on a job; its photo stays.",
    response_description="The job, canceled.",
    response_model=JobStatus,
    response_model_exclude_none=True,
    responses=refusals({**_UNKNOWN, JobFinished: "This job has ended already."}),
)
async def cancel(job_id: JobId, services: ServicesDep) -> JobStatus:
    """Ends the job's work and discards what it made; the photo stays, to be segmented again."""
    return JobStatus.of(await services.jobs.cancel(job_id))


@router.delete(
    "/cleanup/{job_id}",
    operation_id="cleanup",
    summary="Delete a job and all its files.",
    response_description="It is gone.",
    response_model=JobDeleted,
    responses=refusals(_UNKNOWN),
)
async def cleanup(job_id: JobId, services: ServicesDep) -> JobDeleted:
    """Ends the job and deletes everything it has."""
    await services.jobs.delete(job_id)
    return JobDeleted(job_id=job_id)


def _merge(
    body: SegmentRequest | None,
    job_id: str | None,
    coordinates_list: str | None,
    labels: str | None,
    callback_url: str | None,
) -> SegmentRequest:
    """The request with what the query says filled in where the body is silent."""
    values: dict[str, Any] = {"job_id": job_id, "callback_url": callback_url}
    for name, text in (("coordinates_list", coordinates_list), ("labels", labels)):
        if text is not None:
            try:
                values[name] = strict_json.loads(text)
            except ValueError:
                raise _invalid(name, "Not valid JSON.") from None
    if body is not None:
        values |= body.model_dump(exclude_none=True)
    try:
        return SegmentRequest.model_validate(values)
    except ValidationError as error:
        problems = [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise RequestValidationError(problems) from None


def _objects(wanted: SegmentRequest) -> tuple[JobObject, ...]:
    if wanted.coordinates_list is None:
        raise _invalid("coordinates_list", "Field required, in the body or in the query.")
    entries = wanted.coordinates_list
    labels: list[Any] = list(wanted.labels) if wanted.labels is not None else [None] * len(entries)
    if len(labels) != len(entries):
        raise _invalid("labels", "labels must nest exactly like coordinates_list.")
    objects = []
    for entry, entry_labels in zip(entries, labels, strict=True):
        points = entry if isinstance(entry, list) else [entry]
        if entry_labels is None:
            entry_labels = [1] * len(points)
        elif isinstance(entry, list) != isinstance(entry_labels, list):
            raise _invalid("labels", "labels must nest exactly like coordinates_list.")
        elif not isinstance(entry_labels, list):
            entry_labels = [entry_labels]
        if len(entry_labels) != len(points):
            raise _invalid("labels", "labels must nest exactly like coordinates_list.")
        objects.append(JobObject(tuple(points), tuple(entry_labels)))
    return tuple(objects)


def _invalid(field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", field), "msg": message, "input": None}])
